"""The cost model of an iteration, and an executor that only advances a simulated clock."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from flover.engine.budget import attention_of
from flover.engine.executor import BlockingExecutor
from flover.engine.plan import RowResult, StepPlan, StepResult
from flover.engine.roster import SchedulerConfig
from flover.errors import ConfigError
from flover.request import ModelFacts

PAGE_SIZE = 16
TOKEN = 0
"""The token id of all simulated outputs."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Milliseconds of an iteration: a function of its tokens, plus `per_context` per token of context read.

    `points` are (tokens, milliseconds) with increasing tokens; the cost is piecewise linear, extrapolated beyond the
    outermost points. Two points are the line a + b·tokens.
    """

    points: tuple[tuple[int, float], ...]
    per_context: float = 0.0

    def __post_init__(self) -> None:
        tokens = [point[0] for point in self.points]
        if len(tokens) < 2 or tokens != sorted(set(tokens)) or tokens[0] < 0:
            raise ConfigError(f"a cost needs two points or more with growing numbers of tokens, got {self.points}")
        if self.per_context < 0 or self.of(1, 0) <= 0:
            raise ConfigError("the cost of an iteration must be above 0")

    def of(self, tokens: int, context: int) -> float:
        """Milliseconds of an iteration of `tokens` tokens that read `context` tokens in all."""
        index = bisect_right(self.points, (tokens, float("inf"))) - 1
        (low, low_ms), (high, high_ms) = self.points[min(max(index, 0), len(self.points) - 2) :][:2]
        return low_ms + (high_ms - low_ms) * (tokens - low) / (high - low) + self.per_context * context


def line(base: float, per_token: float, per_context: float = 0.0) -> Cost:
    """base + per_token·tokens + per_context·context, all in milliseconds."""
    return Cost(((0, base), (1, base + per_token)), per_context)


class Clock:
    """Simulated seconds; the executor advances `now`."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class CostExecutor(BlockingExecutor):
    """An executor whose iterations take `cost` times `slowdown` on `clock`."""

    def __init__(self, facts: ModelFacts, cost: Cost, clock: Clock) -> None:
        self.facts = facts
        self.slowdown = 1.0
        self._cost = cost
        self._clock = clock

    def run(self, plan: StepPlan) -> StepResult:
        """Advance the clock by the iteration's time; every sampling row gets a token."""
        self._clock.now += self._cost.of(plan.num_tokens, attention_of(plan)) * self.slowdown / 1e3
        rows = [RowResult(row=work.row, token_ids=[TOKEN]) for work in plan.work if work.num_samples]
        return StepResult(step=plan.step, rows=rows)

    def trim(self, free_pages: list[int]) -> None:
        pass

    def check(self) -> None:
        pass

    def close(self) -> None:
        pass


def roomy(max_num_seqs: int, longest: int) -> tuple[ModelFacts, SchedulerConfig]:
    """Facts and limits for sequences of up to `longest` tokens, with a pool that always has enough pages."""
    pages = -(-longest // PAGE_SIZE) * max_num_seqs
    facts = ModelFacts(
        model="simulated",
        architecture="simulated",
        dtype="none",
        vocab_size=1 << 20,
        max_model_len=longest,
        pool_tokens=pages * PAGE_SIZE,
        page_size=PAGE_SIZE,
        eos_ids=[],
    )
    config = SchedulerConfig(
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max(2048, max_num_seqs),
        page_size=PAGE_SIZE,
        num_pages=pages + 1,
        max_model_len=longest,
        enable_prefix_caching=False,
    )
    return facts, config
