"""How many connections a server holds, and which of them gives way when there are too many.

A connection *waits for its client* while the client owes it something: a head, the rest of a head or body, or, between
two requests, the next one. Those connections cost the client nothing, so they give way to requests that have arrived.
"""

from __future__ import annotations

import resource
from typing import Protocol

SPARE_CONNECTIONS = 64
"""Beyond `max_connections`: for health checks, while all others are taken."""
OTHER_DESCRIPTORS = 64
"""File descriptors that are no connections: listening socket, log, engines, and what their start takes for a while."""


class Evictable(Protocol):
    """A connection that can be ended without an answer."""

    def evict(self) -> None:
        """Close it at once."""


class Connections:
    """The open connections of one server. Every call takes the same time, however many there are."""

    def __init__(self, max_connections: int, descriptors: int) -> None:
        """`descriptors` is the number of file descriptors that the process may have open."""
        room = descriptors - OTHER_DESCRIPTORS if descriptors >= 2 * OTHER_DESCRIPTORS else descriptors // 2
        self.ceiling = max(2, min(max_connections + SPARE_CONNECTIONS, room))
        self.most = min(max_connections, max(1, self.ceiling * 3 // 4) if self.ceiling == room else max_connections)
        self._open: set[Evictable] = set()
        self._waiting: dict[Evictable, None] = {}

    @property
    def crowded(self) -> bool:
        """Whether there are more than `max_connections`."""
        return len(self._open) > self.most

    def add(self, connection: Evictable) -> bool:
        """A new connection; whether there are now too many to serve it as others are."""
        self._open.add(connection)
        self._waiting[connection] = None
        if len(self._open) > self.ceiling:
            self._evict(next(iter(self._waiting)))
        return self.crowded

    def remove(self, connection: Evictable) -> None:
        """The connection is closed."""
        self._open.discard(connection)
        self._waiting.pop(connection, None)

    def waits(self, connection: Evictable) -> None:
        """It waits for its client from now on."""
        if connection in self._open:
            self._waiting[connection] = None

    def received(self, connection: Evictable) -> None:
        """A whole request has arrived on it."""
        self._waiting.pop(connection, None)

    def make_room(self, connection: Evictable) -> bool:
        """End the connection that has waited for its client for longest, for the sake of this one; whether there was
        one, or there is room anyway."""
        if not self.crowded:
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
    """Raise the process's own limit on open files towards `wanted`, as far as it may; the limit then in force."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted if soft == resource.RLIM_INFINITY else soft
    reachable = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (reachable, hard))
    return reachable
