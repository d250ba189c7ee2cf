"""Writes a file in the background: items go through a bounded queue to a thread that encodes and writes them.

A disk that is slow or full ends the file, never the work: what comes after is not written, and the log has an error.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from flover.errors import ConfigError

MAX_WAITING_STEPS = 8192
"""Most steps that may wait for the disk."""
WRITE_SECONDS = 0.2
"""The file lags behind by so much: what a crash loses."""

T = TypeVar("T")
logger = logging.getLogger(__name__)


class Backlog(Generic[T]):
    """A bounded queue between two threads. Once full it takes nothing any more: a file has no gaps."""

    def __init__(self) -> None:
        self._waiting: deque[T] = deque()
        self.full = False

    def put(self, item: T) -> None:
        """Add an item, unless the backlog has been full."""
        if self.full:
            return
        if len(self._waiting) >= MAX_WAITING_STEPS:
            self.full = True
            logger.error("a trace ends here: the disk is so slow that %d steps wait for it", MAX_WAITING_STEPS)
            return
        self._waiting.append(item)

    def take(self, most: int) -> list[T]:
        """Remove the oldest items, at most so many."""
        return [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]


class Source(Protocol):
    """Makes the bytes of a file; called in the writer's thread alone."""

    def read(self) -> bytes:
        """What comes next; empty if there is nothing yet. Short, so that the loop is not held up."""
        ...

    def end(self) -> bytes:
        """What a complete file ends with."""
        ...


class BackgroundWriter:
    """An open file. Only its owner may read it."""

    def __init__(self, path: Path, flag: str) -> None:
        """Create or empty the file. Raises `ConfigError` in the name of `flag`."""
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        except OSError as error:
            raise ConfigError(f"{flag}: cannot write {path}: {error.strerror}") from error
        self._path = path
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, source: Source) -> None:
        """Write what `source` makes from now on."""
        self._thread = threading.Thread(target=self._write_all, args=(source,), name="background-writer", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write what there still is, and close the file. May be called twice."""
        if not self._closing.is_set():
            self._closing.set()
            if self._thread is not None:
                self._thread.join()

    def _write_all(self, source: Source) -> None:
        closing = False
        try:
            while not closing:
                closing = self._closing.wait(WRITE_SECONDS)
                while data := source.read():
                    self._write(data)
            self._write(source.end())
        except OSError as error:
            logger.error("%s ends here: %s", self._path, error.strerror or error)
        finally:
            os.close(self._file)

    def _write(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            left = left[os.write(self._file, left) :]
