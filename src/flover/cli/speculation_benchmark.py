"""`flover bench speculation`: tokens per second with and without speculation, in one process."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from flover.bench.serving.offline_options import SpeculationOptions
from flover.cli.flags import add_settings, from_args, given
from flover.cli.models import add_model, resolve_model
from flover.cli.offline_benchmarks import finish
from flover.config import EngineConfig
from flover.progress import counting_bar

NGRAM = '{"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_min": 2, "prompt_lookup_max": 5}'
"""`--speculative-config` unless it is given."""


def add_speculation(kinds: Any) -> None:
    """The parser of `flover bench speculation`."""
    parser = kinds.add_parser(
        "speculation",
        help="tokens per second with and without speculation",
        description="Run the same batches with --speculative-config and without, in turns, in this process; compare "
        f"speed and answers. By default it is {NGRAM}.",
    )
    add_model(parser)
    add_settings(parser, SpeculationOptions)
    add_settings(parser, EngineConfig, skip=frozenset({"model"}))
    parser.set_defaults(run=_run_speculation)


def _run_speculation(args: argparse.Namespace) -> int:
    from rich.console import Console

    from flover.bench.speculation import ROWS, measure_speculation, speculation_table
    from flover.llm.llm import LLM

    resolve_model(args)
    options = from_args(args, SpeculationOptions)
    settings = {"speculative_config": NGRAM} | given(args, EngineConfig)
    config = EngineConfig(**settings)
    batches = 3 * len(ROWS) * (options.num_iters + 1)
    with (
        LLM(**(settings | {"speculative_config": None})) as plain,
        LLM(**settings) as speculating,
        counting_bar("pairs of batches", batches) as ended,
    ):
        results = measure_speculation(plain, speculating, options, config.seed or 0, ended)
    title = f"{config.model}: {config.speculative_config}"
    Console(highlight=False).print(speculation_table(title, results))
    asked = {"model": config.model, "speculative_config": config.speculative_config, **dataclasses.asdict(options)}
    return finish("speculation", asked, {"results": [dataclasses.asdict(one) for one in results]}, None)
