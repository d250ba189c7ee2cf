"""`flover bench lora`. Prints a table, then one JSON line."""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flover.bench.presets import write_preset
from flover.cli.flags import add_settings, count, from_args
from flover.cli.models import add_model, resolve_model
from flover.cli.terminal import command_line
from flover.config import EngineConfig, one_engine
from flover.errors import ConfigError
from flover.progress import counting_bar

if TYPE_CHECKING:
    from flover.model.config import ModelConfig
    from flover.model.families import Family

DEFAULT_PRESET = "llama-213m"
_NUMBERS = ("rows", "rank", "rounds", "steps")


def add_lora(kinds: Any) -> None:
    """The parser of `flover bench lora`."""
    lora = kinds.add_parser(
        "lora",
        help="what an iteration costs with LoRA adapters",
        description="Run equal batches with different numbers of random adapters, in turns.",
    )
    add_model(lora, default=f"random weights of {DEFAULT_PRESET}")
    group = lora.add_argument_group("what to measure")
    group.add_argument("--rows", type=count, metavar="N", help="requests at once (default: 32)")
    group.add_argument("--adapters", nargs="+", type=count, metavar="N", help="numbers of adapters (default: 0 1 8 32)")
    group.add_argument("--rank", type=count, metavar="N", help="of every adapter (default: 8)")
    group.add_argument(
        "--adapter-dtype",
        choices=("bfloat16", "float16", "float32"),
        default="bfloat16",
        help="type of the files of adapters (default: %(default)s)",
    )
    group.add_argument("--rounds", type=count, metavar="N", help="batches of each number (default: 5)")
    group.add_argument("--steps", type=count, metavar="N", help="iterations of a batch (default: 24)")
    add_settings(lora, EngineConfig, skip=frozenset({"model"}))
    lora.set_defaults(run=_run_lora)


def _run_lora(args: argparse.Namespace) -> int:
    from rich.console import Console

    from flover.bench.report import json_line
    from flover.service.build import build_engine
    from flover_benchmarks.adapters import LoraOptions, lora_table, measure_adapters

    resolve_model(args)
    given = {name: getattr(args, name) for name in _NUMBERS if getattr(args, name) is not None}
    if args.adapters:
        given["adapters"] = tuple(dict.fromkeys((0, *args.adapters)))
    options = LoraOptions(adapter_dtype=args.adapter_dtype, **given)
    if not all(getattr(options, name) for name in _NUMBERS):
        raise ConfigError("flover bench lora needs --rows, --rank, --rounds and --steps above 0")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = dataclasses.replace(
            _with_model(from_args(args, EngineConfig), args, folder / "model"),
            enable_lora=True,
            max_loras=max(1, *options.adapters),
            max_lora_rank=options.rank,
            max_num_seqs=options.rows,
            target_itl_ms=0.0,
            skip_tokenizer_init=True,
        )
        one_engine(config)
        with counting_bar("batches", (options.rounds + 1) * len(options.adapters)) as ended:
            results = measure_adapters(
                config,
                options,
                folder,
                _describe,
                lambda own: build_engine(own, lambda done, total: None, time.perf_counter),
                ended,
            )
    shown = getattr(args, "model", None) or DEFAULT_PRESET
    title = f"{shown}: {options.rows} rows, adapters of rank {options.rank} on every linear"
    Console(highlight=False).print(lora_table(title, results))
    asked = {"model": shown, "dtype": config.dtype, "quantization": config.quantization, **dataclasses.asdict(options)}
    print(json_line("lora", command_line(), options=asked, results=[dataclasses.asdict(one) for one in results]))
    return 0


def _with_model(config: EngineConfig, args: argparse.Namespace, folder: Path) -> EngineConfig:
    """With random weights of a preset where no model is named."""
    if getattr(args, "model", None) is not None:
        return config
    write_preset(DEFAULT_PRESET, folder)
    return dataclasses.replace(config, model=str(folder), load_format="dummy")


def _describe(config: EngineConfig) -> tuple[Family, ModelConfig]:
    from flover.model.describe import describe_model
    from flover.model.shard import WHOLE

    described = describe_model(config, WHOLE)
    return described.family, described.config
