"""Terminal helpers of all commands: tables on stdout, the command line."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def command_line() -> str:
    """The command line as typed."""
    return shlex.join(["flover", *sys.argv[1:]])


def table_console(pipe_width: int) -> Console:
    """A console for tables: as wide as the terminal, or `pipe_width` columns without one."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = pipe_width
    return console
