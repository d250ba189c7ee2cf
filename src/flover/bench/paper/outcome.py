"""What a strategy made of a workload. The words that experiments and runners share; pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from flover.bench.metrics import Record
from flover.bench.workload import Job


@dataclass(frozen=True, slots=True)
class Strategy:
    """How requests share a model: a name of `engine/strategy.py` with its parameters, or `concurrent`."""

    name: str
    reorder: bool = True
    window_ms: float = 0.0
    """How long a batch waits for company; `dynamic-batching` only."""
    instances: int = 1
    """Engine processes, each with weights of its own; `concurrent` only."""
    ranks: int = 1
    """Processes that share one model (tensor parallel)."""

    @property
    def label(self) -> str:
        """What tables and figures call it."""
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
    """One run. `records` are in the order of the jobs; a request that was sent at its arrival waits from then on."""

    records: Sequence[Record]
    iterations: int
    """Passes over the weights, of all instances together."""
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

    def run(self, jobs: Sequence[Job], strategy: Strategy) -> Outcome:
        """Raises `EngineError` if a request fails."""
        ...
