"""The log of a server: one line per record on stderr, written by a thread of its own, so that a terminal or pipe which
takes nothing never holds up the event loop.

No record can bring a line break or control characters into the log, whatever a client sends. Of exceptions that are not
Flover's own only type and line are written: their messages may hold what a client wrote.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import sys
import threading
import traceback
from collections.abc import Iterator
from logging.handlers import QueueHandler
from types import TracebackType
from typing import Any, TextIO

from flover.errors import FloverError, RequestError

MAX_WAITING_RECORDS = 10_000
"""Records that may wait for a slow terminal; further ones are dropped and counted."""
MAX_TEXT = 100
"""Characters of a client's own text in one line."""
FLUSH_SECONDS = 1.0
FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


def printable(text: str, most: int | None = None) -> str:
    """`text` without line breaks, control characters and lone surrogates, which are escaped as in Python, and cut after
    `most` characters."""
    cut = text if most is None or len(text) <= most else text[:most] + "…"
    if cut.isprintable():
        return cut
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in cut)


class LineFormatter(logging.Formatter):
    """One line per record, and an indented traceback after it."""

    def format(self, record: logging.LogRecord) -> str:
        """The line and the traceback."""
        if record.exc_info:
            record.exc_text = None  # as another formatter may have written it
        return super().format(record)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's name
        """The line."""
        return printable(super().formatMessage(record))

    def formatException(self, ei: _ExcInfo) -> str:  # noqa: N802  # logging's name
        """Frames of the exception and of those that led to it, the newest last."""
        return "\n".join(_lines_of(ei[1]) if ei[1] is not None else [])


def _lines_of(error: BaseException) -> list[str]:
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    lines = [] if before is None else [*_lines_of(before), "  which led to"]
    frames = traceback.extract_tb(error.__traceback__)
    lines += [f"  {frame.filename}:{frame.lineno} in {frame.name}" for frame in frames]
    ours = isinstance(error, FloverError | OSError) and not isinstance(error, RequestError)
    name = f"{type(error).__module__}.{type(error).__qualname__}"
    return [*lines, f"  {name}: {printable(str(error), 500)}" if ours else f"  {name}"]


class _Handler(QueueHandler):
    """Formats a record and leaves it to the thread that writes."""

    dropped = 0

    def prepare(self, record: logging.LogRecord) -> Any:
        return self.format(record)

    def enqueue(self, record: Any) -> None:
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            self.dropped += 1


@contextlib.contextmanager
def logging_to(stream: TextIO, level: str) -> Iterator[None]:
    """Inside, every logger of this process writes records of `level` ("info", …) and above to `stream`."""
    waiting: queue.Queue[str | None] = queue.Queue(MAX_WAITING_RECORDS)
    handler = _Handler(waiting)
    handler.setFormatter(LineFormatter(FORMAT))
    writing = threading.Thread(target=_write, args=(waiting, handler, stream), name="log", daemon=True)
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(level.upper())
    writing.start()
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
        with contextlib.suppress(queue.Full):
            waiting.put(None, timeout=FLUSH_SECONDS)
        writing.join(FLUSH_SECONDS)


def _write(waiting: queue.Queue[str | None], handler: _Handler, stream: TextIO) -> None:
    while (line := waiting.get()) is not None:
        dropped, handler.dropped = handler.dropped, 0
        with contextlib.suppress(OSError, ValueError):  # its reader is gone
            stream.write(f"{line}\n" + (f"{dropped} lines of the log were dropped\n" if dropped else ""))
            stream.flush()


def log_to_stderr(level: str) -> contextlib.AbstractContextManager[None]:
    """`logging_to` the stderr of this process."""
    return logging_to(sys.stderr, level)
