"""The progress bar of loading weights, on stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, DownloadColumn, TextColumn

from flover.cli.terminal import stderr_progress


@contextmanager
def loading_bar(name: str) -> Iterator[Callable[[int, int], None]]:
    """Yields a function of (bytes done, total bytes); draws only on a terminal and clears itself at the end."""
    columns = (TextColumn("Loading {task.description}"), BarColumn(), DownloadColumn(binary_units=True))
    with stderr_progress(*columns) as bar:
        task = bar.add_task(name, total=None)

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield show
