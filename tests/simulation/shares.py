"""The law of fair shares: how much each client was served, and how long one waits that comes with nothing here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Protocol

from flover.engine.plan import StepPlan
from flover.engine.roster import SchedulerConfig
from flover.engine.sequence import MAX_PREEMPTIONS
from flover.request import FinishReason, Request

from .broken import require

MOST_WAIT = 8
"""Iterations: one in flight is finished before, pages may run out for running rows, and the client may have had another
small request just before."""


class Watched(Protocol):
    """A sequence, as seen from outside."""

    request: Request
    ended: FinishReason | None

    @property
    def preempted(self) -> int: ...


@dataclass(slots=True)
class Counters:
    """The virtual token counter of arXiv:2401.00588, told from arrivals, cancellations and plans alone: a prompt
    token counts 1, a generated one 2; a client that begins to wait is lifted to the least of those that wait, or to the
    last that did. Backfill is lifted apart."""

    served: dict[str, float] = field(default_factory=dict)
    _here: dict[Watched, None] = field(default_factory=dict)
    _in_row: set[Watched] = field(default_factory=set)
    _last: dict[bool, str] = field(default_factory=dict)

    def came(self, one: Watched) -> None:
        """The engine takes the arrival of a sequence."""
        client, backfill = one.request.client, one.request.backfill
        if not self._waits(client):
            waiting = {other.request.client for other in self._here if other.request.backfill == backfill}
            least = [self.served[name] for name in waiting if self._waits(name)]
            last = self.served.get(self._last.get(backfill, client), 0.0)
            self.served[client] = max(self.served.get(client, 0.0), min(least, default=last))
        self._here[one] = None

    def left(self, one: Watched) -> None:
        """It ended or was cancelled, once or again."""
        if one in self._here:
            del self._here[one]
            if one not in self._in_row:
                self._stopped_waiting(one)
            self._in_row.discard(one)

    def planned(self, plan: StepPlan, kept: Collection[Watched], admitted: list[Watched], work: list[Watched]) -> None:
        """A plan is about to be started: `kept` keep their rows, `admitted` get one, `work[i]` does its work[i]."""
        self._in_row = set(kept)
        for one in admitted:
            self._in_row.add(one)
            self._stopped_waiting(one)
        if len(self.served) > 1:
            for one, done in zip(work, plan.work, strict=True):
                prompt_tokens = 0 if done.generates else done.num_tokens
                self.served[one.request.client] += prompt_tokens + 2 * done.num_samples

    def was_reset(self) -> None:
        """No sequence has a row any more."""
        self._in_row = set()

    def _waits(self, client: str) -> bool:
        return any(one.request.client == client and one not in self._in_row for one in self._here)

    def _stopped_waiting(self, one: Watched) -> None:
        if not self._waits(one.request.client):
            self._last[one.request.backfill] = one.request.client


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
        self, step: int, everyone: Collection[Watched], running: Collection[Watched], served: dict[str, float]
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
                may_get = any(served[client] <= served[other] for other in many)
                self._since[client] = since = since if may_get else step
                require("fair shares", step - since <= MOST_WAIT, "{} waits since {}: {}", client, since, rows)
        return sum(rows[client] > 0 for client in before)
