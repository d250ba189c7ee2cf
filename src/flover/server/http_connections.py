"""The limit on open connections, and the choice of which to close beyond it.

A connection *waits for its client* until the rest of a head or body, or the next request, has arrived. Such
connections are closed in favour of requests that have arrived whole.
"""

from __future__ import annotations

import resource
from typing import Protocol

SPARE_CONNECTIONS = 64
"""Connections beyond `max_connections`, for health checks while all others are in use."""
OTHER_DESCRIPTORS = 64
"""File descriptors for other uses: listening socket, log, engines, and the start of engine processes."""


class Evictable(Protocol):
    """A connection that can be closed without a response."""

    def evict(self) -> None:
        """Close it at once."""


class Connections:
    """The open connections of one server. Every method takes constant time."""

    def __init__(self, max_connections: int, descriptors: int) -> None:
        """`descriptors` is the number of file descriptors that the process may have open."""
        available = descriptors - OTHER_DESCRIPTORS if descriptors >= 2 * OTHER_DESCRIPTORS else descriptors // 2
        self.ceiling = max(2, min(max_connections + SPARE_CONNECTIONS, available))
        self.most = min(
            max_connections, max(1, self.ceiling * 3 // 4) if self.ceiling == available else max_connections
        )
        self._open: set[Evictable] = set()
        self._waiting: dict[Evictable, None] = {}

    @property
    def over_limit(self) -> bool:
        """Whether there are more than `max_connections`."""
        return len(self._open) > self.most

    def add(self, connection: Evictable) -> bool:
        """Add a new connection; returns whether it is beyond the limit."""
        self._open.add(connection)
        self._waiting[connection] = None
        if len(self._open) > self.ceiling:
            self._evict(next(iter(self._waiting)))
        return self.over_limit

    def remove(self, connection: Evictable) -> None:
        """Remove a closed connection."""
        self._open.discard(connection)
        self._waiting.pop(connection, None)

    def waits(self, connection: Evictable) -> None:
        """Mark a connection as waiting for its client."""
        if connection in self._open:
            self._waiting[connection] = None

    def received(self, connection: Evictable) -> None:
        """A whole request has arrived on it."""
        self._waiting.pop(connection, None)

    def evict_for(self, connection: Evictable) -> bool:
        """Close the connection that has waited longest for its client, to serve this one; returns whether this one can
        be served."""
        if not self.over_limit:
            return True
        for other in self._waiting:
            if other is not connection:
                self._evict(other)
                return True
        return False

    def _evict(self, connection: Evictable) -> None:
        self.remove(connection)
        connection.evict()


def allow_descriptors(wanted: int) -> int:
    """Raise the process's limit of open files towards `wanted`, as far as allowed; returns the limit in force."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted if soft == resource.RLIM_INFINITY else soft
    reachable = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (reachable, hard))
    return reachable
