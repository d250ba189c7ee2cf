"""Starts an engine process. Imports next to nothing: the process may come up while its caller still imports."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from flover.errors import OutOfResourcesError
from flover.extras import need

ENGINE_COMMAND = (sys.executable, "-m", "flover.service.process")
"""What to run for an engine; the number of the socket's file descriptor is appended."""
RAY_ENGINE_COMMAND = (sys.executable, "-m", "flover.ray.engine")
"""The same for an engine that Ray places."""
RESERVED_DESCRIPTORS = 8
"""To start a process takes five for a moment and keeps one of them: enough for as many restarts as there may be."""
_WANTS = {
    errno.EMFILE: "this process may open no further file (ulimit -n)",
    errno.ENFILE: "the machine can open no further file",
    errno.EAGAIN: "no further process or thread may be started (ulimit -u)",
    errno.ENOMEM: "there is no memory for it",
}


@dataclass(frozen=True, slots=True)
class Spawned:
    """A process that waits for its first frame at the other end of `sock`, unless `told` says that this has been sent.
    If `sock` is closed, it ends."""

    process: subprocess.Popen[bytes]
    sock: socket.socket
    told: bool = False

    def tell(self, frame: bytes) -> Spawned:
        """Send its first frame."""
        with contextlib.suppress(OSError):  # it has ended: who waits for its answer finds out
            self.sock.sendall(frame)
        return dataclasses.replace(self, told=True)

    def end(self) -> None:
        """Make sure that it is gone: it may never have been spoken to."""
        self.sock.close()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def engine_command(backend: str) -> Sequence[str]:
    """What to run for an engine with this `--distributed-executor-backend`. Raises `ConfigError` if it is missing."""
    if backend == "mp":
        return ENGINE_COMMAND
    need("ray", "ray", "--distributed-executor-backend ray")
    return RAY_ENGINE_COMMAND


def missing_resource(error: BaseException) -> str | None:
    """What the machine has run out of, in words, if that is what `error` says."""
    if isinstance(error, MemoryError):
        return _WANTS[errno.ENOMEM]
    return _WANTS.get(error.errno or 0) if isinstance(error, OSError) else None


def spawn(command: Sequence[str] = ENGINE_COMMAND) -> Spawned:
    """Start a process with one end of a new socket pair. Raises `OutOfResourcesError` if the machine has no descriptor,
    memory or process left for it, `OSError` if there is no such program."""
    try:
        return _spawn(command)
    except (OSError, MemoryError) as error:
        missing = missing_resource(error)
        if missing is None:
            raise
        raise OutOfResourcesError(f"the process of an engine cannot be started: {missing}") from error


def _spawn(command: Sequence[str]) -> Spawned:
    ours, theirs = socket.socketpair()
    with contextlib.ExitStack() as unless_started, theirs:
        unless_started.enter_context(ours)
        descriptor = theirs.fileno()
        # `ours` is closed on exec, as all of Python's descriptors: no other child of this process can keep the
        # engine alive by holding it. A process group of its own keeps the terminal's Ctrl-C away from it.
        process = subprocess.Popen(
            [*command, str(descriptor)], pass_fds=[descriptor], stdin=subprocess.DEVNULL, process_group=0
        )
        unless_started.pop_all()
    return Spawned(process, ours)


Spawner = Callable[[Sequence[str]], Spawned]
"""Starts a process, as `spawn` does."""


class DescriptorReserve:
    """File descriptors that are kept open for nothing, so that a process can be started although connections have taken
    all others: they are given back for the moment that it takes."""

    def __init__(self, count: int = RESERVED_DESCRIPTORS) -> None:
        self._count = count
        self._kept: list[int] = []
        self.refill()

    def refill(self) -> None:
        """Keep as many as there should be, or as many as there are."""
        with contextlib.suppress(OSError):
            while len(self._kept) < self._count:
                self._kept.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))

    @contextlib.contextmanager
    def lent(self) -> Iterator[None]:
        """Inside, the descriptors are free."""
        self.close()
        try:
            yield
        finally:
            self.refill()

    def close(self) -> None:
        """Keep none. May be called twice."""
        while self._kept:
            os.close(self._kept.pop())
