"""Metrics of `bench serve` from the records of a run: those of `bench/metrics.py`, and three more:

- Goodput: requests per second that meet every stated limit; a request of one token has a TPOT of 0.
- Peak output token throughput: most tokens in any whole second after the first send.
- Peak concurrent requests: most requests open at one time, from sending to the last chunk.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flover.bench.metrics import RequestRecord, percentile, tpot

DEFINITIONS = """\
TTFT: send to first token. E2EL: send to last chunk. TPOT: (E2EL - TTFT) / (output tokens - 1), one value per request.
ITL: gaps between the chunks of a request, pooled over requests. Duration: first send to last chunk."""


@dataclass(frozen=True, slots=True)
class Stats:
    """Milliseconds: mean, median, standard deviation, and percentiles by number; NaN without values."""

    mean: float
    median: float
    std: float
    percentiles: Mapping[float, float]

    @classmethod
    def of(cls, seconds: Sequence[float], percentiles: Sequence[float]) -> Stats:
        """Statistics of durations in seconds."""
        if not seconds:
            return cls(math.nan, math.nan, math.nan, dict.fromkeys(percentiles, math.nan))
        mean = math.fsum(seconds) / len(seconds)
        variance = math.fsum((value - mean) ** 2 for value in seconds) / len(seconds)
        return cls(
            mean=1e3 * mean,
            median=1e3 * percentile(seconds, 50),
            std=1e3 * math.sqrt(variance),
            percentiles={q: 1e3 * percentile(seconds, q) for q in percentiles},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """The metrics of one run: seconds, tokens, and rates per second; `metrics` by name."""

    completed: int
    failed: int
    good: int
    duration: float
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    peak_output_throughput: float
    peak_concurrency: int
    metrics: Mapping[str, Stats]

    @property
    def request_throughput(self) -> float:
        return self._rate(self.completed)

    @property
    def goodput(self) -> float:
        """Good requests per second."""
        return self._rate(self.good)

    @property
    def attainment(self) -> float:
        """Fraction of good requests; failed ones are not good."""
        return self.good / max(self.completed + self.failed, 1)

    @property
    def output_throughput(self) -> float:
        return self._rate(self.output_tokens)

    @property
    def total_throughput(self) -> float:
        return self._rate(self.input_tokens + self.output_tokens)

    def _rate(self, amount: float) -> float:
        return amount / self.duration if self.duration else 0.0


def make_figures(
    records: Sequence[RequestRecord], limits: Mapping[str, float] | None = None, percentiles: Sequence[float] = (99.0,)
) -> Figures:
    """Metrics of one run; `limits` in milliseconds define good requests. Failed requests are only counted."""
    done = [record for record in records if record.ok]
    values = [_values(record) for record in done]
    pools = {name: [value[name] for value in values] for name in ("ttft", "e2el")}
    pools["tpot"] = [tpot(record) for record in done if record.output_tokens > 1]
    pools["itl"] = [gap for record in done for gap in record.gaps]
    ends = [record.end for record in done if record.end is not None]
    return Figures(
        completed=len(done),
        failed=len(records) - len(done),
        good=sum(_is_good(value, limits or {}) for value in values),
        duration=max(ends) - min(record.sent for record in records) if done else 0.0,
        input_tokens=sum(record.prompt_tokens for record in done),
        output_tokens=sum(record.output_tokens for record in done),
        cached_tokens=sum(record.cached_tokens for record in done),
        peak_output_throughput=peak_throughput(done),
        peak_concurrency=peak_concurrency(done),
        metrics={name: Stats.of(pool, percentiles) for name, pool in pools.items()},
    )


def _values(record: RequestRecord) -> dict[str, float]:
    """Seconds of one request, by metric."""
    per_token = tpot(record) if record.output_tokens > 1 else 0.0
    return {"ttft": record.ttft, "tpot": per_token, "e2el": record.e2el}


def _is_good(values: Mapping[str, float], limits: Mapping[str, float]) -> bool:
    return all(1e3 * values[name] <= limit for name, limit in limits.items())


def peak_throughput(records: Sequence[RequestRecord]) -> float:
    """Most tokens in any whole second after the first send. A chunk counts as the average number of tokens per chunk of
    its request."""
    if not records:
        return 0.0
    start = min(record.sent for record in records)
    totals: dict[int, float] = defaultdict(float)
    for record in records:
        weight = record.output_tokens / len(record.ticks)
        for tick in record.ticks:
            totals[int(tick - start)] += weight
    return max(totals.values())


def peak_concurrency(records: Sequence[RequestRecord]) -> int:
    """Most requests open at one time; one that ends at the time another is sent does not overlap with it."""
    events = [(record.sent, 1) for record in records] + [(record.end or record.sent, -1) for record in records]
    most = now = 0
    for _, change in sorted(events):
        now += change
        most = max(most, now)
    return most
