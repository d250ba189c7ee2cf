"""Progress bars on stderr for loading and for long batches. They appear only when something takes a while."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

PATIENCE = 1.0
"""Seconds that a batch may take before a bar appears."""


@contextlib.contextmanager
def loading_bar(model: str) -> Iterator[Callable[[int, int], None]]:
    """Gives a function to call with (done, total) bytes of weights. Shown on a terminal only, and removed after."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"loading {model}", total=None)

        def update(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        yield update


class GenerationBar:
    """Counts finished requests of a batch and shows output tokens per second. `finished` is set by the owner."""

    def __init__(self, *, enabled: bool, total: int) -> None:
        self.finished = 0
        self._enabled = enabled and total > 1
        self._total = total
        self._num_tokens = 0
        self._started: float | None = None
        self._progress: Progress | None = None

    def advance(self, now: float, num_tokens: int) -> None:
        """After an iteration that brought `num_tokens`, at `now` seconds."""
        if not self._enabled:
            return
        self._num_tokens += num_tokens
        self._started = now if self._started is None else self._started
        seconds = now - self._started
        if self._progress is None and seconds >= PATIENCE:
            self._progress = self._make()
            self._progress.start()
        if self._progress is not None:
            rate = self._num_tokens / seconds
            self._progress.update(self._progress.task_ids[0], completed=self.finished, rate=f"{rate:.0f} tok/s")

    def _make(self) -> Progress:
        progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[rate]}"),
            console=Console(stderr=True),
        )
        progress.add_task("prompts", total=self._total, rate="")
        return progress

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()
