"""`flover bench startup`: seconds to ready and to the first token, cold and warm, and peak memory."""

from __future__ import annotations

import argparse
import dataclasses
import os
from typing import Any

from flover.bench.serving.offline_options import StartupOptions
from flover.cli.files import check_output
from flover.cli.flags import add_settings, from_args, given, to_flags
from flover.cli.models import add_model, resolve_model
from flover.cli.offline_benchmarks import finish
from flover.config import EngineConfig
from flover.errors import ConfigError
from flover.progress import counting_bar


def add_startup(kinds: Any) -> None:
    """The parser of `flover bench startup`."""
    parser = kinds.add_parser(
        "startup",
        help="startup time and peak memory of a server",
        description="Start servers, send each a request, and stop them; time the import of flover and its "
        "help. Needs /proc (Linux).",
    )
    add_model(parser)
    add_settings(parser, StartupOptions)
    add_settings(parser, EngineConfig, skip=frozenset({"model"}))
    parser.set_defaults(run=_run_startup)


def _run_startup(args: argparse.Namespace) -> int:
    from rich.console import Console

    from flover.bench.serving.memory import packed_bytes
    from flover.bench.serving.startup import measure_commands, measure_startup, weight_files
    from flover.bench.serving.startup_report import cold_note, startup_facts, startup_table, verdicts
    from flover.model.locate import locate_model

    if not hasattr(os, "posix_fadvise"):
        raise ConfigError("bench startup needs Linux: /proc and posix_fadvise")
    resolve_model(args)
    config, options = from_args(args, EngineConfig), from_args(args, StartupOptions)
    check_output("--output-json", options.output_json)
    flags = to_flags(EngineConfig, given(args, EngineConfig))
    dummy = config.load_format == "dummy"
    path = locate_model(config.model, config.revision, config.download_dir, weights=not dummy)
    files, packed = [] if dummy else weight_files(path), packed_bytes(config)
    nums = {"cold": options.num_iters_cold, "warm": options.num_iters_warm}
    commands = measure_commands()
    with counting_bar("starts", sum(nums.values())) as ended:
        kinds = {
            name: measure_startup(config, flags, files, num, cold=name == "cold", ended=ended)
            for name, num in nums.items()
        }
    Console(highlight=False).print(startup_table(f"{config.model}: starts of flover serve, medians", kinds))
    for verdict in verdicts(kinds, packed, commands):
        print(verdict)
    if note := cold_note(kinds, len(files)):
        print(note)
    asked = {"model": config.model, **dataclasses.asdict(options)}
    return finish("startup", asked, startup_facts(kinds, packed, commands), options.output_json)
