"""The server's log: one line per record on stderr, written in a separate thread, so that a blocked terminal or pipe
does not block the event loop.

Line breaks and control characters are escaped. Of exceptions that are not Flover's only type and line are logged:
their messages may contain text of a client.
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
"""Maximum characters of a client's text in one line."""
FLUSH_SECONDS = 1.0
FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


def printable(text: str, most: int | None = None) -> str:
    """`text` with line breaks, control characters and lone surrogates escaped as in Python, truncated to `most`
    characters."""
    cut = text if most is None or len(text) <= most else text[:most] + "…"
    if cut.isprintable():
        return cut
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in cut)


class LineFormatter(logging.Formatter):
    """One line per record, and an indented traceback after it."""

    def format(self, record: logging.LogRecord) -> str:
        """The line and the traceback."""
        if record.exc_info:
            record.exc_text = None  # cached by another formatter
        return super().format(record)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's name
        """The line."""
        return printable(super().formatMessage(record))

    def formatException(self, ei: _ExcInfo) -> str:  # noqa: N802  # logging's name
        """Frames of the exception and of its causes, the newest last."""
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
    """Formats records and queues them for the writing thread."""

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
