"""`flover bench`: benchmarks, each one command. Prints a table, then one JSON line."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import importlib
import shlex
from pathlib import Path
from typing import Any

from flover.bench.options import FusionOptions, InterferenceOptions
from flover.bench.presets import PRESETS, write_preset
from flover.bench.server import ServerProcess
from flover.cli import (
    offline_benchmarks,
    serving_benchmarks,
    speculation_benchmark,
    startup_benchmark,
    sweep_benchmark,
)
from flover.cli.files import check_output_dir
from flover.cli.flags import add_settings, count, from_args, given, number, to_flags
from flover.cli.models import add_model, resolve_model
from flover.cli.parser import Parser
from flover.cli.terminal import command_line
from flover.config import EngineConfig, flag_name
from flover.errors import ConfigError
from flover.extras import BENCHMARKS, NO_BENCHMARKS, benchmarks_installed

_MORE = {
    "accuracy": "how far a format's outputs are from float32's",
    "gpu": "the least time of a step of real models on a GPU",
    "kernels": "speed of each op on a model's shapes",
    "paper": "the experiments of the Flover paper",
    "ranks": "what a step costs on several ranks",
    "rivals": "other engines on the same tensors",
}
"""What the package of the other benchmarks adds: a server does not need it."""
SLACK = 1.5
"""Allowed ratio of the p99 inter-token gap to the target."""
_HELP = {
    "num_requests": "requests in each half",
    "prompt_len": "prompt tokens of each request",
    "output_len": "output tokens of each request",
    "num_streams": "generating streams",
    "stream_prompt_len": "prompt tokens of each stream",
    "long_prompt_len": "tokens of the long prompt",
    "long_output_len": "output tokens of the long prompt",
    "rounds": "long prompts to measure, after one warm-up",
    "pause": "seconds of undisturbed generation before each long prompt",
}


def add(commands: Any) -> Parser:
    """The command's part of the parser."""
    parser: Parser = commands.add_parser("bench", description="Measure Flover.")
    kinds = parser.with_commands("BENCHMARK", "benchmarks")
    fusion = kinds.add_parser(
        "fusion",
        help="requests all at once, compared with one after another",
        description="Start a server; send requests all at once, then as many one after another; compare.",
    )
    _add_server_benchmark(fusion, FusionOptions, _run_fusion)
    interference = kinds.add_parser(
        "interference",
        help="inter-token latency of streams while a long prompt is computed, with the time budget on and off",
        description="Start a server; start streams; send long prompts; measure the inter-token gaps of the streams.",
    )
    _add_server_benchmark(interference, InterferenceOptions, _run_interference)
    serving_benchmarks.add_serve(kinds)
    offline_benchmarks.add_latency(kinds)
    offline_benchmarks.add_throughput(kinds)
    speculation_benchmark.add_speculation(kinds)
    startup_benchmark.add_startup(kinds)
    sweep_benchmark.add_sweep(kinds)
    if benchmarks_installed():
        importlib.import_module(f"{BENCHMARKS}.commands").add(kinds)
    else:
        for name, text in _MORE.items():
            kinds.add_parser(name, help=f"{text} (not installed)").unavailable = NO_BENCHMARKS
    make = kinds.add_parser(
        "make-model",
        help="write the config.json of a benchmark model, to be run with --load-format dummy",
        description="Write a model directory without weights: run it with --load-format dummy --skip-tokenizer-init.",
    )
    make.add_argument("directory", type=Path, metavar="OUT")
    make.add_argument("--preset", choices=tuple(PRESETS), default="llama-213m")
    make.set_defaults(run=_make_model)
    return parser


def _add_server_benchmark(parser: argparse.ArgumentParser, options: type[Any], run: Any) -> None:
    add_model(parser)
    group = parser.add_argument_group("workload")
    for item in dataclasses.fields(options):
        name = "--workload-seed" if item.name == "seed" else flag_name(item.name)
        text = _HELP.get(item.name, "seed of the prompts")
        kind = number if isinstance(item.default, float) else count
        group.add_argument(
            name, dest=f"workload_{item.name}", type=kind, default=item.default, help=f"{text} (default: %(default)s)"
        )
    add_settings(parser, EngineConfig, skip=frozenset({"model"}))
    parser.set_defaults(run=run)


def _options(args: argparse.Namespace, options: type[Any]) -> Any:
    """The workload from the command line. Raises `ConfigError`."""
    values = {item.name: getattr(args, f"workload_{item.name}") for item in dataclasses.fields(options)}
    for name, value in values.items():
        least = 0 if name in ("seed", "pause") else 1
        if not least <= value < float("inf"):
            raise ConfigError(f"{flag_name(name)} must be at least {least}, got {value:g}")
    return options(**values)


def _run_fusion(args: argparse.Namespace) -> int:
    from rich.console import Console

    from flover.bench.fusion import measure_fusion
    from flover.bench.report import fusion_table, json_line, run_facts

    resolve_model(args)
    config, options = from_args(args, EngineConfig), _options(args, FusionOptions)
    with ServerProcess(to_flags(EngineConfig, given(args, EngineConfig))) as server:
        result = asyncio.run(measure_fusion(server.url, options))
    title = f"{config.model}: {options.num_requests} requests, {options.prompt_len} in, {options.output_len} out"
    Console().print(fusion_table(title, result))
    halves = {"fused": run_facts(result.fused), "serial": run_facts(result.serial), "ratio": result.ratio}
    print(json_line("fusion", command_line(), options=dataclasses.asdict(options), **halves))
    return 0


def _run_interference(args: argparse.Namespace) -> int:
    from rich.console import Console

    from flover.bench.interference import Interference, measure_interference
    from flover.bench.report import interference_facts, interference_table, json_line

    resolve_model(args)
    config, options = from_args(args, EngineConfig), _options(args, InterferenceOptions)
    results: dict[str, Interference] = {}
    for name, target in ((f"target {config.target_itl_ms:g} ms", config.target_itl_ms), ("budget off", 0.0)):
        flags = to_flags(EngineConfig, {**given(args, EngineConfig), "target_itl_ms": target})
        with ServerProcess(flags) as server:
            results[name] = asyncio.run(measure_interference(server.url, options))
    title = f"{config.model}: {options.num_streams} streams and a long prompt"
    Console().print(interference_table(title, results))
    on, off = results.values()
    limit = SLACK * config.target_itl_ms
    held = on.disturbed.p99 <= limit
    print(f"p99 gap with the budget on: {on.disturbed.p99:.1f} ms, limit {SLACK:g} x target = {limit:.1f} ms: ", end="")
    print("met" if held else "NOT met")
    facts = {"budget_on": interference_facts(on), "budget_off": interference_facts(off)}
    options_facts = {**dataclasses.asdict(options), "target_itl_ms": config.target_itl_ms}
    print(json_line("interference", command_line(), options=options_facts, **facts, limit_ms=limit, held=held))
    return 0


def _make_model(args: argparse.Namespace) -> int:
    check_output_dir("OUT", args.directory)
    write_preset(args.preset, args.directory)
    print(f"{args.directory / 'config.json'} written; run it with")
    print(f"  flover serve {shlex.quote(str(args.directory))} --load-format dummy --skip-tokenizer-init")
    return 0
