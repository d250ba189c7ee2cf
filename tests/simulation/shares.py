"""How long a client waits that comes with nothing here: the law of fair shares."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from typing import Protocol

from flover.engine.roster import SchedulerConfig
from flover.engine.sequence import MAX_PREEMPTIONS
from flover.request import Request

from .broken import require

MOST_WAIT = 8
"""Iterations: one in flight is finished before, pages may run out for running rows, and the client may have had another
small request just before."""


class Watched(Protocol):
    """A sequence, as seen from outside."""

    request: Request

    @property
    def preempted(self) -> int: ...


class Newcomers:
    """Clients that came with nothing here and have had no row yet."""

    def __init__(self, config: SchedulerConfig) -> None:
        # Dead rows count in an iteration's tokens, so without reordering there may be none left.
        self._applies = config.policy == "fcfs" and config.reorder
        self._since: dict[str, int] = {}

    def submitted(self, client: str, others: Collection[Watched], step: int) -> None:
        """A client sends a request; `others` are all open sequences."""
        if self._applies and all(one.request.client != client for one in others):
            self._since[client] = step

    def check(
        self, step: int, everyone: Collection[Watched], running: Collection[Watched], served: Callable[[str], float]
    ) -> int:
        """After an iteration. One that was `served` more when it was here before waits until those with rows were
        served as much. Returns how many newcomers have got their row."""
        rows = Counter(one.request.client for one in running)
        preemptible = [one.request.client for one in running if one.preempted < MAX_PREEMPTIONS]
        many = {client for client in preemptible if rows[client] >= 2}
        live = {one.request.client for one in everyone if not one.request.backfill}
        before, self._since = self._since, {}
        for client, since in before.items():
            if client in live and not rows[client]:
                may_get = any(served(client) <= served(other) for other in many)
                self._since[client] = since = since if may_get else step
                require("fair shares", step - since <= MOST_WAIT, "{} waits since {}: {}", client, since, rows)
        return sum(rows[client] > 0 for client in before)
