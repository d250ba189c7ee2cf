"""`/live`: the engine's iterations as server-sent events.

    data: {"facts": {"model": ..., "max_num_seqs": ..., "pages_total": ..., "page_size": ..., "engine": 0, ...}}
    data: {"iterations": [...], "stats": {...}, "dropped": 0}

The first event has the constants of the engine; every other one has the iterations since the previous one
(`observe/timeline.py`) and the newest counters (`EngineStats`). Of several engines, `/live?engine=1` shows the second.
An engine sends its iterations only while a client is connected. A client that reads too slowly misses the oldest
iterations (`dropped` counts them) and does not slow others.
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
"""Minimum interval of events, in seconds."""
IDLE_SECONDS = 0.25
"""Interval of events without iterations, in seconds: for counters, and to detect closed connections."""
MAX_WAITING_ITERATIONS = 8192
"""Maximum number of iterations queued for one client."""
MAX_SUBSCRIBERS = 16


class Subscriber:
    """The queue of one replica's iterations for one client."""

    def __init__(self, replica: int) -> None:
        self.replica = replica
        self._waiting: deque[Iteration] = deque()
        self._dropped = 0

    def put(self, iteration: Iteration) -> None:
        """Add the newest iteration; when full, the oldest is dropped."""
        if len(self._waiting) >= MAX_WAITING_ITERATIONS:
            self._waiting.popleft()
            self._dropped += 1
        self._waiting.append(iteration)

    def take(self) -> tuple[list[Iteration], int]:
        """All queued iterations, and the number dropped since the last call."""
        iterations, dropped = list(self._waiting), self._dropped
        self._waiting.clear()
        self._dropped = 0
        return iterations, dropped


class Live:
    """The subscribers of all replicas. Used in one event loop."""

    def __init__(self, max_num_seqs: int) -> None:
        self._max_num_seqs = max_num_seqs
        self._supervisor: Supervisor | None = None
        self._subscribers: set[Subscriber] = set()
        self._closed = False

    def open(self, supervisor: Supervisor) -> None:
        """The engines have loaded."""
        self._supervisor = supervisor

    def close(self) -> None:
        """End the streams of all subscribers."""
        self._closed = True

    def enter(self, replica: int) -> Subscriber:
        """Subscribe to a replica. Raises a 404, 429 or 503 as `HttpError`."""
        supervisor = self._alive(replica)
        if len(self._subscribers) >= MAX_SUBSCRIBERS:
            raise HttpError(429, f"{MAX_SUBSCRIBERS} clients are subscribed already", code="rate_limit_exceeded")
        subscriber = Subscriber(replica)
        self._subscribers.add(subscriber)
        supervisor.watch(replica, True)
        return subscriber

    def leave(self, subscriber: Subscriber) -> None:
        """Unsubscribe; with the last subscriber the engine stops sending iterations."""
        self._subscribers.discard(subscriber)
        if self._supervisor is not None and all(other.replica != subscriber.replica for other in self._subscribers):
            self._supervisor.watch(subscriber.replica, False)

    async def events(self, subscriber: Subscriber) -> AsyncIterator[dict[str, Any]]:
        """The events of one subscriber, until the server ends. Raises `Unavailable` if the engine dies."""
        yield {"facts": self._facts(self._alive(subscriber.replica), subscriber.replica)}
        last = time.monotonic()
        while not self._closed:
            iterations, dropped = subscriber.take()
            if iterations or time.monotonic() - last >= IDLE_SECONDS:
                last = time.monotonic()
                stats = self._alive(subscriber.replica).replicas[subscriber.replica].stats
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
        """Queue an iteration for the subscribers of this replica."""
        for subscriber in self._subscribers:
            if subscriber.replica == replica:
                subscriber.put(iteration)


def watch(live: Live, replica: int) -> Response:
    """The stream of one subscriber."""
    subscriber = live.enter(replica)
    return EventStream(live.events(subscriber), lambda: live.leave(subscriber))
