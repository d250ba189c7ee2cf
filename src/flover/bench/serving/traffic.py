"""Arrival times of a benchmark's requests. Pure functions."""

from __future__ import annotations

import math
import random

from flover.bench.serving.options import Traffic
from flover.bench.workload import fixed_arrivals, random_arrivals


def arrivals(traffic: Traffic, num_requests: int, seed: int) -> list[float]:
    """Seconds after the start, the first at 0; gaps follow a gamma distribution with mean 1/rate.

    As in vLLM, the gaps of a constant rate are scaled so that their mean is exactly 1/rate: a seed changes the pattern,
    not the rate. In a ramp the rate grows from request to request. An infinite burstiness makes all gaps equal.
    """
    rng = random.Random(seed)
    if traffic.ramp_up_strategy is not None:
        times, now = [], 0.0
        for index in range(num_requests):
            times.append(now)
            now += _gap(rng, ramp_rate(traffic, index, num_requests), traffic.burstiness)
        return times
    if math.isinf(traffic.burstiness):
        return fixed_arrivals(num_requests, 1 / traffic.request_rate)
    times = random_arrivals(rng, num_requests, traffic.request_rate, traffic.burstiness)
    stretch = (num_requests - 1) / (traffic.request_rate * times[-1]) if times[-1] else 1.0
    return [stretch * time for time in times]


def ramp_rate(traffic: Traffic, index: int, num_requests: int) -> float:
    """Requests per second at request `index` of a ramp."""
    start, end = traffic.ramp_up_start_rps, traffic.ramp_up_end_rps
    assert start is not None and end is not None
    progress = index / max(num_requests - 1, 1)
    if traffic.ramp_up_strategy == "linear":
        return start + (end - start) * progress
    return float(start * (end / start) ** progress)


def _gap(rng: random.Random, rate: float, burstiness: float) -> float:
    return 1 / rate if math.isinf(burstiness) else rng.gammavariate(burstiness, 1 / (rate * burstiness))
