"""What experiments share: the workloads' measure (the lone request), the strategies, the shape of a result."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flover.bench.paper.outcome import Outcome, Runner, Strategy
from flover.bench.workload import TOKEN_IDS, Job, Lengths, fixed, random_jobs

PROMPT_LEN = 8
"""Prompt tokens of every request of the paper."""
FUSION = Strategy("fusion")
NO_REORDER = Strategy("fusion", reorder=False)
SERIAL = Strategy("serial")
STATIC = Strategy("static")
LONE_RUNS = 3

Progress = Callable[[str], None]
"""Told what runs now."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How large the experiments are. The paper's requests make 512 iterations and come up to 32 at a time."""

    output_len: int
    nums: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    instances: int = 4
    """Engine processes of the concurrent baseline."""
    gaps: tuple[float, ...] = ()
    """E3: mean gaps between arrivals as they stand in the paper, in milliseconds; empty: all of them."""
    samples: tuple[int, ...] = (1, 2, 4)
    """E4: samples per request."""
    draws: int = 1
    """E3: Poisson arrivals are drawn so often, and iterations and overlap are means."""


@dataclass(frozen=True, slots=True)
class Table:
    """Header and rows as text."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Figure:
    """Lines over one axis. A series is (name, x values, y values)."""

    name: str
    title: str
    x_label: str
    y_label: str
    series: tuple[tuple[str, tuple[float, ...], tuple[float, ...]], ...]
    log_x: bool = False
    log_y: bool = False
    steps: bool = False
    """Values hold until the next one."""


@dataclass(frozen=True, slots=True)
class Result:
    """What an experiment found: for people tables, figures and remarks, for programs facts."""

    name: str
    title: str
    tables: tuple[Table, ...]
    figures: tuple[Figure, ...] = ()
    remarks: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


class Bench:
    """A runner with a measure: `lone` is how long one request alone takes, from arrival to its last token."""

    def __init__(
        self, runner: Runner, scale: Scale, progress: Progress, model: str, page_size: int = 16, seed: int = 0
    ) -> None:
        self.scale = scale
        self.model = model
        self.page_size = page_size
        self._runner = runner
        self._progress = progress
        self._seed = seed
        self._lone: float | None = None
        self._outcomes: dict[tuple[Strategy, tuple[Job, ...]], Outcome] = {}

    @property
    def lone(self) -> float:
        """Seconds that a request of `output_len` tokens takes when nobody else is here: the best of a few."""
        if self._lone is None:
            jobs = self.jobs([0.0])
            self._progress("one request alone")
            self._lone = min(self._runner.run(jobs, FUSION).seconds for _ in range(1 + LONE_RUNS))
        return self._lone

    def jobs(self, arrivals: Sequence[float], lengths: Lengths | None = None, samples: int = 1) -> list[Job]:
        """The paper's requests: 8 prompt tokens, `output_len` tokens or lengths drawn from a range."""
        drawn = random_jobs(self._seed, arrivals, fixed(PROMPT_LEN), lengths or fixed(self.scale.output_len), TOKEN_IDS)
        return [Job(job.at, job.prompt_ids, job.output_len, job.seed, samples) for job in drawn]

    def poisson(self, num: int, mean_gap: float, draw: int = 0) -> list[float]:
        """Arrivals with exponential gaps, in seconds; the same draws for every mean."""
        rng = random.Random(f"{self._seed} {draw}")
        times, now = [], 0.0
        for _ in range(num):
            times.append(now)
            now += rng.expovariate(1.0) * mean_gap
        return times

    def run(self, jobs: Sequence[Job], strategy: Strategy, what: str) -> Outcome:
        """One workload under one strategy. The same again is not run again."""
        key = (strategy, tuple(jobs))
        if key not in self._outcomes:
            self._progress(f"{what}: {strategy.label}")
            self._outcomes[key] = self._runner.run(jobs, strategy)
        return self._outcomes[key]

    def concurrent(self, num_requests: int) -> Strategy:
        """As many instances as there are requests, at most `instances`."""
        return Strategy("concurrent", instances=max(1, min(num_requests, self.scale.instances)))

    def dynamic(self, window: float) -> Strategy:
        """Dynamic batching with a window in seconds."""
        return Strategy("dynamic-batching", window_ms=1e3 * window)


def number(value: float) -> str:
    """Three significant figures."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def times(value: float) -> str:
    """A ratio."""
    return f"{value:.2f} x"
