"""Progress bars on stderr. All but that of `LLM` are drawn only on a terminal, and removed in the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn, TaskID

PATIENCE_SECONDS = 1.0
"""How long a batch may take before its bar appears."""


def make_progress(*columns: ProgressColumn, console: Console | None = None, shown: bool = True) -> Progress:
    """A `rich` progress of these columns, on stderr unless `console` is given."""
    from rich.console import Console
    from rich.progress import Progress

    console = console or Console(stderr=True)
    hidden = not (shown and console.is_terminal)
    return Progress(*columns, console=console, transient=True, disable=hidden, refresh_per_second=4)


@contextmanager
def loading_bar(model: str, console: Console | None = None) -> Iterator[Callable[..., None]]:
    """Loading of weights, and what is made then. Gives a function of the bytes done and in all, or of what else a third
    argument says is counted."""
    if console is not None and not console.is_terminal:  # a server in the background starts without what draws
        yield lambda *progress: None
        return
    from rich.filesize import decimal
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn

    columns = (TextColumn("Loading {task.description}"), BarColumn(), TextColumn("{task.fields[amount]}"))
    with make_progress(*columns, TimeElapsedColumn(), console=console) as bar:
        task = bar.add_task(model, total=None, amount="")

        def show(done: int, total: int, counted: str = "") -> None:
            amount = f"{done}/{total} {counted}" if counted else f"{decimal(done)}/{decimal(total)}"
            bar.update(task, completed=done, total=total, amount=amount)

        yield show


@contextmanager
def download_bar(model: str) -> Iterator[Callable[[int, int], None]]:
    """A download, with its rate; where there is no terminal, one line when it begins. Gives a function of the bytes
    done and in all."""
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("Downloading {task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with make_progress(*columns, TimeRemainingColumn()) as bar:
        tasks: list[TaskID] = []

        def show(done: int, total: int) -> None:
            if not tasks:
                tasks.append(bar.add_task(model, total=total, completed=done))
                if not bar.console.is_terminal:
                    here = f", {done / 1e6:,.0f} MB are here" if done else ""
                    bar.console.print(f"Downloading {model}: {total / 1e6:,.0f} MB{here}", highlight=False)
            bar.update(tasks[0], completed=done, total=total)

        yield show


@contextmanager
def counting_bar(what: str, total: int, *, shown: bool = True) -> Iterator[Callable[..., None]]:
    """Things that are done one by one. Gives a function to call, with any arguments, when one more of `total` is."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with make_progress(*columns, shown=shown) as bar:
        task = bar.add_task(what, total=total)
        yield lambda *_: bar.advance(task)


@contextmanager
def described_bar(*more: ProgressColumn) -> Iterator[Callable[[str, int, int], None]]:
    """Steps of several kinds; `more` are further columns. Gives a function of what is done, how much, and in all."""
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn

    with make_progress(TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), *more) as bar:
        task = bar.add_task("", total=None)
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total)


class GenerationBar:
    """Counts the finished requests of a batch and shows output tokens per second, on a terminal or not, once the batch
    takes longer than `PATIENCE_SECONDS`. `finished` is set by the owner."""

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
        if self._progress is None and seconds >= PATIENCE_SECONDS:
            self._progress = self._make()
            self._progress.start()
        if self._progress is not None:
            rate = self._num_tokens / seconds
            self._progress.update(self._progress.task_ids[0], completed=self.finished, rate=f"{rate:.0f} tok/s")

    def _make(self) -> Progress:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

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
