"""`/live`: the engine's iterations as server-sent events, for whoever wants to watch fusion at work.

    data: {"facts": {"model": ..., "max_num_seqs": ..., "pages_total": ..., "page_size": ...}}
    data: {"iterations": [...], "stats": {...}, "dropped": 0}

The first event says what does not change; every other one brings the iterations since the one before
(`engine/timeline.py`) and the newest counters (`EngineStats`). The engine describes its iterations only while somebody
watches. A watcher that reads too slowly misses the oldest iterations and is told how many; nobody else notices.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

from starlette.responses import Response

from flover.engine.client import EngineClient
from flover.engine.timeline import Iteration
from flover.server.errors import DoorError, Unavailable
from flover.server.sse import EventStream

EVENT_SECONDS = 0.05
"""An event comes no sooner after the one before."""
IDLE_SECONDS = 0.25
"""With nothing to tell, an event comes after so long: counters change, and connections that died are noticed."""
MAX_WAITING_ITERATIONS = 8192
"""Most iterations that may wait for one watcher."""
MAX_WATCHERS = 16


class Watcher:
    """Iterations on their way to one client."""

    def __init__(self) -> None:
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
    """The watchers of one engine. Lives in one event loop."""

    def __init__(self, max_num_seqs: int) -> None:
        self._max_num_seqs = max_num_seqs
        self._engine: EngineClient | None = None
        self._watchers: set[Watcher] = set()
        self._closed = False

    def open(self, engine: EngineClient) -> None:
        """The engine is there."""
        self._engine = engine
        engine.on_iteration = self._put

    def close(self) -> None:
        """End the streams of all watchers."""
        self._closed = True

    def enter(self) -> Watcher:
        """Begin to watch. Raises a 429 or 503 as `DoorError`."""
        engine = self._alive()
        if len(self._watchers) >= MAX_WATCHERS:
            raise DoorError(429, f"{MAX_WATCHERS} clients watch already", code="rate_limit_exceeded")
        watcher = Watcher()
        self._watchers.add(watcher)
        if len(self._watchers) == 1:
            engine.watch(True)
        return watcher

    def leave(self, watcher: Watcher) -> None:
        """Watch no more; the engine is left in peace when it was the last."""
        self._watchers.discard(watcher)
        if not self._watchers and self._engine is not None:
            self._engine.watch(False)

    async def events(self, watcher: Watcher) -> AsyncIterator[dict[str, Any]]:
        """The events of one watcher, until the server ends. Raises `Unavailable` if the engine dies."""
        yield {"facts": self._facts(self._alive())}
        last = time.monotonic()
        while not self._closed:
            iterations, dropped = watcher.take()
            if iterations or time.monotonic() - last >= IDLE_SECONDS:
                last = time.monotonic()
                yield {"iterations": iterations, "stats": self._alive().stats, "dropped": dropped}
            await asyncio.sleep(EVENT_SECONDS)

    def _alive(self) -> EngineClient:
        if self._closed:
            raise Unavailable("the server is shutting down")
        if self._engine is None:
            raise Unavailable("the model is being loaded")
        if not self._engine.alive:
            raise Unavailable("the engine has stopped")
        return self._engine

    def _facts(self, engine: EngineClient) -> dict[str, Any]:
        facts = engine.facts
        return {
            "model": facts.model,
            "max_num_seqs": self._max_num_seqs,
            "pages_total": facts.pool_tokens // facts.page_size,
            "page_size": facts.page_size,
        }

    def _put(self, iteration: Iteration) -> None:
        for watcher in self._watchers:
            watcher.put(iteration)


def watch(live: Live) -> Response:
    """The stream of one watcher."""
    watcher = live.enter()
    return EventStream(live.events(watcher), lambda: live.leave(watcher))
