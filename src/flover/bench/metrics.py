"""Metrics of serving benchmarks, from the arrival times of chunks:

- TTFT, time to first token: from sending the request to its first chunk with a token.
- E2EL, end-to-end latency: from sending the request to its last chunk.
- TPOT, time per output token: (E2EL - TTFT) / (output tokens - 1), one value per request with more than one token.
- ITL, inter-token latency: the gaps between successive chunks of a request, pooled over all requests, so that long
  requests weigh more. A chunk of several tokens makes one gap.
- Output throughput: generated tokens of all requests / wall time from the first send to the last chunk.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise


@dataclass(slots=True)
class RequestRecord:
    """The times of one request, in seconds on one clock. `error` is None if it was served in full."""

    sent: float
    ticks: list[float] = field(default_factory=list)  # arrivals of the chunks with tokens
    end: float | None = None  # arrival of the last chunk
    prompt_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    text: str = ""
    error: str | None = None

    @property
    def ok(self) -> bool:
        """Whether it was served in full."""
        return self.error is None and self.end is not None and bool(self.ticks)

    @property
    def ttft(self) -> float:
        return self.ticks[0] - self.sent

    @property
    def e2el(self) -> float:
        assert self.end is not None
        return self.end - self.sent

    @property
    def gaps(self) -> list[float]:
        """Inter-token gaps of this request."""
        return [late - early for early, late in pairwise(self.ticks)]


def percentile(values: Iterable[float], q: float) -> float:
    """The q-th percentile (0..100) with linear interpolation between neighbours; NaN without values."""
    import numpy as np  # help of the benchmarks needs none

    found = list(values)
    return float(np.percentile(found, q)) if found else math.nan


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and percentiles of durations, in milliseconds; NaN without values."""

    mean: float
    p50: float
    p99: float
    max: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Spread:
        """Of durations in seconds."""
        if not seconds:
            return cls(math.nan, math.nan, math.nan, math.nan)
        return cls(
            mean=1e3 * sum(seconds) / len(seconds),
            p50=1e3 * percentile(seconds, 50),
            p99=1e3 * percentile(seconds, 99),
            max=1e3 * max(seconds),
        )


@dataclass(frozen=True, slots=True)
class Summary:
    """One run of a workload. Durations in seconds, spreads in milliseconds, throughput in tokens per second."""

    completed: int
    failed: int
    duration: float
    prompt_tokens: int
    output_tokens: int
    cached_tokens: int
    output_throughput: float
    ttft: Spread
    tpot: Spread
    itl: Spread
    e2el: Spread


def summarise(records: Sequence[RequestRecord]) -> Summary:
    """Metrics of one run; failed requests are counted and otherwise left out."""
    good = [record for record in records if record.ok]
    ends = [record.end for record in good if record.end is not None]
    duration = max(ends) - min(record.sent for record in records) if good else 0.0
    output_tokens = sum(record.output_tokens for record in good)
    return Summary(
        completed=len(good),
        failed=len(records) - len(good),
        duration=duration,
        prompt_tokens=sum(record.prompt_tokens for record in good),
        output_tokens=output_tokens,
        cached_tokens=sum(record.cached_tokens for record in good),
        output_throughput=output_tokens / duration if duration else 0.0,
        ttft=Spread.of([record.ttft for record in good]),
        tpot=Spread.of([tpot(record) for record in good if record.output_tokens > 1]),
        itl=Spread.of([gap for record in good for gap in record.gaps]),
        e2el=Spread.of([record.e2el for record in good]),
    )


def tpot(record: RequestRecord) -> float:
    """Seconds per output token after the first."""
    return (record.e2el - record.ttft) / (record.output_tokens - 1)
