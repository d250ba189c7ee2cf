"""The argument parser of all commands: one-line errors with the command's name and suggestions."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from flover.cli import config_file
from flover.errors import ConfigError, suggestion


class Parser(argparse.ArgumentParser):
    """A parser with one-line errors: the error, a suggestion and the --help of the command. Exit code 2.

    An unknown flag is refused before anything else is parsed, so that its value is never taken for another argument.
    The parsed namespace has the name of the command as `prog`.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, **kwargs)
        self.set_defaults(prog=self.prog)
        self.unavailable: str | None = None
        """Why the command cannot run here; whatever its arguments are, that is the error."""
        self.reads_config = False
        """Whether `--config FILE` is a flag of the command."""

    def add_config(self) -> None:
        """Add `--config FILE`."""
        self.add_argument(
            config_file.FLAG, metavar="FILE", help="YAML file of flags; those given beside it override it"
        )
        self.reads_config = True

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As argparse does, but unknown arguments are errors of this parser, not of its parent."""
        if self.unavailable is not None:
            raise ConfigError(f"{self.prog} {self.unavailable}")
        if args is not None and self.reads_config:
            try:
                args = config_file.expand(args, self.flags, self._flags_of_lists)
            except ConfigError as error:
                self.error(str(error))
        if args is not None:
            self._refuse_unknown_flags(args)
        found, rest = super().parse_known_args(args, namespace)
        if rest:
            flags = [argument for argument in rest if argument.startswith("-") and len(argument) > 1]
            self.error(self._unknown_flag(flags[0]) if flags else f"unexpected argument {shorten(rest[0])}")
        return found, rest

    def with_commands(self, name: str, title: str) -> Any:
        """The subparsers of this command; without a subcommand the help is printed."""
        self.set_defaults(run=self._show_help)
        return self.add_subparsers(title=title, metavar=name, parser_class=Parser)

    @property
    def flags(self) -> set[str]:
        """Every flag that the parser knows."""
        return set(self._option_string_actions)

    @property
    def _flags_of_lists(self) -> set[str]:
        """Those that take more than one value."""
        return {flag for flag, action in self._option_string_actions.items() if action.nargs in ("+", "*")}

    def _show_help(self, args: argparse.Namespace) -> int:
        self.print_help()
        return 0

    def _refuse_unknown_flags(self, arguments: Sequence[str]) -> None:
        """`arguments` are checked up to a bare `--`, and in a parser with commands up to the command."""
        for argument in arguments:
            if argument == "--" or (self._subparsers is not None and not argument.startswith("-")):
                return
            flag = argument.partition("=")[0]
            if argument.startswith("--") and " " not in flag and flag not in self.flags:
                self.error(self._unknown_flag(flag))

    def _unknown_flag(self, argument: str) -> str:
        flag = argument.partition("=")[0]
        known = [
            option
            for option, action in self._option_string_actions.items()
            if action.help != argparse.SUPPRESS and option.startswith("--")
        ]
        hint = suggestion(flag, known)
        if self._subparsers is not None and not hint:
            hint = f": only {' and '.join(known)} may come here; other flags come after the command"
        return f"unknown flag {shorten(flag)}{hint}"

    def _print_message(self, message: str, file: Any = None) -> None:
        """As argparse does, but a failed write raises."""
        if message:
            (file or sys.stderr).write(message)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """argparse's check, with a suggestion instead of a list of quoted choices."""
        if action.choices is None or value in action.choices:
            return
        choices = [str(choice) for choice in action.choices]
        raise argparse.ArgumentError(
            action, f"must be one of {', '.join(choices)}, got {shorten(value)}{suggestion(str(value), choices)}"
        )


def shorten(value: Any, most: int = 60) -> str:
    """A value for an error message: quoted, and truncated to `most` characters."""
    text = str(value)
    return repr(text if len(text) <= most else text[:most] + "…")
