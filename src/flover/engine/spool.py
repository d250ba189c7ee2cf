"""A file that grows while somebody who must not wait goes on: bytes are kept until a thread of its own writes them.

A disk that is slow or full ends the file, never the work: what comes after is not written, and the log says so.
"""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path
from typing import Protocol

from flover.errors import ConfigError

MAX_WAITING_BYTES = 32 * 2**20
"""Most bytes that may wait for the disk."""
WRITE_SECONDS = 0.2
"""The file lags behind by so much: what a crash loses."""

logger = logging.getLogger(__name__)


class Sink(Protocol):
    """Takes bytes and never keeps anybody waiting."""

    def put(self, data: bytes) -> None: ...
    def close(self) -> None: ...


class Spool:
    """An open file; `put` may be called by one thread. Only the owner may read the file."""

    def __init__(self, path: Path, flag: str) -> None:
        """Create or empty the file. Raises `ConfigError` in the name of `flag`."""
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        except OSError as error:
            raise ConfigError(f"{flag}: cannot write {path}: {error.strerror}") from error
        self._path = path
        self._lock = threading.Lock()
        self._waiting = bytearray()
        self._broken = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._write_all, name="spool", daemon=True)
        self._thread.start()

    @property
    def broken(self) -> bool:
        """Whether the file has ended early."""
        return self._broken

    def put(self, data: bytes) -> None:
        """Add bytes, all of them or none."""
        if self._broken:
            return
        with self._lock:
            full = len(self._waiting) + len(data) > MAX_WAITING_BYTES
            if not full:
                self._waiting += data
        if full:
            self._give_up(f"the disk is too slow: {MAX_WAITING_BYTES} bytes wait for it")

    def close(self) -> None:
        """Write what waits, and close the file. May be called twice."""
        if not self._closing.is_set():
            self._closing.set()
            self._thread.join()

    def _write_all(self) -> None:
        closing = False
        try:
            while not closing:
                closing = self._closing.wait(WRITE_SECONDS)
                with self._lock:
                    data, self._waiting = self._waiting, bytearray()
                left = memoryview(data)
                while left:
                    left = left[os.write(self._file, left) :]
        except OSError as error:
            self._give_up(str(error.strerror or error))
        finally:
            os.close(self._file)

    def _give_up(self, reason: str) -> None:
        self._broken = True
        logger.error("%s ends here: %s", self._path, reason)
