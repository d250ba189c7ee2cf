"""`flover bench paper`: the experiments of the Flover paper on this machine."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flover.bench.presets import PRESETS, write_preset
from flover.cli.files import check_output_dir
from flover.cli.flags import add_settings, count, from_args
from flover.cli.terminal import command_line, table_console
from flover.config import BUNDLED_MODEL, EngineConfig
from flover.errors import ConfigError
from flover.progress import make_progress
from flover_benchmarks.commands.rivals import add_places, places_of

NAMES = ("E1", "E2", "E3", "E4", "E5", "E6", "reordering", "E7", "E8")
MODELS = ("llama-213m", "gptj-164m", BUNDLED_MODEL)
OUTPUT = Path("flover-paper")
PRESET, E8_FORMAT = "llama-213m", "bfloat16"
PIPE_WIDTH = 140
"""Width of the tables without a terminal."""
_FIXED = frozenset({"model", "strategy", "reorder", "batch_window_ms", "enable_prefix_caching"})


def add(kinds: Any) -> None:
    """The parser of `flover bench paper`."""
    parser: argparse.ArgumentParser = kinds.add_parser(
        "paper",
        help="the experiments of the Flover paper, with its numbers beside ours",
        description="Repeat the paper's experiments: fusion against one request at a time, concurrent instances, "
        "static and dynamic batching, with and without buffer reordering, on the same kernels. Intervals are in units "
        "of the time that one request takes alone. Writes tables, figures, a report and JSON lines.",
    )
    add_experiment_flags(parser, OUTPUT)
    parser.add_argument(
        "--models",
        nargs="+",
        metavar="MODEL",
        help=f"directories, hub names or {', '.join(PRESETS)} (random weights); E1 runs on all of them, the "
        f"rest on the first (default: {' '.join(MODELS)}; with --quick {BUNDLED_MODEL})",
    )
    parser.add_argument("--quick", action="store_true", help="the bundled model, shorter requests: under 3 minutes")
    parser.add_argument("--all", action="store_true", help="all experiments, all models, full length: the default")
    add_places(parser)
    add_settings(parser, EngineConfig, skip=_FIXED)
    parser.set_defaults(run=_run)


def add_experiment_flags(parser: argparse.ArgumentParser, output: Path) -> None:
    """Flags for the choice of experiments, their size and the output directory."""
    group = parser.add_argument_group("experiments")
    group.add_argument("--experiments", nargs="+", choices=NAMES, metavar="NAME", help=f"of {', '.join(NAMES)}")
    group.add_argument("--output-len", type=count, metavar="N", help="tokens of a request")
    group.add_argument("--num-requests", type=count, metavar="N", help="most requests of a workload (default: 32)")
    group.add_argument("--instances", type=count, metavar="K", help="engine processes of the concurrent baseline")
    group.add_argument("--workload-seed", type=count, default=0, metavar="N", help="seed of lengths and arrivals")
    group.add_argument("--output-dir", type=Path, default=output, metavar="DIR", help="default: %(default)s")
    group.add_argument("--no-figures", action="store_true", help="no PNG files; needs no matplotlib")


def sized(scale: Any, args: argparse.Namespace) -> Any:
    """The scale with the values of the flags. Raises `ConfigError`."""
    for flag, least in (("output_len", 4), ("num_requests", 1), ("instances", 1)):
        value = getattr(args, flag)
        if value is not None and value < least:
            raise ConfigError(f"--{flag.replace('_', '-')} must be at least {least}, got {value}")
    changes: dict[str, Any] = {}
    for name in ("output_len", "instances"):
        if getattr(args, name) is not None:
            changes[name] = getattr(args, name)
    if args.num_requests is not None:
        changes["nums"] = (*(num for num in scale.nums if num < args.num_requests), args.num_requests)
    return dataclasses.replace(scale, **changes)


@contextmanager
def model_config(name: str, config: EngineConfig) -> Iterator[EngineConfig]:
    """The configuration for a model; a preset is written to a temporary directory."""
    if name not in PRESETS:
        yield dataclasses.replace(config, model=name)
        return
    with tempfile.TemporaryDirectory(prefix="flover-") as directory:
        path = Path(directory) / name
        write_preset(name, path)
        yield dataclasses.replace(config, model=str(path), load_format="dummy", skip_tokenizer_init=True)


@contextmanager
def status() -> Iterator[Callable[[str], None]]:
    """A status line on stderr with the current task and its time, if stderr is a terminal."""
    from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

    with make_progress(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()) as bar:
        task = bar.add_task("", total=None)
        yield lambda what: bar.update(task, description=what)


def _run(args: argparse.Namespace) -> int:
    from flover_benchmarks.paper import experiments
    from flover_benchmarks.paper.bench import Bench
    from flover_benchmarks.paper.processes import ProcessRunner
    from flover_benchmarks.paper.ranks import FULL_CASES, QUICK_CASES, tensor_parallel
    from flover_benchmarks.paper.reordering import cost

    if args.all and (args.quick or args.experiments):
        raise ConfigError("--all runs everything at full length; leave it out with --quick or --experiments")
    scale = sized(experiments.QUICK if args.quick else experiments.FULL, args)
    names = args.experiments or NAMES
    config = from_args(args, EngineConfig)
    models = args.models or ((BUNDLED_MODEL,) if args.quick else MODELS)
    with output(args, "paper", scale) as show, status() as progress:
        for index, model in enumerate(models):
            with model_config(model, config) as engine, ProcessRunner(engine, progress) as runner:
                bench = Bench(runner, scale, progress, Path(model).name, engine.block_size, args.workload_seed)
                chosen = [name for name in names if index == 0 or name == "E1"]
                known = [name for name in chosen if name in experiments.EXPERIMENTS]
                experiments.run_experiments(bench, known, functools.partial(show, bench.model))
                if "reordering" in chosen:
                    show(bench.model, cost(bench, scale.output_len * 8, max(scale.nums)))
                if "E7" in chosen:
                    show(bench.model, tensor_parallel(bench, QUICK_CASES if args.quick else FULL_CASES))
        if "E8" in names and not args.quick:
            show(PRESET, _other_engines(args, scale, progress))
    return 0


def _other_engines(args: argparse.Namespace, scale: Any, progress: Callable[[str], None]) -> Any:
    """Write a model for E8: other engines need the weights in files."""
    from flover.bench.machine import cpu_facts, package_version
    from flover.memory.machine import compute_threads
    from flover.model.hf_config import read_model_directory
    from flover_benchmarks.paper.engines import NUMS, other_engines
    from flover_benchmarks.rivals.engines import Files, Flover, RivalMachine
    from flover_benchmarks.rivals.find import find_rivals
    from flover_benchmarks.rivals.model import make_model
    from flover_benchmarks.rivals.options import RivalOptions

    machine = RivalMachine(compute_threads(getattr(args, "num_threads", None)), frozenset(cpu_facts()["flags"]))
    with tempfile.TemporaryDirectory(prefix="flover-") as directory:
        source = make_model(PRESET, Path(directory), lambda what, done, total: progress(f"{what} ({done}/{total})"))
        _, model = read_model_directory(source)
        files = Files(source, model, Path(directory))
        options = RivalOptions(formats=(E8_FORMAT,), concurrency=NUMS)
        found = find_rivals(places_of(args), options, files, machine)
        contenders = [Flover(files, package_version("flover")), *found.rivals]
        result = other_engines(contenders, E8_FORMAT, NUMS, scale.output_len, model.vocab_size, progress)
    skipped = tuple(f"{name} was left out: {why}" for name, why in found.skipped.items())
    return dataclasses.replace(result, remarks=(*result.remarks, *skipped))


@contextmanager
def output(args: argparse.Namespace, benchmark: str, scale: Any) -> Iterator[Callable[[str, Any], None]]:
    """Prints each result when it is ready, and writes the report at the end, also of partial results after an error."""
    from flover_benchmarks.paper import report

    check_output_dir("--output-dir", args.output_dir)
    figures = not args.no_figures
    if figures:
        report.check_can_draw()
    console, results, lines = table_console(PIPE_WIDTH), [], []

    def show(model: str, result: Any) -> None:
        for table in result.tables:
            console.print(report.rich_table(result.title, table))
        for remark in result.remarks:
            console.print(remark)
        results.append(result)
        lines.append(report.line(benchmark, result, command_line(), model, dataclasses.asdict(scale)))

    try:
        yield show
    finally:
        if results:
            report.write(results, lines, args.output_dir, command_line(), figures=figures)
            print(f"Report, figures and JSON lines are in {args.output_dir}")
            for line in lines:
                print(line)
