"""A rank that follows: `python -m flover.parallel.follower FD` serves the rank 0 that holds the other end of socket FD.

The process belongs to rank 0: when the socket ends, so does it, at once, whatever its main thread is doing.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
from collections.abc import Sequence

import msgspec

from flover.errors import ConfigError, FloverError, ModelError
from flover.executor.detect import new_platform, resolve_device
from flover.executor.load import load_device
from flover.ipc import wire
from flover.ipc.signals import leave_to_the_server
from flover.parallel.frames import EXIT_FAILED, EXIT_HOPELESS, Join
from flover.parallel.heartbeat import beat
from flover.parallel.ranks import follow
from flover.parallel.rendezvous import NotMetError, join

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str]) -> int:
    """Follow until rank 0 says that it is over; returns the exit code."""
    leave_to_the_server()
    with socket.socket(fileno=int(arguments[-1])) as sock:
        os.set_inheritable(sock.fileno(), False)
        body = wire.receive(sock)
        if body is None:
            return EXIT_FAILED
        message = msgspec.msgpack.decode(body, type=Join)
        threading.Thread(target=_end_with, args=(sock,), name="rank 0", daemon=True).start()
        try:
            config = resolve_device(message.config)  # as rank 0 does, whose settings must be the same
            new_platform(config, config.local_rank(message.rank))  # refuses too few GPUs before it meets the others
            group, store = join(config, message.rank, message.rendezvous)
            timeout = config.distributed_timeout_seconds
            leave = (
                None if store is None else beat(store, message.rank, timeout, lambda: group.patience.total_seconds())
            )
            own = load_device(config, lambda *progress: None, group)
            follow(own, group)
            if leave is not None:
                leave()
            own.close()
            group.close()
        except FloverError as error:
            logger.error("rank %d ends: %s", message.rank, error)
            return EXIT_HOPELESS if isinstance(error, NotMetError | ConfigError | ModelError) else EXIT_FAILED
    return 0


def _end_with(sock: socket.socket) -> None:
    """Rank 0 says nothing more on the socket: what can be read is its end."""
    sock.recv(1)
    os._exit(EXIT_FAILED)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
