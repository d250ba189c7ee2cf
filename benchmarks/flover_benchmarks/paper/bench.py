"""Shared parts of the experiments: the time of a lone request as the unit, strategies, results."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flover.bench.workload import TOKEN_IDS, Job, Lengths, fixed, random_jobs
from flover_benchmarks.paper.outcome import BatchingStrategy, Outcome, Runner

PROMPT_LEN = 8
"""Prompt tokens of every request of the paper."""
FUSION = BatchingStrategy("fusion")
NO_REORDER = BatchingStrategy("fusion", reorder=False)
SERIAL = BatchingStrategy("serial")
STATIC = BatchingStrategy("static")
LONE_RUNS = 3

Progress = Callable[[str], None]
"""A function of the current task."""


@dataclass(frozen=True, slots=True)
class Scale:
    """The size of the experiments. The paper's have up to 32 requests of 512 iterations."""

    output_len: int
    nums: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    instances: int = 4
    """Engine processes of the concurrent baseline."""
    gaps: tuple[float, ...] = ()
    """E3: the paper's mean gaps between arrivals to run, in milliseconds; empty: all of them."""
    samples: tuple[int, ...] = (1, 2, 4)
    """E4: samples per request."""
    draws: int = 1
    """E3: number of draws of Poisson arrivals; iterations and overlap are their means."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table of text cells."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Figure:
    """A line plot. A series is (name, x values, y values)."""

    name: str
    title: str
    x_label: str
    y_label: str
    series: tuple[tuple[str, tuple[float, ...], tuple[float, ...]], ...]
    log_x: bool = False
    log_y: bool = False
    steps: bool = False
    """Draw as steps: values hold until the next one."""


@dataclass(frozen=True, slots=True)
class Result:
    """The result of an experiment: tables, figures, remarks, and facts for the JSON line."""

    name: str
    title: str
    tables: tuple[Table, ...]
    figures: tuple[Figure, ...] = ()
    remarks: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


class Bench:
    """A runner with its unit of time, `lone`: the time of one request alone, from arrival to its last token."""

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
        self._outcomes: dict[tuple[BatchingStrategy, tuple[Job, ...]], Outcome] = {}

    @property
    def lone(self) -> float:
        """Seconds of a request of `output_len` tokens alone: the best of a few."""
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

    def run(self, jobs: Sequence[Job], strategy: BatchingStrategy, what: str) -> Outcome:
        """Run one workload under one strategy; results are cached."""
        key = (strategy, tuple(jobs))
        if key not in self._outcomes:
            self._progress(f"{what}: {strategy.label}")
            self._outcomes[key] = self._runner.run(jobs, strategy)
        return self._outcomes[key]

    def concurrent(self, num_requests: int) -> BatchingStrategy:
        """Concurrent instances: one for each request, at most `instances`."""
        return BatchingStrategy("concurrent", instances=max(1, min(num_requests, self.scale.instances)))

    def dynamic(self, window: float) -> BatchingStrategy:
        """Dynamic batching with a window in seconds."""
        return BatchingStrategy("dynamic-batching", window_ms=1e3 * window)


def number(value: float) -> str:
    """Three significant figures."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def times(value: float) -> str:
    """A ratio."""
    return f"{value:.2f} x"
