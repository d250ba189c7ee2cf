"""Discrete-event simulation of engines behind a router: one, several that share a machine, or many independent ones.

Events are processed in order of time: arrivals, and iterations of engines. An arrival is in an engine's queue before
the first iteration that starts at its time or later.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from flover.bench.metrics import RequestRecord
from flover.bench.workload import Job
from flover.engine.loop import Engine
from flover.engine.roster import SchedulerConfig
from flover.request import ModelFacts
from flover_benchmarks.paper.outcome import Moment, Outcome
from flover_benchmarks.paper.processes import as_request
from flover_benchmarks.simulated.cost import Clock, Cost, CostExecutor


@dataclass(slots=True, eq=False)
class SimulatedReplica:
    """One engine with its own clock."""

    index: int
    engine: Engine
    executor: CostExecutor
    clock: Clock
    open: int = 0
    """Number of open requests."""
    next_at: float = math.inf
    """Start of its next iteration; infinity while it has no requests."""
    jobs: dict[str, int] = field(default_factory=dict)


Router = Callable[[Sequence[SimulatedReplica]], SimulatedReplica | None]
"""Chooses the replica of an arrived request; None if it must wait until another request ends."""


def round_robin() -> Router:
    """Each replica in turn."""
    last = -1

    def route(replicas: Sequence[SimulatedReplica]) -> SimulatedReplica:
        nonlocal last
        last = (last + 1) % len(replicas)
        return replicas[last]

    return route


def least_requests(replicas: Sequence[SimulatedReplica]) -> SimulatedReplica:
    """The replica with the fewest open requests; of equal ones the first."""
    return min(replicas, key=lambda replica: (replica.open, replica.index))


def two_choices(seed: int) -> Router:
    """The less loaded of two random ones (M. Mitzenmacher: The power of two choices in randomized load balancing)."""
    rng = random.Random(seed)

    def route(replicas: Sequence[SimulatedReplica]) -> SimulatedReplica:
        one, other = rng.choice(replicas), rng.choice(replicas)
        return one if one.open <= other.open else other

    return route


def first_free(replicas: Sequence[SimulatedReplica]) -> SimulatedReplica | None:
    """An idle replica, if any: concurrent instances take one request each."""
    return next((replica for replica in replicas if replica.open == 0), None)


class SimulatedFleet:
    """`num_replicas` engines. With `shared`, they run on one machine: each is slowed by the number of busy ones."""

    def __init__(
        self, facts: ModelFacts, config: SchedulerConfig, cost: Cost, num_replicas: int, *, shared: bool = False
    ) -> None:
        self._shared = shared
        self.replicas = [_replica(index, facts, config, cost) for index in range(num_replicas)]

    def run(
        self, jobs: Sequence[Job], router: Router, progress: Callable[[int, int], None] = lambda done, total: None
    ) -> Outcome:
        """Run all jobs to the end; `progress` is called with (ended, total)."""
        run = _FleetRun(self.replicas, jobs, router, self._shared)
        run.to_end(progress)
        stats = [replica.engine.stats() for replica in self.replicas]
        return Outcome(
            records=run.records,
            iterations=sum(one.iterations for one in stats),
            row_moves=sum(one.row_moves for one in stats),
            moments=run.moments,
        )


def _replica(index: int, facts: ModelFacts, config: SchedulerConfig, cost: Cost) -> SimulatedReplica:
    clock = Clock()
    executor = CostExecutor(facts, cost, clock)
    return SimulatedReplica(index, Engine(executor, config, clock), executor, clock)


class _FleetRun:
    """One workload on a fleet."""

    def __init__(self, replicas: Sequence[SimulatedReplica], jobs: Sequence[Job], router: Router, shared: bool) -> None:
        self.records = [RequestRecord(sent=job.at, prompt_tokens=len(job.prompt_ids)) for job in jobs]
        self.moments: list[Moment] = []
        self._jobs = jobs
        self._replicas = replicas
        self._router = router
        self._shared = shared
        self._arrivals = deque(sorted(range(len(jobs)), key=lambda index: jobs[index].at))
        self._held: deque[int] = deque()
        self._free: list[tuple[float, int]] = []  # (start of its next iteration, replica)
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
            if at == replica.next_at:  # else the iteration was rescheduled to an earlier time
                self._iterate(replica, at)
                progress(total - self._left, total)

    def _route(self, now: float) -> None:
        """Route waiting requests until the router returns None."""
        while self._held and (replica := self._router(self._replicas)) is not None:
            index = self._held.popleft()
            name = f"job-{index}"
            replica.jobs[name] = index
            replica.engine.submit(as_request(self._jobs[index], name))
            replica.open += 1
            self._schedule(replica, now)

    def _schedule(self, replica: SimulatedReplica, now: float) -> None:
        at = max(now, replica.clock.now)
        if at < replica.next_at:
            replica.next_at = at
            heapq.heappush(self._free, (at, replica.index))

    def _iterate(self, replica: SimulatedReplica, at: float) -> None:
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

    def _note(self, replica: SimulatedReplica, now: float) -> None:
        stats = replica.engine.stats()
        pages, generating = self._states[replica.index]
        self._states[replica.index] = (stats.pages_used, stats.generating)
        self._pages += stats.pages_used - pages
        self._generating += stats.generating - generating
        self.moments.append(Moment(now, self._pages, self._generating))
