"""`flover bench offload`. Prints a table, then one JSON line."""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from pathlib import Path
from typing import Any

from flover.bench.presets import write_preset
from flover.cli.flags import add_settings, count, from_args
from flover.cli.models import add_model, resolve_model
from flover.cli.terminal import command_line
from flover.config import EngineConfig, one_engine
from flover.errors import ConfigError
from flover.progress import counting_bar

DEFAULT_PRESET = "llama-213m"


def add_offload(kinds: Any) -> None:
    """The parser of `flover bench offload`."""
    offload = kinds.add_parser(
        "offload",
        help="first tokens of a prompt that is computed, in the pool, or in the host tier",
        description="Ask for the first token of prompts whose keys and values are computed, in the pool or in a file.",
    )
    add_model(offload, default=f"random weights of {DEFAULT_PRESET}")
    group = offload.add_argument_group("what to measure")
    group.add_argument("--input-len", type=count, metavar="N", default=2000, help="tokens of a prompt (default: 2000)")
    group.add_argument("--rounds", type=count, metavar="N", default=5, help="prompts of each kind (default: 5)")
    sized = frozenset({"model", "kv_cache_memory_bytes", "kv_offload_bytes", "kv_offload_persistent"})
    add_settings(offload, EngineConfig, skip=sized)
    offload.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from rich.console import Console

    from flover.bench.report import json_line
    from flover.executor.detect import resolve_device
    from flover.model.describe import describe_model
    from flover.model.shard import WHOLE
    from flover_benchmarks.offload import measure_offload, offload_table

    resolve_model(args)
    if not args.input_len or not args.rounds:
        raise ConfigError("flover bench offload needs --input-len and --rounds above 0")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = dataclasses.replace(
            from_args(args, EngineConfig), target_itl_ms=0.0, skip_tokenizer_init=True, max_model_len=args.input_len + 2
        )
        if getattr(args, "model", None) is None:
            write_preset(DEFAULT_PRESET, folder / "model")
            config = dataclasses.replace(config, model=str(folder / "model"), load_format="dummy")
        one_engine(config)
        config = resolve_device(config)
        page_bytes = describe_model(config, WHOLE).page_bytes
        path = config.kv_offload_path or str(folder / "tier")
        with counting_bar("rounds", args.rounds + 1) as ended:
            results = measure_offload(config, path, args.input_len, args.rounds, page_bytes, ended)
    shown = getattr(args, "model", None) or DEFAULT_PRESET
    title = f"{shown}: a prompt of {args.input_len:,} tokens, pages of {page_bytes / 1e6:.2f} MB"
    Console(highlight=False).print(offload_table(title, results))
    asked = {"model": shown, "dtype": config.dtype, "input_len": args.input_len, "rounds": args.rounds}
    print(json_line("offload", command_line(), options=asked, results=[dataclasses.asdict(one) for one in results]))
    return 0
