"""Fair shares of the device among clients, whatever each of them sends: the virtual token counter of Sheng et al.,
"Fairness in Serving Large Language Models" (OSDI 2024, arXiv:2401.00588).

Of the clients that wait, the one that was served least is served next. A client that comes back is not paid for the
time that it did not ask: its counter begins at the least of those that are active.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Iterable, Iterator

from flover.engine.sequence import Sequence

PROMPT_TOKEN, OUTPUT_TOKEN = 1, 2
"""What a token counts: a generated one takes a row of an iteration for itself."""
MAX_IDLE = 1024
"""Clients without requests whose counters are kept."""


class FairShares:
    """How much each client was served. With a single client there is nothing to count."""

    def __init__(self) -> None:
        self._served: dict[str, float] = {}
        self._open: Counter[str] = Counter()
        """Sequences of each client that are here."""

    @property
    def counts(self) -> bool:
        """Whether there has been more than one client lately."""
        return len(self._served) > 1

    def arrive(self, client: str, num_sequences: int) -> None:
        """A request of `client` joins."""
        if client not in self._open:
            least = min((self._served[other] for other in self._open), default=max(self._served.values(), default=0))
            self._forget_idle()
            self._served[client] = max(self._served.get(client, 0), least)
        self._open[client] += num_sequences

    def leave(self, client: str) -> None:
        """One of its sequences has ended."""
        self._open[client] -= 1
        if not self._open[client]:
            del self._open[client]

    def charge(self, client: str, prompt_tokens: int, output_tokens: int, weight: float = 1.0) -> None:
        """So many tokens are about to be computed for it; they count less for a client of more weight."""
        self._served[client] += (PROMPT_TOKEN * prompt_tokens + OUTPUT_TOKEN * output_tokens) / weight

    def in_turn(self, waiting: Iterable[Sequence]) -> Iterator[Sequence]:
        """Waiting sequences in the order in which they are to enter; those of one client keep theirs. What enters
        counts at once, by the tokens that it has to compute."""
        queues: dict[str, deque[Sequence]] = {}
        for sequence in waiting:
            queues.setdefault(sequence.request.client, deque()).append(sequence)
        turns = [(self._served[client], queue[0].number, client) for client, queue in queues.items()]
        heapq.heapify(turns)
        while turns:
            served, _, client = heapq.heappop(turns)
            sequence = queues[client].popleft()
            yield sequence
            if queues[client]:
                served += (PROMPT_TOKEN * sequence.pending + OUTPUT_TOKEN) / sequence.request.weight
                heapq.heappush(turns, (served, queues[client][0].number, client))

    def _forget_idle(self) -> None:
        """Keep the table small: a client without requests begins again like a new one."""
        if len(self._served) > 2 * len(self._open) + MAX_IDLE:
            last = max(self._served, key=lambda client: self._served[client])
            self._served = {name: self._served[name] for name in self._served if name in self._open or name == last}
