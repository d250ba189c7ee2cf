"""The Ray actor of one rank: starts the rank's process on its node and passes frames on.

It is the other end of the process's socket, as a server is on one machine: when Ray ends the actor, the socket ends,
and the process with it.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator

import ray
import ray.util

from flover.ipc import wire
from flover.ipc.spawn import Spawned, spawn

EXIT_SECONDS = 2.0


class RankActor:
    """One rank on one node. Ray calls its methods from several threads: one reads, one writes."""

    def __init__(self) -> None:
        self._spawned: Spawned | None = None

    def address(self) -> str:
        """Where the other nodes reach this one."""
        return str(ray.util.get_node_ip_address())

    def free_port(self, address: str) -> int:
        """A port of this node's `address` where the ranks can meet; it is free now, and not reserved."""
        with socket.create_server((address, 0)) as sock:
            return int(sock.getsockname()[1])

    def start(self, module: str, first: bytes) -> None:
        """Run a module that serves a socket, and send it its first frame."""
        self._spawned = spawn((sys.executable, "-m", module))
        self._spawned.sock.sendall(first)

    def read(self) -> Iterator[bytes]:
        """Every frame that the process sends, header included, until its end."""
        sock = self._process.sock
        while (body := wire.receive(sock)) is not None:
            yield wire.frame(body)

    def write(self, data: bytes) -> None:
        """To the process: the next bytes of the stream of frames. One that has ended gets nothing."""
        try:
            self._process.sock.sendall(data)
        except OSError:
            return  # `read` reports the end

    def exit_code(self) -> int:
        """How the process ended, once `read` has come to its end."""
        return self._process.process.wait(EXIT_SECONDS)

    @property
    def _process(self) -> Spawned:
        assert self._spawned is not None
        return self._spawned
