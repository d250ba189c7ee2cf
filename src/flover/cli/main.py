"""The `flover` command: which command runs, and what an error looks like from outside.

Exit codes: 0 done, 1 it failed, 2 it was asked for wrongly, 130 interrupted. A user's mistake is one line on stderr;
a traceback means a bug. Nothing here imports torch: `flover --help` answers at once.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from flover.cli.flags import Parser
from flover.config import spin_briefly
from flover.errors import ConfigError, FloverError, RequestError

COMMANDS = {
    "serve": "serve",
    "generate": "generate",
    "chat": "chat",
    "demo": "demo",
    "bench": "benchmarks",
    "simulate": "simulate",
    "doctor": "doctor",
    "selftest": "selftest",
    "replay": "replay",
    "top": "top",
}
"""By name, the module of `flover.cli` that brings the command."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    words = sys.argv[1:] if argv is None else argv
    parser = make_parser(words[0] if words else None)
    args = parser.parse_args(words)
    spin_briefly()
    try:
        return int(args.run(args))
    except (ConfigError, RequestError) as error:
        return _complain(args.prog, error, 2)
    except (FloverError, OSError) as error:
        return _complain(args.prog, error, 1)
    except KeyboardInterrupt:
        return 130


def make_parser(named: str | None = None) -> argparse.ArgumentParser:
    """The parser of all commands, or of the one that is named: a server need not wait for the imports of the others."""
    parser = Parser(prog="flover", description="Serve and run autoregressive language models with temporal fusion.")
    parser.add_argument("--version", action="version", version=f"flover {flover_version()}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=Parser)
    for name in [named] if named in COMMANDS else COMMANDS:
        added = importlib.import_module(f"flover.cli.{COMMANDS[name]}").add(commands)
        added.set_defaults(prog=added.prog)
    return parser


def flover_version() -> str:
    """The installed version; "unknown" when flover runs from files that were never installed."""
    try:
        return version("flover")
    except PackageNotFoundError:
        return "unknown"


def _complain(prog: str, error: BaseException, code: int) -> int:
    message = " ".join(str(error).split()) or type(error).__name__
    print(f"{prog}: error: {message}", file=sys.stderr)
    return code
