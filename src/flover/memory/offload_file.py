"""The file behind the host tier: who may have it, and that it is one of ours.

Each engine has a file of its own in the directory, which it holds locked; the system takes the lock from a process
that is gone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from pathlib import Path

from flover.errors import ConfigError

_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class OffloadFile:
    """An open file of slots; `index` names the file beside it that says what is in them."""

    def __init__(self, descriptor: int, path: Path | None, *, keep: bool) -> None:
        self.descriptor = descriptor
        self.path = path
        self.name = "memory of the host" if path is None else str(path)
        self._keep = keep
        self._closed = False

    @property
    def index(self) -> Path | None:
        """Where what is in the slots is written down."""
        return None if self.path is None else self.path.with_suffix(".index")

    def close(self) -> None:
        """Close it, and remove it if it is not to be kept. Calling it twice is harmless."""
        if not self._closed:
            self._closed = True
            if self.path is not None and not self._keep:
                with contextlib.suppress(OSError):
                    self.path.unlink()
            os.close(self.descriptor)


def open_offload_file(directory: str | None, num_engines: int, rank: int, *, keep: bool) -> OffloadFile:
    """The first file of `directory` that no other engine has, at most `num_engines` of them for each rank; without a
    directory, memory of the host. What was in it is forgotten unless `keep`. Raises `ConfigError`."""
    if directory is None:
        return OffloadFile(os.memfd_create("flover-offload", os.MFD_CLOEXEC), None, keep=False)
    folder = Path(directory)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.is_symlink():
            raise ConfigError(f"--kv-offload-path {folder} is a symbolic link: name the directory itself")
        for engine in range(num_engines):
            path = folder / f"engine-{engine}-rank-{rank}.pages"
            descriptor = _open_locked(path)
            if descriptor is not None:
                if not keep:
                    os.ftruncate(descriptor, 0)
                return OffloadFile(descriptor, path, keep=keep)
    except OSError as error:
        raise ConfigError(f"--kv-offload-path {folder}: cannot use {error.filename}: {error.strerror}") from error
    several = f"{num_engines} engines use" if num_engines > 1 else "an engine uses"
    raise ConfigError(f"--kv-offload-path {folder}: {several} it already; each server needs a directory of its own")


def _open_locked(path: Path) -> int | None:
    """Its descriptor, for this user alone; None if another process has it."""
    descriptor = os.open(path, _FLAGS | os.O_CREAT, 0o600)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_nlink != 1:
            raise ConfigError(f"--kv-offload-path: {path} is not a regular file of this user")
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.fchmod(descriptor, 0o600)
        if os.fstat(descriptor).st_nlink == 1:
            return descriptor
        os.close(descriptor)
        return _open_locked(path)  # another process has removed it meanwhile
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
