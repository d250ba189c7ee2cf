"""Terminal helpers of all commands: progress on stderr, tables on stdout, the command line."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn


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


def stderr_progress(*columns: ProgressColumn) -> Progress:
    """A progress display on stderr, only if that is a terminal; clears itself at the end."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


@contextmanager
def progress_bar(*more: ProgressColumn) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar with description, elapsed time and `more` columns; yields a function of (description, done,
    total)."""
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn

    with stderr_progress(TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), *more) as bar:
        task = bar.add_task("", total=None)
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total)
