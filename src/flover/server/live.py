"""`/live`: the engine's iterations as server-sent events, for whoever wants to watch fusion at work.

    data: {"facts": {"model": ..., "max_num_seqs": ..., "pages_total": ..., "page_size": ..., "engine": 0, ...}}
    data: {"iterations": [...], "stats": {...}, "dropped": 0}

The first event says what does not change; every other one brings the iterations since the one before
(`observe/timeline.py`) and the newest counters (`EngineStats`). Of several engines, `/live?engine=1` shows the second.
An engine describes its iterations only while somebody watches. A watcher that reads too slowly misses the oldest
iterations and is told how many; nobody else notices.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

from starlette.responses import Response

from flover.observe.timeline import Iteration
from flover.server.errors import DoorError, Unavailable
from flover.server.sse import EventStream
from flover.service.supervisor import Supervisor

EVENT_SECONDS = 0.05
"""An event comes no sooner after the one before."""
IDLE_SECONDS = 0.25
"""With nothing to tell, an event comes after so long: counters change, and connections that died are noticed."""
MAX_WAITING_ITERATIONS = 8192
"""Most iterations that may wait for one watcher."""
MAX_WATCHERS = 16


class Watcher:
    """Iterations of one engine on their way to one client."""

    def __init__(self, engine: int) -> None:
        self.engine = engine
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
    """The watchers of all engines. Lives in one event loop."""

    def __init__(self, max_num_seqs: int) -> None:
        self._max_num_seqs = max_num_seqs
        self._engines: Supervisor | None = None
        self._watchers: set[Watcher] = set()
        self._closed = False

    def open(self, engines: Supervisor) -> None:
        """The engines are there."""
        self._engines = engines

    def close(self) -> None:
        """End the streams of all watchers."""
        self._closed = True

    def enter(self, number: int) -> Watcher:
        """Begin to watch an engine. Raises a 404, 429 or 503 as `DoorError`."""
        engines = self._alive(number)
        if len(self._watchers) >= MAX_WATCHERS:
            raise DoorError(429, f"{MAX_WATCHERS} clients watch already", code="rate_limit_exceeded")
        watcher = Watcher(number)
        self._watchers.add(watcher)
        engines.watch(number, True)
        return watcher

    def leave(self, watcher: Watcher) -> None:
        """Watch no more; the engine is left in peace when it was the last."""
        self._watchers.discard(watcher)
        if self._engines is not None and all(other.engine != watcher.engine for other in self._watchers):
            self._engines.watch(watcher.engine, False)

    async def events(self, watcher: Watcher) -> AsyncIterator[dict[str, Any]]:
        """The events of one watcher, until the server ends. Raises `Unavailable` if the engine dies."""
        yield {"facts": self._facts(self._alive(watcher.engine), watcher.engine)}
        last = time.monotonic()
        while not self._closed:
            iterations, dropped = watcher.take()
            if iterations or time.monotonic() - last >= IDLE_SECONDS:
                last = time.monotonic()
                stats = self._alive(watcher.engine).replicas[watcher.engine].stats
                yield {"iterations": iterations, "stats": stats, "dropped": dropped}
            await asyncio.sleep(EVENT_SECONDS)

    def _alive(self, number: int) -> Supervisor:
        """The engines, if this one is there."""
        if self._closed:
            raise Unavailable("the server is shutting down")
        if self._engines is None:
            raise Unavailable("the model is being loaded")
        replicas = self._engines.replicas
        if not 0 <= number < len(replicas):
            raise DoorError(404, f"there is no engine {number}; there are {len(replicas)}", param="engine")
        if replicas[number].client is None:
            raise Unavailable("the engine has died")
        return self._engines

    def _facts(self, engines: Supervisor, number: int) -> dict[str, Any]:
        facts = engines.facts
        return {
            "model": facts.model,
            "max_num_seqs": self._max_num_seqs,
            "pages_total": facts.pool_tokens // facts.page_size,
            "page_size": facts.page_size,
            "engine": number,
            "engines": len(engines.replicas),
        }

    def put(self, replica: int, iteration: Iteration) -> None:
        """An iteration for the watchers of this replica."""
        for watcher in self._watchers:
            if watcher.engine == replica:
                watcher.put(iteration)


def watch(live: Live, engine: int) -> Response:
    """The stream of one watcher."""
    watcher = live.enter(engine)
    return EventStream(live.events(watcher), lambda: live.leave(watcher))
