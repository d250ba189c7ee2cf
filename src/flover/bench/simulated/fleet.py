"""Engines in simulated time behind a router: one, a few that share a machine, or a thousand that do not.

Events happen in the order of their time: the arrival that comes first, or the iteration of the engine that is free
first. An arrival is in an engine's queue before the first iteration that begins at its time or later.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from flover.bench.metrics import Record
from flover.bench.paper.outcome import Moment, Outcome
from flover.bench.paper.processes import as_request
from flover.bench.simulated.cost import Clock, Cost, CostExecutor
from flover.bench.workload import Job
from flover.engine.loop import Engine
from flover.engine.roster import SchedulerConfig
from flover.request import ModelFacts


@dataclass(slots=True, eq=False)
class Replica:
    """One engine with its own time."""

    index: int
    engine: Engine
    executor: CostExecutor
    clock: Clock
    open: int = 0
    """Requests that have not ended."""
    next_at: float = math.inf
    """When it begins its next iteration; never, as long as nobody comes."""
    jobs: dict[str, int] = field(default_factory=dict)


Router = Callable[[Sequence[Replica]], Replica | None]
"""Whose turn it is for the request that has come; None if it has to wait until some request ends."""


def round_robin() -> Router:
    """Everybody in turn."""
    turn = -1

    def route(replicas: Sequence[Replica]) -> Replica:
        nonlocal turn
        turn = (turn + 1) % len(replicas)
        return replicas[turn]

    return route


def least_requests(replicas: Sequence[Replica]) -> Replica:
    """The replica with the fewest open requests, the first of them."""
    return min(replicas, key=lambda replica: (replica.open, replica.index))


def two_choices(seed: int) -> Router:
    """The less busy of two drawn at random (M. Mitzenmacher: The power of two choices in randomized load balancing)."""
    rng = random.Random(seed)

    def route(replicas: Sequence[Replica]) -> Replica:
        one, other = rng.choice(replicas), rng.choice(replicas)
        return one if one.open <= other.open else other

    return route


def first_free(replicas: Sequence[Replica]) -> Replica | None:
    """A replica that has nothing to do: concurrent instances take one request each."""
    return next((replica for replica in replicas if replica.open == 0), None)


class Fleet:
    """`num_replicas` engines. With `shared`, they compete for one machine: each is slowed by those that run too."""

    def __init__(
        self, facts: ModelFacts, config: SchedulerConfig, cost: Cost, num_replicas: int, *, shared: bool = False
    ) -> None:
        self._shared = shared
        self.replicas = [_replica(index, facts, config, cost) for index in range(num_replicas)]

    def run(
        self, jobs: Sequence[Job], router: Router, progress: Callable[[int, int], None] = lambda done, total: None
    ) -> Outcome:
        """All jobs, to the end; `progress` is told how many have ended."""
        run = _Run(self.replicas, jobs, router, self._shared)
        run.to_end(progress)
        stats = [replica.engine.stats() for replica in self.replicas]
        return Outcome(
            records=run.records,
            iterations=sum(one.iterations for one in stats),
            row_moves=sum(one.row_moves for one in stats),
            moments=run.moments,
        )


def _replica(index: int, facts: ModelFacts, config: SchedulerConfig, cost: Cost) -> Replica:
    clock = Clock()
    executor = CostExecutor(facts, cost, clock)
    return Replica(index, Engine(executor, config, clock), executor, clock)


class _Run:
    """One workload on a fleet."""

    def __init__(self, replicas: Sequence[Replica], jobs: Sequence[Job], router: Router, shared: bool) -> None:
        self.records = [Record(sent=job.at, prompt_tokens=len(job.prompt_ids)) for job in jobs]
        self.moments: list[Moment] = []
        self._jobs = jobs
        self._replicas = replicas
        self._router = router
        self._shared = shared
        self._arrivals = deque(sorted(range(len(jobs)), key=lambda index: jobs[index].at))
        self._held: deque[int] = deque()
        self._free: list[tuple[float, int]] = []  # (when it may begin an iteration, replica)
        self._left = sum(job.samples for job in jobs)
        self._states = [(0, 0)] * len(replicas)
        self._pages = self._generating = 0

    def to_end(self, progress: Callable[[int, int], None]) -> None:
        total = self._left
        while self._left:
            if self._arrivals and (not self._free or self._jobs[self._arrivals[0]].at <= self._free[0][0]):
                index = self._arrivals.popleft()
                self._held.append(index)
                self._route(self._jobs[index].at)
                continue
            at, index = heapq.heappop(self._free)
            replica = self._replicas[index]
            if at == replica.next_at:  # else it was brought forward, and this is what was planned before
                self._iterate(replica, at)
                progress(total - self._left, total)

    def _route(self, now: float) -> None:
        """Hand over who waits in front of the router, as far as it finds a place."""
        while self._held and (replica := self._router(self._replicas)) is not None:
            index = self._held.popleft()
            name = f"job-{index}"
            replica.jobs[name] = index
            replica.engine.submit(as_request(self._jobs[index], name))
            replica.open += 1
            self._schedule(replica, now)

    def _schedule(self, replica: Replica, now: float) -> None:
        at = max(now, replica.clock.now)
        if at < replica.next_at:
            replica.next_at = at
            heapq.heappush(self._free, (at, replica.index))

    def _iterate(self, replica: Replica, at: float) -> None:
        replica.next_at = math.inf
        replica.clock.now = at
        running = sum(other.open > 0 for other in self._replicas) if self._shared else 1
        replica.executor.slowdown = float(max(running, 1))
        deltas = replica.engine.step()
        now = replica.clock.now
        for delta in deltas:
            record = self.records[replica.jobs[delta.request_id]]
            record.ticks.append(now)
            record.output_tokens += len(delta.token_ids)
            record.end = now
            if delta.finish_reason is not None:
                self._left -= 1
                if not replica.engine.roster.knows(delta.request_id):
                    replica.open -= 1
        self._note(replica, now)
        if replica.engine.has_work:
            opens = replica.engine.scheduler.opens_at
            self._schedule(replica, max(now, opens))
        self._route(now)

    def _note(self, replica: Replica, now: float) -> None:
        stats = replica.engine.stats()
        pages, generating = self._states[replica.index]
        self._states[replica.index] = (stats.pages_used, stats.generating)
        self._pages += stats.pages_used - pages
        self._generating += stats.generating - generating
        self.moments.append(Moment(now, self._pages, self._generating))
