"""A `Runner` of the paper's strategies in simulated time."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from flover.bench.workload import Job
from flover.engine import strategy as strategies
from flover_benchmarks.paper.outcome import BatchingStrategy, Outcome
from flover_benchmarks.simulated.cost import Cost, roomy
from flover_benchmarks.simulated.fleet import Router, SimulatedFleet, first_free, least_requests


class SimulatedRunner:
    """Runs workloads on the real engine with `cost` instead of a device and a pool that is never full."""

    def __init__(self, cost: Cost, max_num_seqs: int = 64, target_itl_ms: float = 0.0) -> None:
        self._cost = cost
        self._max_num_seqs = max_num_seqs
        self._target_itl_ms = target_itl_ms

    def run(self, jobs: Sequence[Job], strategy: BatchingStrategy) -> Outcome:
        """Run one workload on new engines."""
        longest = max(len(job.prompt_ids) + job.output_len for job in jobs)
        concurrent = strategy.name == "concurrent"
        facts, limits = roomy(self._max_num_seqs, longest)
        config = dataclasses.replace(
            limits,
            strategy=strategies.Strategy("serial" if concurrent else strategy.name),
            batch_window=strategy.window_ms / 1e3,
            reorder=strategy.reorder,
            target_itl_ms=self._target_itl_ms,
        )
        router: Router = first_free if concurrent else least_requests
        return SimulatedFleet(facts, config, self._cost, strategy.instances, shared=concurrent).run(jobs, router)
