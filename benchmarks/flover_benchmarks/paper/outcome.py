"""The types shared by experiments and runners: a strategy and the outcome of a workload."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from flover.bench.metrics import RequestRecord
from flover.bench.workload import Job


@dataclass(frozen=True, slots=True)
class BatchingStrategy:
    """A batching strategy: a name of `engine/strategy.py` with its parameters, or `concurrent`."""

    name: str
    reorder: bool = True
    window_ms: float = 0.0
    """How long a batch waits for more requests; `dynamic-batching` only."""
    instances: int = 1
    """Engine processes, each with its own weights; `concurrent` only."""
    ranks: int = 1
    """Tensor parallel ranks."""

    @property
    def label(self) -> str:
        """The name in tables and figures."""
        if self.name == "concurrent":
            return f"{self.instances} concurrent"
        if self.name == "dynamic-batching":
            return f"dynamic batching {self.window_ms / 1e3:.2g} s"
        name = self.name if self.ranks == 1 else f"{self.name} on {self.ranks} ranks"
        return name if self.reorder else f"{name}, no reordering"


@dataclass(frozen=True, slots=True)
class Moment:
    """The state after an iteration: seconds since the first arrival, pages in use, requests that generated."""

    at: float
    pages: int
    generating: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one run. `records` are in the order of the jobs; waiting counts from a request's arrival."""

    records: Sequence[RequestRecord]
    iterations: int
    """Passes over the weights, summed over instances."""
    row_moves: int
    moments: Sequence[Moment]

    @property
    def seconds(self) -> float:
        """The paper's overall latency: from the first arrival to the last token, gaps between arrivals included."""
        ends = [record.end for record in self.records if record.end is not None]
        return max(ends) - min(record.sent for record in self.records) if ends else math.nan

    @property
    def mean_latency(self) -> float:
        """Seconds from a request's arrival to its last token, on average."""
        return sum(record.e2el for record in self.records) / len(self.records)

    @property
    def tokens(self) -> int:
        return sum(record.output_tokens for record in self.records)

    @property
    def overlap(self) -> float:
        """Tokens per pass over the weights, which is the paper's `avg overlapped requests`."""
        return self.tokens / self.iterations if self.iterations else 0.0

    @property
    def peak_pages(self) -> int:
        return max((moment.pages for moment in self.moments), default=0)


class Runner(Protocol):
    """Runs a workload under a strategy: on this machine, or in simulated time."""

    def run(self, jobs: Sequence[Job], strategy: BatchingStrategy) -> Outcome:
        """Run one workload. Raises `EngineError` if a request fails."""
        ...
