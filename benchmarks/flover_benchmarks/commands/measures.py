"""`flover bench kernels`, `accuracy` and `ranks`: benchmarks without a server. Print tables, then one JSON line."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Collection, Sequence
from typing import Any

from flover.bench.presets import PRESETS
from flover.cli.flags import add_settings, count, from_args, number
from flover.cli.models import add_model, resolve_model
from flover.cli.terminal import command_line, table_console
from flover.config import EngineConfig, one_engine
from flover.errors import ConfigError
from flover.memory.machine import compute_threads
from flover.progress import described_bar
from flover_benchmarks.options import (
    KERNEL_FORMATS,
    KERNEL_OPS,
    QUICK_ROWS,
    QUICK_SECONDS,
    ROWS,
    SECONDS,
    USUAL_KERNEL_FORMATS,
    AccuracyOptions,
    KernelOptions,
)

PIPE_WIDTH = 120
"""Columns of a table of formats where the output is no terminal."""
DEFAULT_PRESET = "llama-213m"
SHARED_ROWS, SHARED_STEPS = (1, 8, 32), 50
_ACCURACY_SETTINGS = {"revision", "download_dir", "load_format", "cpu_isa", "num_threads"}


def add_kernels(kinds: Any) -> None:
    """The parser of `flover bench kernels`."""
    kernels = kinds.add_parser(
        "kernels",
        help="speed of each op on a model's shapes, beside the machine's limits and torch",
        description="Measure the machine's limits, and every op on the shapes of a model. Loads no weights.",
    )
    add_model(kernels, default=f"the shapes of {DEFAULT_PRESET}")
    group = kernels.add_argument_group("what to measure")
    rows = ", ".join(map(str, ROWS))
    group.add_argument("--rows", nargs="+", type=count, metavar="N", help=f"rows of linears (default: {rows})")
    group.add_argument(
        "--formats",
        nargs="+",
        choices=KERNEL_FORMATS,
        help=f"formats of weights (default: {', '.join(USUAL_KERNEL_FORMATS)})",
    )
    group.add_argument("--ops", nargs="+", choices=KERNEL_OPS, help="default: all")
    group.add_argument("--threads", nargs="+", type=count, metavar="N", help="compute threads (default: usable cores)")
    group.add_argument("--cpu-isa", choices=("auto", "avx512_bf16", "avx512", "avx2", "portable"), default="auto")
    group.add_argument("--seconds", type=number, metavar="X", help=f"for each cell of a table (default: {SECONDS})")
    group.add_argument("--quick", action="store_true", help="under a minute: fewer rows, less time for each cell")
    kernels.set_defaults(run=_run_kernels)


def add_accuracy(kinds: Any) -> None:
    """The parser of `flover bench accuracy`."""
    accuracy = kinds.add_parser(
        "accuracy",
        help="perplexity and divergence of each format of weights and cache",
        description="Score a text with every format, and compare with float32 computed by plain torch. A model "
        "without heldout.txt, or with random weights, is compared on random token ids.",
    )
    add_model(accuracy)
    group = accuracy.add_argument_group("text")
    group.add_argument(
        "--text", metavar="FILE", help="text to score; lines with the end-of-text token separate documents"
    )
    group.add_argument("--max-tokens", type=count, metavar="N", help="default: what half a GiB of scores can hold")
    group.add_argument(
        "--formats", nargs="+", metavar="NAME", help="those to measure, as the table names them (default: all)"
    )
    group.add_argument("--context-len", type=count, metavar="N", default=AccuracyOptions().context_len)
    hidden = {item.name for item in dataclasses.fields(EngineConfig)} - _ACCURACY_SETTINGS
    add_settings(accuracy, EngineConfig, skip=frozenset(hidden))
    accuracy.set_defaults(run=_run_accuracy)


def add_ranks(kinds: Any) -> None:
    """The parser of `flover bench ranks`."""
    ranks = kinds.add_parser(
        "ranks",
        help="overhead of tensor parallelism (--tensor-parallel-size)",
        description="Measure an iteration on one rank and on several ranks of this machine, and its collectives and "
        "frames.",
    )
    add_model(ranks)
    group = ranks.add_argument_group("what to measure")
    rows = ", ".join(map(str, SHARED_ROWS))
    group.add_argument("--rows", nargs="+", type=count, metavar="N", help=f"generating rows (default: {rows})")
    group.add_argument("--steps", type=count, metavar="N", default=SHARED_STEPS, help="iterations of each width")
    add_settings(ranks, EngineConfig, skip=frozenset({"model"}))
    ranks.set_defaults(run=_run_ranks)


def _run_ranks(args: argparse.Namespace) -> int:
    from rich.console import Console

    from flover.bench.report import json_line
    from flover_benchmarks.sharing import measure_sharing, sharing_table

    resolve_model(args)
    config = from_args(args, EngineConfig)
    one_engine(config)
    rows, ranks = tuple(args.rows or SHARED_ROWS), config.tensor_parallel_size
    if ranks == 1 or 0 in rows or not args.steps:
        raise ConfigError("flover bench ranks needs --tensor-parallel-size above 1, and --rows and --steps above 0")
    with described_bar() as progress:
        results = measure_sharing(config, rows, args.steps, lambda done, total: progress(config.model, done, total))
    Console(highlight=False).print(sharing_table(f"{config.model} on {ranks} ranks of this machine", results))
    described = {"model": config.model, "ranks": ranks, "rows": rows, "steps": args.steps}
    facts = [dataclasses.asdict(result) for result in results]
    print(json_line("ranks", command_line(), options=described, results=facts))
    return 0


def kernel_options(args: argparse.Namespace) -> KernelOptions:
    """The options from the command line, with the defaults of a quick or a full run. Raises `ConfigError`."""
    seconds = args.seconds if args.seconds is not None else QUICK_SECONDS if args.quick else SECONDS
    if not 0 < seconds < float("inf"):
        raise ConfigError(f"--seconds must be more than 0, got {seconds:g}")
    for name in ("rows", "threads"):
        if 0 in (getattr(args, name) or ()):
            raise ConfigError(f"--{name} must be at least 1, got 0")
    return KernelOptions(
        rows=tuple(args.rows or (QUICK_ROWS if args.quick else ROWS)),
        formats=tuple(args.formats or USUAL_KERNEL_FORMATS),
        ops=tuple(args.ops or KERNEL_OPS),
        threads=tuple(args.threads or (compute_threads(None),)),
        cpu_isa=args.cpu_isa,
        seconds=seconds,
    )


def _run_kernels(args: argparse.Namespace) -> int:
    from rich.console import Console

    from flover.bench.report import json_line
    from flover.model.hf_config import read_config, read_model_directory
    from flover.model.locate import locate_model
    from flover_benchmarks.kernels.report import facts, floor_lines, tables
    from flover_benchmarks.kernels.run import measure_kernels

    options = kernel_options(args)
    resolve_model(args)
    name = getattr(args, "model", None)
    if name is None:
        _, model = read_config(PRESETS[DEFAULT_PRESET])
    else:
        _, model = read_model_directory(locate_model(name, weights=False))
    with described_bar() as progress:
        results = measure_kernels(model, options, progress)
    console = Console(highlight=False)
    for table in tables(results):
        console.print(table)
    print()
    for line in floor_lines(results):
        print(line)
    described = {"model": name or DEFAULT_PRESET, **dataclasses.asdict(options)}
    print(json_line("kernels", command_line(), options=described, **facts(results)))
    return 0


def _chosen(names: Sequence[str] | None, known: Collection[str]) -> Sequence[str]:
    """The formats to measure: those of --formats, by default all. Raises `ConfigError`."""
    for name in names or ():
        if name not in known:
            raise ConfigError(f"--formats: there is no {name} of this model; there are {', '.join(map(repr, known))}")
    return names or list(known)


def _run_accuracy(args: argparse.Namespace) -> int:
    from flover.bench.report import json_line
    from flover.model.hf_config import read_model
    from flover.model.locate import locate_model
    from flover.source import open_source
    from flover_benchmarks.accuracy import STORED_VARIANTS, VARIANTS, measure_accuracy
    from flover_benchmarks.accuracy_report import accuracy_facts, accuracy_table, limit_lines
    from flover_benchmarks.documents import find_documents
    from flover_benchmarks.recast import in_blocks

    resolve_model(args)
    config = from_args(args, EngineConfig)
    options = AccuracyOptions(args.text, args.max_tokens, args.context_len)
    dummy = config.load_format == "dummy"
    path = locate_model(config.model, config.revision, config.download_dir, weights=not dummy)
    source = open_source(path)
    _, model = read_model(source, source)
    known = {variant.name: variant for variant in (*(STORED_VARIANTS if in_blocks(source) else ()), *VARIANTS)}
    variants = [known[name] for name in _chosen(args.formats, known)]
    documents = find_documents(path, options, model.vocab_size, model.default_max_len, dummy)
    num_threads = compute_threads(config.num_threads)
    with described_bar() as progress:
        results = measure_accuracy(
            config, documents.ids, num_threads, progress, is_text=documents.is_text, variants=variants
        )
    scored = f"{documents.num_tokens:,} tokens of {documents.source}"
    table_console(PIPE_WIDTH).print(accuracy_table(f"{config.model} against float32: {scored}", results))
    for line in limit_lines(results):
        print(line)
    described = {"model": config.model, "load_format": config.load_format, **dataclasses.asdict(options)}
    print(json_line("accuracy", command_line(), options=described, results=accuracy_facts(results)))
    return 0
