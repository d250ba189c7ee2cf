"""The parser of all commands: its errors are one line under the name of the command that is at fault, and suggest."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """A parser whose error is one line: what is wrong, what may be meant, and where to read more. Exit code 2.

    A flag that the command does not have is refused before anything else is read, so that its value is never taken
    for an argument of another name. What was parsed has the name of the command as `prog`.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, **kwargs)
        self.set_defaults(prog=self.prog)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As argparse does it, but what is not known is an error of this parser, not of the one above it."""
        if args is not None:
            self._refuse_unknown_flags(args)
        found, rest = super().parse_known_args(args, namespace)
        if rest:
            flags = [word for word in rest if word.startswith("-") and len(word) > 1]
            self.error(self._unknown_flag(flags[0]) if flags else f"unexpected argument {shorten(rest[0])}")
        return found, rest

    def with_commands(self, name: str, title: str) -> Any:
        """Where the commands below this one are added; where none is named, the help is printed."""
        self.set_defaults(run=self._show_help)
        return self.add_subparsers(title=title, metavar=name, parser_class=Parser)

    @property
    def flags(self) -> set[str]:
        """Every flag that the parser knows."""
        return set(self._option_string_actions)

    def _show_help(self, args: argparse.Namespace) -> int:
        self.print_help()
        return 0

    def _refuse_unknown_flags(self, words: Sequence[str]) -> None:
        """`words` are looked at up to a bare `--`, and in a parser with commands up to the command."""
        for word in words:
            if word == "--" or (self._subparsers is not None and not word.startswith("-")):
                return
            flag = word.partition("=")[0]
            if word.startswith("--") and " " not in flag and flag not in self.flags:
                self.error(self._unknown_flag(flag))

    def _unknown_flag(self, word: str) -> str:
        flag = word.partition("=")[0]
        known = [
            option
            for option, action in self._option_string_actions.items()
            if action.help != argparse.SUPPRESS and option.startswith("--")
        ]
        hint = suggestion(flag, known)
        if self._subparsers is not None and not hint:
            hint = f": only {' and '.join(known)} may stand here; other flags come after the command"
        return f"unknown flag {shorten(flag)}{hint}"

    def _print_message(self, message: str, file: Any = None) -> None:
        """As argparse does it, without keeping silent where it cannot be written."""
        if message:
            (file or sys.stderr).write(message)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """argparse's own check, with a suggestion in the place of a list of quoted words."""
        if action.choices is None or value in action.choices:
            return
        choices = [str(choice) for choice in action.choices]
        raise argparse.ArgumentError(
            action, f"must be one of {', '.join(choices)}, got {shorten(value)}{suggestion(str(value), choices)}"
        )


def suggestion(word: str, known: Iterable[str]) -> str:
    """`; did you mean …?` for the known words that are like `word`; "" if none is."""
    near = difflib.get_close_matches(word, sorted(known), n=2, cutoff=0.7)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def shorten(value: Any, most: int = 60) -> str:
    """A value as an error shows it: quoted, and cut if it is long."""
    text = str(value)
    return repr(text if len(text) <= most else text[:most] + "…")
