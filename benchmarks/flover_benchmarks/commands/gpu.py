"""`flover bench gpu`: what steps and strategies cost on this machine's GPU, or the floor of a step on a named one.

Progress goes to stderr. Each part prints a line of JSON when it ends, tables come last.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from typing import TYPE_CHECKING, Any

from flover.bench.presets import PRESETS
from flover.cli.flags import count, number
from flover.cli.terminal import command_line, table_console
from flover.errors import ConfigError
from flover_benchmarks.gpu.parts import CONTEXTS, FULL, INTERPRETED, MODELS, QUICK, ROWS, TINY, all_parts

if TYPE_CHECKING:
    from rich.table import Table

    from flover_benchmarks.gpu.floor import StepFloor
    from flover_benchmarks.gpu.machines import Gpu
    from flover_benchmarks.gpu.run import PartResult

PIPE_WIDTH = 120


def add_gpu(kinds: Any) -> None:
    """The parser of `flover bench gpu`."""
    parser = kinds.add_parser(
        "gpu",
        help="steps and strategies on this machine's GPU, or the floor of a step on a named one",
        description="Measure the GPU of this machine with random weights at real shapes: parity on small models, copy "
        "and product, generate steps, the paper's E1 and E6, transformers' generate_batch. Needs torch, triton "
        "and msgspec, and no compiled kernels. Every part is a process of its own with a share of the budget, and "
        "says what it left out. With --estimate nothing runs.",
    )
    parser.add_argument("--models", nargs="+", choices=sorted((*PRESETS, *TINY)), metavar="NAME", help="presets")
    parser.add_argument("--rows", nargs="+", type=count, metavar="N", help="sequences in a step")
    parser.add_argument("--contexts", nargs="+", type=count, metavar="N", help="tokens of each sequence")
    parser.add_argument("--quick", action="store_true", help="a minute: one model, fewer steps, E1 alone")
    parser.add_argument("--budget", type=number, metavar="X", help=f"seconds in all (default: {FULL.budget:g})")
    parser.add_argument(
        "--device",
        choices=("cuda", "cpu"),
        default="cuda",
        help="cpu: try this benchmark without a GPU, on small models; set TRITON_INTERPRET=1",
    )
    parser.add_argument("--estimate", action="store_true", help="the floor of each step by a data sheet; needs no GPU")
    parser.add_argument("--gpu", metavar="NAME", help="with --estimate: h100, h200, a100, rtx4090, … (default: h100)")
    parser.set_defaults(run=_run_gpu)


def _run_gpu(args: argparse.Namespace) -> int:
    for name in ("rows", "contexts"):
        if 0 in (getattr(args, name) or ()):
            raise ConfigError(f"--{name} must be at least 1, got 0")
    if args.estimate:
        return _estimate(args)
    if args.gpu is not None:
        raise ConfigError("--gpu names a GPU that is not here: it needs --estimate")
    return _measure(args)


def _measure(args: argparse.Namespace) -> int:
    """0 if every part has ended well."""
    from flover.extras import need
    from flover_benchmarks.gpu.report import tables
    from flover_benchmarks.gpu.run import run_parts
    from flover_benchmarks.paper.report import markdown_table

    for module in ("torch", "triton", "msgspec"):
        need(module, "cuda", "flover bench gpu")
    fake = args.device == "cpu"
    sizes = INTERPRETED if fake else QUICK if args.quick else FULL
    chosen: dict[str, Any] = {name: tuple(getattr(args, name)) for name in ("rows", "contexts") if getattr(args, name)}
    sizes = dataclasses.replace(sizes, **chosen, **({} if args.budget is None else {"budget": args.budget}))
    if not 0 < sizes.budget < float("inf"):
        raise ConfigError(f"--budget must be more than 0, got {sizes.budget:g}")
    parts = all_parts(tuple(args.models or (TINY if fake else MODELS)), args.device, sizes, args.quick)
    results = run_parts(parts, sizes.budget, time.perf_counter, _say, _print_line)
    for table in tables(results):
        print(f"\n{table.title}\n\n{markdown_table(table)}")
    return int(any(one.error is not None for one in results))


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def _print_line(result: PartResult) -> None:
    from flover.bench.report import json_line

    print(json_line("gpu", command_line(), **result.facts()), flush=True)


def _estimate(args: argparse.Namespace) -> int:
    from flover.bench.report import json_line
    from flover.model.hf_config import read_config
    from flover_benchmarks.gpu.floor import model_bytes, step_floor
    from flover_benchmarks.gpu.machines import gpu_named
    from flover_benchmarks.gpu.parts import SHAPES

    gpu, drawn, results = gpu_named(args.gpu or "h100"), [], {}
    for model in args.models or MODELS:
        _, config = read_config(SHAPES[model])
        sizes = [(rows, context) for context in args.contexts or CONTEXTS for rows in args.rows or ROWS]
        found = [step_floor(config, gpu, *size) for size in sizes]
        drawn.append(_table(f"{model}: {model_bytes(config) / 1e9:.1f} GB", gpu, found))
        results[model] = [{**dataclasses.asdict(floor), "seconds": floor.seconds} for floor in found]
    print(json_line("gpu", command_line(), estimate=True, gpu=dataclasses.asdict(gpu), results=results))
    console = table_console(PIPE_WIDTH)
    for table in drawn:
        console.print(table)
    return 0


def _table(model: str, gpu: Gpu, found: list[StepFloor]) -> Table:
    from rich.table import Table

    table = Table(title=f"{model} on {gpu.name}, estimated from its data sheet", title_justify="left")
    for column in ("context", "sequences", "weights, ms", "keys and values, ms", "step, ms", "tokens/s", "fits"):
        table.add_column(column, justify="right")
    for floor in found:
        times = (floor.linear_seconds, floor.attention_seconds, floor.seconds)
        fits = floor.weight_bytes + floor.kv_bytes < gpu.memory
        milliseconds = (f"{seconds * 1e3:.2f}" for seconds in times)
        throughput = f"{floor.tokens_per_second:,.0f}"
        table.add_row(str(floor.context), str(floor.rows), *milliseconds, throughput, "yes" if fits else "no")
    return table
