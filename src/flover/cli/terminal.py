"""What commands share of the terminal: progress on stderr, tables on stdout, the command as it was typed."""

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
    """The command as it was typed."""
    return shlex.join(["flover", *sys.argv[1:]])


def table_console(pipe_width: int) -> Console:
    """For tables: as wide as the terminal, and `pipe_width` columns where there is none."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = pipe_width
    return console


def stderr_progress(*columns: ProgressColumn) -> Progress:
    """Progress that draws only where stderr is a terminal, never mixes with an answer and leaves nothing behind."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


@contextmanager
def progress_bar(*more: ProgressColumn) -> Iterator[Callable[[str, int, int], None]]:
    """A described bar with the time it has taken, and `more` columns; yields what to call with a description and how
    far it is: done, in all."""
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn

    with stderr_progress(TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), *more) as bar:
        task = bar.add_task("", total=None)
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total)
