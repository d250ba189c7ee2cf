"""Simulates a stream of requests on many replicas behind a router."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flover.bench.metrics import summarise
from flover.bench.workload import Job, random_arrivals
from flover_benchmarks.paper.bench import Table, number
from flover_benchmarks.simulated.cost import Cost, roomy
from flover_benchmarks.simulated.fleet import Router, SimulatedFleet

LONGEST = 8
"""Ratio of the longest output to the mean: exponential lengths are cut there."""


@dataclass(frozen=True, slots=True)
class FleetLoad:
    """A stream of requests: their number, rate per second, prompt tokens, mean output tokens."""

    num_requests: int
    rate: float
    input_len: int
    output_len: int


@dataclass(frozen=True, slots=True)
class FleetResult:
    """The metrics of a simulated stream."""

    table: Table
    facts: dict[str, Any]


def run(
    cost: Cost,
    num_replicas: int,
    router: Router,
    load: FleetLoad,
    max_num_seqs: int,
    rng: random.Random,
    progress: Callable[[int, int], None],
) -> FleetResult:
    """Simulate the stream on the fleet."""
    longest = load.input_len + LONGEST * load.output_len
    facts, config = roomy(max_num_seqs, longest)
    prompt = tuple(range(load.input_len))
    jobs = [
        Job(at, prompt, min(1 + round(rng.expovariate(1 / load.output_len)), LONGEST * load.output_len), 0)
        for at in random_arrivals(rng, load.num_requests, load.rate)
    ]
    outcome = SimulatedFleet(facts, config, cost, num_replicas).run(jobs, router, progress)
    summary = summarise(outcome.records)
    busiest = max(moment.generating for moment in outcome.moments)
    rows = (
        ("requests", f"{summary.completed:,}"),
        ("simulated seconds", number(summary.duration)),
        ("output tokens per second", number(summary.output_throughput)),
        ("requests per iteration of a replica", number(outcome.overlap)),
        ("peak concurrent requests", f"{busiest:,}"),
        ("time to first token, p50 / p99, ms", f"{number(summary.ttft.p50)} / {number(summary.ttft.p99)}"),
        ("inter-token gap, p50 / p99, ms", f"{number(summary.itl.p50)} / {number(summary.itl.p99)}"),
        ("end to end, p50 / p99, ms", f"{number(summary.e2el.p50)} / {number(summary.e2el.p99)}"),
    )
    title = f"{load.rate:g} requests per second, {load.input_len} in, {load.output_len} out on average"
    return FleetResult(
        Table(title, ("", ""), rows),
        {
            "duration_s": summary.duration,
            "output_tok_s": summary.output_throughput,
            "overlap": outcome.overlap,
            "ttft_ms": {"p50": summary.ttft.p50, "p99": summary.ttft.p99},
            "itl_ms": {"p50": summary.itl.p50, "p99": summary.itl.p99},
            "e2el_ms": {"p50": summary.e2el.p50, "p99": summary.e2el.p99},
        },
    )
