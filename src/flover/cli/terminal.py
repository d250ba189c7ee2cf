"""What commands share of the terminal: tables on stdout, the command as it was typed."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def command_line() -> str:
    """The command as it was typed."""
    return shlex.join(["flover", *sys.argv[1:]])


def table_console(pipe_width: int) -> Console:
    """For tables: as wide as the terminal, and `pipe_width` columns where there is none."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = pipe_width
    return console
