"""`/live`: the engine's iterations as server-sent events.

    data: {"facts": {"model": ..., "max_num_seqs": ..., "pages_total": ..., "page_size": ..., "engine": 0, ...}}
    data: {"iterations": [...], "stats": {...}, "dropped": 0}

The first event says what does not change; every other one brings the iterations since the one before
(`observe/timeline.py`) and the newest counters (`EngineStats`). Of several engines, `/live?engine=1` shows the second.
An engine describes its iterations only while a client watches. A client that reads too slowly misses the oldest
iterations and is told how many; it slows down no other.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

from starlette.responses import Response

from flover.observe.timeline import Iteration
from flover.server.errors import HttpError, Unavailable
from flover.server.sse import EventStream
from flover.service.supervisor import Supervisor

EVENT_SECONDS = 0.05
"""An event comes no sooner after the one before."""
IDLE_SECONDS = 0.25
"""Without iterations, an event comes after so long: counters change, and connections that died are noticed."""
MAX_WAITING_ITERATIONS = 8192
"""Most iterations that may wait for one watcher."""
MAX_WATCHERS = 16


class Watcher:
    """Iterations of one replica on their way to one client."""

    def __init__(self, replica: int) -> None:
        self.replica = replica
        self._waiting: deque[Iteration] = deque()
        self._dropped = 0

    def put(self, iteration: Iteration) -> None:
        """Add the newest; the oldest gives way when too many wait."""
        if len(self._waiting) >= MAX_WAITING_ITERATIONS:
            self._waiting.popleft()
            self._dropped += 1
        self._waiting.append(iteration)

    def take(self) -> tuple[list[Iteration], int]:
        """Everything that waits, and how many were dropped before it since the last call."""
        iterations, dropped = list(self._waiting), self._dropped
        self._waiting.clear()
        self._dropped = 0
        return iterations, dropped


class Live:
    """The watchers of all replicas. Lives in one event loop."""

    def __init__(self, max_num_seqs: int) -> None:
        self._max_num_seqs = max_num_seqs
        self._supervisor: Supervisor | None = None
        self._watchers: set[Watcher] = set()
        self._closed = False

    def open(self, supervisor: Supervisor) -> None:
        """The engines have loaded."""
        self._supervisor = supervisor

    def close(self) -> None:
        """End the streams of all watchers."""
        self._closed = True

    def enter(self, replica: int) -> Watcher:
        """Begin to watch a replica. Raises a 404, 429 or 503 as `HttpError`."""
        supervisor = self._alive(replica)
        if len(self._watchers) >= MAX_WATCHERS:
            raise HttpError(429, f"{MAX_WATCHERS} clients watch already", code="rate_limit_exceeded")
        watcher = Watcher(replica)
        self._watchers.add(watcher)
        supervisor.watch(replica, True)
        return watcher

    def leave(self, watcher: Watcher) -> None:
        """Watch no more; with the last watcher the engine stops describing iterations."""
        self._watchers.discard(watcher)
        if self._supervisor is not None and all(other.replica != watcher.replica for other in self._watchers):
            self._supervisor.watch(watcher.replica, False)

    async def events(self, watcher: Watcher) -> AsyncIterator[dict[str, Any]]:
        """The events of one watcher, until the server ends. Raises `Unavailable` if the engine dies."""
        yield {"facts": self._facts(self._alive(watcher.replica), watcher.replica)}
        last = time.monotonic()
        while not self._closed:
            iterations, dropped = watcher.take()
            if iterations or time.monotonic() - last >= IDLE_SECONDS:
                last = time.monotonic()
                stats = self._alive(watcher.replica).replicas[watcher.replica].stats
                yield {"iterations": iterations, "stats": stats, "dropped": dropped}
            await asyncio.sleep(EVENT_SECONDS)

    def _alive(self, replica: int) -> Supervisor:
        """The supervisor, if this replica's engine runs."""
        if self._closed:
            raise Unavailable("the server is shutting down")
        if self._supervisor is None:
            raise Unavailable("the model is being loaded")
        replicas = self._supervisor.replicas
        if not 0 <= replica < len(replicas):
            raise HttpError(404, f"there is no engine {replica}; there are {len(replicas)}", param="engine")
        if replicas[replica].client is None:
            raise Unavailable("the engine has died")
        return self._supervisor

    def _facts(self, supervisor: Supervisor, replica: int) -> dict[str, Any]:
        facts = supervisor.facts
        return {
            "model": facts.model,
            "max_num_seqs": self._max_num_seqs,
            "pages_total": facts.pool_tokens // facts.page_size,
            "page_size": facts.page_size,
            "engine": replica,
            "engines": len(supervisor.replicas),
        }

    def put(self, replica: int, iteration: Iteration) -> None:
        """An iteration for the watchers of this replica."""
        for watcher in self._watchers:
            if watcher.replica == replica:
                watcher.put(iteration)


def watch(live: Live, replica: int) -> Response:
    """The stream of one watcher."""
    watcher = live.enter(replica)
    return EventStream(live.events(watcher), lambda: live.leave(watcher))
