"""`flover top`: shows the rows and iterations of a running server in the terminal."""

from __future__ import annotations

import argparse
from typing import Any

from flover.cli.flags import number
from flover.config import read_environment
from flover.errors import ConfigError

DEFAULT_URL = "http://127.0.0.1:8000"


def add(commands: Any) -> argparse.ArgumentParser:
    """The command's part of the parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "top",
        description="Show a running server live: sequences by row, iteration by iteration, batch size, queue, pages "
        "and time. q ends it. /dashboard shows the same in a browser.",
    )
    parser.add_argument("url", nargs="?", default=DEFAULT_URL, metavar="URL", help="the server (default: %(default)s)")
    parser.add_argument("--api-key", metavar="KEY", help="the server's key; also read from FLOVER_API_KEY")
    parser.add_argument("--once", action="store_true", help="print one screen as text and exit, also into a pipe")
    parser.add_argument(
        "--seconds", type=number, default=1.0, metavar="X", help="with --once: seconds to watch (default: %(default)g)"
    )
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Run until q or a signal."""
    from flover.cli.watch import print_once, show

    if not 0 < args.seconds <= 3600:
        raise ConfigError(f"--seconds must be above 0 and at most 3600, got {args.seconds:g}")
    api_key = args.api_key or read_environment().api_key
    if args.once:
        print_once(args.url, api_key, args.seconds)
    else:
        show(args.url, api_key)
    return 0
