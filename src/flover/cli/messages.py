"""Reads chat messages from the terminal: editable lines and messages of several lines."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable

PROMPT, MORE = "> ", "... "
_QUOTES = '"""'


def line_reader() -> Callable[[str], str]:
    """A function that shows a prompt and reads a line, with editing and history if readline is available.

    With piped input no prompt is shown; if only the output is a pipe, it is shown on stderr.
    """
    if not sys.stdin.isatty():
        return lambda prompt: input()
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - `input` uses it from now on
    if sys.stdout.isatty():
        return input

    def read(prompt: str) -> str:
        print(prompt, end="", file=sys.stderr, flush=True)
        return input()

    return read


def read_message(read_line: Callable[[str], str]) -> str:
    """One message: a line, lines continued by a backslash, or the text between two lines of three quotes.

    Raises `EOFError` at the end of the input; an unfinished message before it is returned first.
    """
    line = read_line(PROMPT)
    if line.strip().startswith(_QUOTES):
        return _quoted(line.strip().removeprefix(_QUOTES), read_line)
    lines = [line]
    with contextlib.suppress(EOFError):
        while lines[-1].endswith("\\"):
            lines[-1] = lines[-1][:-1]
            lines.append(read_line(MORE))
    return "\n".join(lines).strip()


def _quoted(first: str, read_line: Callable[[str], str]) -> str:
    lines = [first] if first else []
    if first.endswith(_QUOTES):
        return first.removesuffix(_QUOTES).strip()
    with contextlib.suppress(EOFError):
        while True:
            line = read_line(MORE)
            if line.rstrip().endswith(_QUOTES):
                lines.append(line.rstrip().removesuffix(_QUOTES))
                break
            lines.append(line)
    return "\n".join(lines).strip("\n")
