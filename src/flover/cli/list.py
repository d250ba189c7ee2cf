"""`flover list`: the models on this machine."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flover.cli.flags import add_settings
from flover.cli.parser import Parser
from flover.cli.pull import other_settings
from flover.config import BUNDLED_MODEL, EngineConfig


def add(commands: Any) -> Parser:
    """The command's part of the parser."""
    parser: Parser = commands.add_parser(
        "list", description="List the models on this machine: the bundled one and those of the hub's cache."
    )
    parser.add_argument("--json", action="store_true", help="print one JSON line instead of a table")
    add_settings(parser, EngineConfig, skip=other_settings(frozenset({"download_dir"})))
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Print a line for each model, and one for each download that was cut short."""
    from flover.hub.cache import partial_downloads

    given = getattr(args, "download_dir", None)
    cache = None if given is None else Path(given)
    models = [*_bundled(), *_cached(cache)]
    partial = list(partial_downloads(cache))
    if args.json:
        print(json.dumps({"models": models, "partial": [dataclasses.asdict(found) for found in partial]}))
        return 0
    rows = [(row["name"], row["format"], _size(row["num_bytes"]), _day(row["modified"])) for row in models]
    rows += [(found.repo, "partial download", _size(found.num_bytes), _day(found.modified)) for found in partial]
    lines = [("NAME", "FORMAT", "SIZE", "MODIFIED"), *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(4)]
    for name, kind, size, day in lines:
        print(f"{name:{widths[0]}}  {kind:{widths[1]}}  {size:>{widths[2]}}  {day}")
    return 0


def _bundled() -> Iterator[dict[str, Any]]:
    from flover.model.locate import BUNDLED_PATH

    files = [path.stat() for path in BUNDLED_PATH.glob("*.safetensors")]
    if files:
        yield {
            "name": BUNDLED_MODEL,
            "path": str(BUNDLED_PATH),
            "format": "safetensors",
            "num_bytes": sum(status.st_size for status in files),
            "modified": max(status.st_mtime for status in files),
        }


def _cached(cache: Path | None) -> Iterator[dict[str, Any]]:
    from flover.hub.cache import cached_models

    for found in cached_models(cache):
        yield dataclasses.asdict(found) | {"path": str(found.path)}


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.0f} MB"


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M")
