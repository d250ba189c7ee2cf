"""The `flover` command: runs one subcommand and reports errors.

Exit codes: 0 success, 1 failure, 2 wrong arguments, 130 interrupted, 141 output closed by its reader. A user error is
one line on stderr; a traceback means a bug. Only the subcommand that runs is imported.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
from collections.abc import Sequence
from typing import IO

from flover.cli.interrupt import INTERRUPTED, raise_from_here
from flover.cli.parser import Parser
from flover.cli.version import VersionAction
from flover.errors import ConfigError, FloverError, RequestError
from flover.extras import BENCHMARKS, NO_BENCHMARKS, benchmarks_installed

COMMANDS = {
    "serve": ("serve", "run the OpenAI-compatible server"),
    "generate": ("generate", "generate text for one or several prompts"),
    "chat": ("chat", "chat with a model"),
    "run": ("run", "download a model and chat with it"),
    "pull": ("pull", "download a model"),
    "run-batch": ("run_batch", "answer a file of requests"),
    "list": ("list", "list the models on this machine"),
    "show": ("show", "show a model: family, size, formats, context, whether it fits"),
    "demo": ("demo", "show requests fused, then one after another"),
    "bench": ("benchmarks", "measure"),
    "simulate": (
        f"{BENCHMARKS}.commands.simulate",
        "simulate the scheduler: other machines, many replicas",
    ),
    "doctor": ("doctor", "show this machine and whether a model fits"),
    "selftest": ("selftest", "check that outputs do not depend on the batch"),
    "replay": ("replay", "run a recorded schedule again and compare"),
    "top": ("top", "watch a running server: rows over iterations"),
    "version": ("version", "print the version"),
}
"""By command: its module, in `flover.cli` unless it has a package, and its help text."""
READER_GONE = 141
"""128 + SIGPIPE, as shells report programs ended by it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        _replace_what_cannot_be_encoded()
        return _flushed(_run(arguments))
    except SystemExit as end:  # --help, a wrong argument
        return _flushed(_exit_code(end))
    except BrokenPipeError:
        _forget(sys.stdout)
        return READER_GONE
    except KeyboardInterrupt:
        return INTERRUPTED


def _run(arguments: Sequence[str]) -> int:
    prog = "flover"
    try:
        args = make_parser(arguments[0] if arguments else None).parse_args(arguments)
        prog = args.prog
        raise_from_here()
        from flover.config import spin_briefly

        spin_briefly()
        code = int(args.run(args))
        if sys.stdout is not None:
            sys.stdout.flush()  # here, so that an error names the command
        return code
    except BrokenPipeError:
        raise
    except (ConfigError, RequestError) as error:
        return _complain(prog, error, 2)
    except (FloverError, OSError) as error:
        return _complain(prog, error, 1)


def make_parser(named: str | None = None) -> argparse.ArgumentParser:
    """The parser of the command `named`; for any other name one that lists all commands.

    Only the module of `named` is imported.
    """
    parser = Parser(prog="flover", description="Serve and run autoregressive language models with temporal fusion.")
    parser.add_argument("--version", action=VersionAction, nargs=0, help="print the version")
    commands = parser.with_commands("COMMAND", "commands")
    if named in COMMANDS:
        module, text = COMMANDS[named]
        if not module.startswith(BENCHMARKS):
            importlib.import_module(f"flover.cli.{module}").add(commands)
        elif benchmarks_installed():
            importlib.import_module(module).add(commands)
        else:
            commands.add_parser(named, help=text).unavailable = NO_BENCHMARKS
    else:
        for name, (_, text) in COMMANDS.items():
            commands.add_parser(name, help=text)
    return parser


def _complain(prog: str, error: BaseException, code: int) -> int:
    message = str(error)
    if isinstance(error, OSError) and error.strerror:
        message = f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    message = " ".join(message.split()) or type(error).__name__
    print(f"{prog}: error: {message}", file=sys.stderr)
    return code


def _replace_what_cannot_be_encoded() -> None:
    """Escape characters that the terminal's encoding lacks, and replace undecodable input, instead of failing."""
    for stream in (sys.stdin, sys.stdout):
        with contextlib.suppress(AttributeError, ValueError):  # closed, or replaced by another object
            stream.reconfigure(errors="replace" if stream is sys.stdin else "backslashreplace")  # type: ignore[union-attr]


def _exit_code(end: SystemExit) -> int:
    if isinstance(end.code, str):
        print(end.code, file=sys.stderr)
        return 1
    return end.code or 0


def _flushed(code: int) -> int:
    """Flush stdout and return `code`, or another code if that fails."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        _forget(sys.stdout)
        return READER_GONE
    except OSError as error:
        _forget(sys.stdout)
        if code == 0:
            return _complain("flover", OSError(error.errno, error.strerror, "standard output"), 1)
    return code


def _forget(stream: IO[str]) -> None:
    """Redirect `stream` to the null device: the interpreter flushes it again at exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
