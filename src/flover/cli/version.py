"""`flover version` and `flover --version`."""

from __future__ import annotations

import argparse
from typing import Any


def add(commands: Any) -> argparse.ArgumentParser:
    """The command's part of the parser."""
    parser: argparse.ArgumentParser = commands.add_parser("version", description="Print the version of Flover.")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Print the version."""
    print(f"flover {flover_version()}")
    return 0


def flover_version() -> str:
    """The installed version; "unknown" if flover is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("flover")
    except PackageNotFoundError:
        return "unknown"


class VersionAction(argparse.Action):
    """`--version`: looks the version up only when used."""

    def __call__(self, parser: argparse.ArgumentParser, *unused: Any) -> None:
        print(f"flover {flover_version()}")
        parser.exit()
