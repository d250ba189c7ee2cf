"""`flover bench structured-outputs`. Prints a table, then one JSON line."""

from __future__ import annotations

import argparse
import dataclasses
import time
from typing import Any

from flover.cli.flags import add_settings, count, from_args
from flover.cli.models import add_model, fetch_first, resolve_model
from flover.cli.terminal import command_line
from flover.config import EngineConfig, one_engine
from flover.errors import ConfigError
from flover.progress import counting_bar


def add_structured_outputs(kinds: Any) -> None:
    """The parser of `flover bench structured-outputs`."""
    parser = kinds.add_parser(
        "structured-outputs",
        help="what an iteration costs when answers are constrained",
        description="Run equal batches, free and constrained in several ways, in turns.",
    )
    add_model(parser)
    group = parser.add_argument_group("what to measure")
    group.add_argument("--rows", type=count, metavar="N", default=32, help="requests at once (default: 32)")
    group.add_argument("--rounds", type=count, metavar="N", default=9, help="batches of each kind (default: 9)")
    group.add_argument("--steps", type=count, metavar="N", default=48, help="iterations of a batch (default: 48)")
    add_settings(parser, EngineConfig, skip=frozenset({"model"}))
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from rich.console import Console

    from flover.bench.report import json_line
    from flover.model.locate import locate_tokenizer
    from flover.service.build import build_engine
    from flover.text.tokenizer import Tokenizer
    from flover_benchmarks.structured_outputs import CONSTRAINTS, constraints_table, measure_constraints

    resolve_model(args)
    if args.rows < 1 or args.rounds < 1 or args.steps < 4:
        raise ConfigError("flover bench structured-outputs needs --rows and --rounds above 0, and --steps above 3")
    config = dataclasses.replace(from_args(args, EngineConfig), max_num_seqs=args.rows, target_itl_ms=0.0)
    one_engine(config)
    config = fetch_first(config)
    found = locate_tokenizer(config)
    if found is None:
        raise ConfigError("flover bench structured-outputs needs the model's tokenizer")
    tokenizer = Tokenizer.load(found)
    engine = build_engine(config, lambda done, total: None, time.perf_counter)
    try:
        with counting_bar("batches", (args.rounds + 1) * len(CONSTRAINTS)) as ended:
            results = measure_constraints(engine, tokenizer.vocabulary, args.rows, args.steps, args.rounds, ended)
    finally:
        engine.close()
    shown = getattr(args, "model", None) or config.model
    title = f"{shown}: {args.rows} rows, {tokenizer.vocab_size:,} tokens"
    Console(highlight=False).print(constraints_table(title, results))
    asked = {"model": shown, "rows": args.rows, "rounds": args.rounds, "steps": args.steps}
    results_json = [dataclasses.asdict(one) for one in results]
    print(json_line("structured-outputs", command_line(), options=asked, results=results_json))
    return 0
