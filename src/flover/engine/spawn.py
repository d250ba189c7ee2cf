"""Starts an engine process. Imports next to nothing: the process may come up while its caller still imports."""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from flover.errors import ConfigError

ENGINE_COMMAND = (sys.executable, "-m", "flover.engine.process")
"""What to run for an engine; the number of the socket's file descriptor is appended."""
RAY_ENGINE_COMMAND = (sys.executable, "-m", "flover.parallel.ray_engine")
"""The same for an engine that Ray places."""


@dataclass(frozen=True, slots=True)
class Spawned:
    """A process that waits for its first frame at the other end of `sock`. If `sock` is closed, it ends."""

    process: subprocess.Popen[bytes]
    sock: socket.socket

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
    if importlib.util.find_spec("ray") is None:
        raise ConfigError("--distributed-executor-backend ray needs Ray: pip install 'flover[ray]'")
    return RAY_ENGINE_COMMAND


def spawn(command: Sequence[str] = ENGINE_COMMAND) -> Spawned:
    """Start a process with one end of a new socket pair."""
    ours, theirs = socket.socketpair()
    with theirs:
        descriptor = theirs.fileno()
        # `ours` is closed on exec, as all of Python's descriptors: no other child of this process can keep the
        # engine alive by holding it. A process group of its own keeps the terminal's Ctrl-C away from it.
        process = subprocess.Popen(
            [*command, str(descriptor)], pass_fds=[descriptor], stdin=subprocess.DEVNULL, process_group=0
        )
    return Spawned(process, ours)
