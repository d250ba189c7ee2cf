"""Temporary directories of this process. One that a killed process has left is removed by the next that makes one.

The process holds a lock on its directory (`flock`), which the system takes from it in any case.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
from pathlib import Path

MARK = ".temporary"
"""An empty file in each of them: nothing else of a similar name is ever removed."""
_NAME = re.compile(r"flover-[a-z]+-[a-z0-9_]{8}")
MOST_TRIES = 10


class TemporaryDirectory:
    """`path`, until `close`; `kind` is part of its name. Raises `OSError` if it cannot be made."""

    def __init__(self, kind: str) -> None:
        remove_leftovers()
        for _ in range(MOST_TRIES):
            self.path = Path(tempfile.mkdtemp(prefix=f"flover-{kind}-"))
            (self.path / MARK).touch()
            lock = _lock(self.path)
            if lock is not None:
                self._lock: int | None = lock
                return
        raise OSError("directories are removed while they are made")

    def close(self) -> None:
        """Remove it, unless that is done."""
        if self._lock is not None:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)
            self._lock = None


def remove_leftovers() -> None:
    """Remove directories whose processes are gone. One that cannot be removed stays."""
    parent = Path(tempfile.gettempdir())
    with contextlib.suppress(OSError), os.scandir(parent) as entries:
        found = [Path(entry.path) for entry in entries if _NAME.fullmatch(entry.name)]
        for path in found:
            with contextlib.suppress(OSError):
                _remove_if_left(path)


def _remove_if_left(path: Path) -> None:
    if path.is_symlink() or not (path / MARK).is_file() or path.stat().st_uid != os.getuid():
        return
    lock = _lock(path)
    if lock is not None:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def _lock(path: Path) -> int | None:
    """The descriptor that holds the lock on a directory; None if another process has it, or has removed the directory
    meanwhile."""
    try:
        found = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(found, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(found).st_nlink:
            return found
    except BlockingIOError:
        pass
    os.close(found)
    return None
