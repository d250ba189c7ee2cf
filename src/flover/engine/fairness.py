"""Fair shares of the device among clients, whatever each of them sends: the virtual token counter of Sheng et al.,
"Fairness in Serving Large Language Models" (OSDI 2024, arXiv:2401.00588).

Of the clients that wait, the one that was served least is next, if need be with a row of the client that has most.
A client that begins to wait is lifted to the least of those that wait, or to the last that did: absence is not paid.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from flover.engine.sequence import Sequence
from flover.request import Request

PROMPT_TOKEN, OUTPUT_TOKEN = 1, 2
"""What a token counts: a generated one takes a row of an iteration for itself."""
MAX_IDLE = 1024
"""Clients without requests whose counters are kept."""


@dataclass(slots=True)
class Client:
    """One that has sequences here."""

    served: float
    weight: float = 1.0
    backfill: bool = False
    sequences: int = 0
    rows: int = 0

    @property
    def waits(self) -> bool:
        """Whether one of its sequences has no row."""
        return self.sequences > self.rows


class FairShares:
    """How much each client was served. With a single client there is nothing to count."""

    def __init__(self) -> None:
        self._clients: dict[str, Client] = {}
        self._idle: dict[str, float] = {}
        """How much those were served that have no sequence here; the longest absent is the first to be forgotten."""
        self._last = [Client(0.0), Client(0.0)]
        """The last client that stopped waiting, and the last one of backfill."""

    @property
    def counts(self) -> bool:
        """Whether there has been more than one client lately."""
        return len(self._clients) + len(self._idle) > 1

    @property
    def compete(self) -> bool:
        """Whether several clients are here, those of backfill aside."""
        return len(self._clients) > 1 and sum(not one.backfill for one in self._clients.values()) > 1

    def arrive(self, request: Request) -> None:
        """A request joins."""
        client = self._clients.get(request.client) or Client(self._idle.pop(request.client, 0))
        if not client.waits:
            waiting = [one.served for one in self._clients.values() if one.waits and one.backfill == request.backfill]
            client.served = max(client.served, min(waiting, default=self._last[request.backfill].served))
        client.weight, client.backfill = request.weight, request.backfill
        client.sequences += request.params.n
        self._clients[request.client] = client

    def change(self, name: str, sequences: int, rows: int) -> None:
        """The client has so many sequences and rows more, or fewer."""
        client = self._clients[name]
        waited = client.waits
        client.sequences += sequences
        client.rows += rows
        if waited and not client.waits:
            self._last[client.backfill] = client
        if not client.sequences:
            self._idle[name] = self._clients.pop(name).served
            if len(self._idle) > MAX_IDLE:
                del self._idle[next(iter(self._idle))]

    def charge(self, name: str, prompt_tokens: int, output_tokens: int) -> None:
        """So many tokens are about to be computed for it; they count less for a client of more weight."""
        client = self._clients[name]
        client.served += (PROMPT_TOKEN * prompt_tokens + OUTPUT_TOKEN * output_tokens) / client.weight

    def claim(self) -> tuple[str, str] | None:
        """The client that is next, and the one that has most rows for its weight, if the first has no more of them even
        with one of the second's, and was served no more: so no row goes back and forth."""
        clients = self._clients
        waiting = [(one.served, one.rows, name) for name, one in clients.items() if one.waits and not one.backfill]
        if not waiting:
            return None
        few, many = min(waiting)[2], max(clients, key=lambda name: (clients[name].rows - 1) / clients[name].weight)
        mine, its = clients[few], clients[many]
        fair = mine.served <= its.served and (mine.rows + 1) / mine.weight <= (its.rows - 1) / its.weight
        return (few, many) if fair else None

    def in_turn(self, pending: Iterable[Sequence]) -> Iterator[Sequence]:
        """Sequences in the order in which their tokens are to be computed; those of one client keep theirs. What comes
        out counts at once, by the tokens that it has to compute."""
        queues: dict[str, deque[Sequence]] = {}
        for sequence in pending:
            queues.setdefault(sequence.request.client, deque()).append(sequence)
        clients = self._clients
        turns = [(clients[name].served, clients[name].rows, queue[0].number, name) for name, queue in queues.items()]
        heapq.heapify(turns)
        while turns:
            served, rows, _, name = heapq.heappop(turns)
            sequence = queues[name].popleft()
            yield sequence
            if queues[name]:
                served += (PROMPT_TOKEN * sequence.pending + OUTPUT_TOKEN) / sequence.request.weight
                heapq.heappush(turns, (served, rows, queues[name][0].number, name))
