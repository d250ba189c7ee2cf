"""Fits a `Cost` to iterations of the real engine on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from flover.bench.workload import TOKEN_IDS, fixed, fixed_arrivals, random_jobs
from flover.engine.budget import attention_of
from flover.engine.executor import Executor
from flover.engine.loop import Engine
from flover.engine.plan import StepPlan, StepResult
from flover.engine.roster import SchedulerConfig
from flover.observe.wrapped import WrappedExecutor
from flover_benchmarks.paper.processes import as_request
from flover_benchmarks.simulated.cost import Cost

KNOTS = (1, 2, 4, 8, 16, 24, 32, 64, 256)
"""Numbers of tokens at which the cost is measured: the knots of the fit."""
CONTEXTS = (16, 256)
STEPS = 12
"""Iterations to observe for each number of rows and each context."""


@dataclass(frozen=True, slots=True)
class Observation:
    """One iteration: its tokens, the context that they read, its duration."""

    tokens: int
    context: int
    milliseconds: float


class TimedExecutor(WrappedExecutor):
    """An executor that records the duration of every iteration."""

    def __init__(self, executor: Executor) -> None:
        super().__init__(executor)
        self.observations: list[Observation] = []

    def start(self, plan: StepPlan) -> None:
        self._plan, self._began = plan, time.perf_counter()
        super().start(plan)

    def finish(self) -> StepResult:
        result = super().finish()
        milliseconds = 1e3 * (time.perf_counter() - self._began)
        self.observations.append(Observation(self._plan.num_tokens, attention_of(self._plan), milliseconds))
        return result


def observe(executor: Executor, config: SchedulerConfig, progress: Callable[[int, int], None]) -> list[Observation]:
    """Batches of growing size with a short and a longer context; `progress` is called with (rounds done, total)."""
    watched = TimedExecutor(executor)
    engine = Engine(watched, config, time.perf_counter)
    rounds = [(rows, context) for context in CONTEXTS for rows in KNOTS if rows <= config.max_num_seqs]
    longest = engine.facts.max_model_len - STEPS
    for done, (rows, context) in enumerate(rounds):
        progress(done, len(rounds))
        jobs = random_jobs(done, fixed_arrivals(rows, 0.0), fixed(min(context, longest)), fixed(STEPS), TOKEN_IDS)
        for index, job in enumerate(jobs):
            engine.submit(as_request(job, f"round-{done}-{index}"))
        while engine.has_work:
            engine.step()
    return watched.observations


def fit(observations: Sequence[Observation]) -> Cost:
    """Least squares of the relative error: a value at each knot, and a slope in context."""
    tokens = np.array([one.tokens for one in observations], dtype=np.float64)
    knots = [knot for knot in KNOTS if knot <= tokens.max()]
    if knots[-1] < tokens.max():
        knots.append(int(tokens.max()))
    heights = np.stack([np.interp(tokens, knots, row) for row in np.eye(len(knots))], axis=1)
    context = np.array([one.context for one in observations], dtype=np.float64)
    took = np.array([one.milliseconds for one in observations])
    # A knot without observations nearby stays on the line between the adjacent knots.
    smooth = 1e-3 * np.diff(np.eye(len(knots)), n=2, axis=0) if len(knots) > 2 else np.zeros((0, len(knots)))
    left = np.column_stack([heights, context]) / took[:, None]
    left = np.vstack([left, np.column_stack([smooth, np.zeros(len(smooth))])])
    right = np.concatenate([np.ones(len(took)), np.zeros(len(smooth))])
    solved = np.linalg.lstsq(left, right, rcond=None)[0]
    per_context = max(0.0, float(solved[-1]))
    points = tuple((int(knot), max(1e-3, float(height))) for knot, height in zip(knots, solved[:-1], strict=True))
    return Cost(points, per_context)


def mean_error(cost: Cost, observations: Sequence[Observation]) -> float:
    """Mean of |predicted / observed - 1|."""
    errors = [abs(cost.of(one.tokens, one.context) / one.milliseconds - 1) for one in observations]
    return sum(errors) / len(errors)
