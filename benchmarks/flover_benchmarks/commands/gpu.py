"""`flover bench gpu`: what a step of real models costs on a GPU. Prints a table, then one JSON line."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING, Any

from flover.bench.presets import PRESETS
from flover.cli.flags import count
from flover.cli.terminal import command_line, table_console

if TYPE_CHECKING:
    from rich.table import Table

    from flover_benchmarks.gpu.floor import StepFloor
    from flover_benchmarks.gpu.machines import Gpu

MODELS = ("llama-3.2-1b", "llama-3-8b", "llama-13b", "gpt-j-6b")
ROWS, CONTEXTS = (1, 8, 32, 128, 256), (512, 4096)
PIPE_WIDTH = 120


def add_gpu(kinds: Any) -> None:
    """The parser of `flover bench gpu`."""
    parser = kinds.add_parser(
        "gpu",
        help="the least time of a step of real models on a named GPU",
        description="Estimate the floor of a generate step, from the bytes it reads and the operations it does, for a "
        "GPU by its data sheet. Runs nothing, and needs no GPU. Weights, keys and values are bfloat16.",
    )
    parser.add_argument("--gpu", default="H100-SXM", metavar="NAME", help="default: %(default)s")
    parser.add_argument("--models", nargs="+", choices=sorted(PRESETS), default=MODELS, help="presets")
    parser.add_argument("--rows", nargs="+", type=count, metavar="N", default=ROWS, help="sequences in a step")
    parser.add_argument(
        "--contexts", nargs="+", type=count, metavar="N", default=CONTEXTS, help="tokens of each sequence"
    )
    parser.set_defaults(run=_run_gpu)


def _run_gpu(args: argparse.Namespace) -> int:
    from flover.bench.report import json_line
    from flover.model.hf_config import read_config
    from flover_benchmarks.gpu.floor import model_bytes, step_floor
    from flover_benchmarks.gpu.machines import gpu_named

    gpu = gpu_named(args.gpu)
    console, results = table_console(PIPE_WIDTH), {}
    for model in args.models:
        _, config = read_config(PRESETS[model])
        found = [step_floor(config, gpu, rows, context) for context in args.contexts for rows in args.rows]
        console.print(_table(f"{model}: {model_bytes(config) / 1e9:.1f} GB", gpu, found))
        results[model] = [{**dataclasses.asdict(floor), "seconds": floor.seconds} for floor in found]
    print(json_line("gpu", command_line(), estimate=True, gpu=dataclasses.asdict(gpu), results=results))
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
