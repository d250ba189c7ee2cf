"""Workloads of benchmarks: arrivals, lengths and prompts from a seed. Pure functions."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from flover.errors import ConfigError

TOKEN_IDS = (16, 255)
"""Range of the random prompt ids, valid in every vocabulary."""


@dataclass(frozen=True, slots=True)
class Job:
    """One request of a workload: arrival (seconds after the start), prompt and number of output tokens."""

    at: float
    prompt_ids: tuple[int, ...]
    output_len: int
    seed: int
    samples: int = 1
    """Continuations of the same prompt."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Numbers of tokens, uniform between `low` and `high`, both included."""

    low: int
    high: int

    def __post_init__(self) -> None:
        if not 1 <= self.low <= self.high:
            raise ConfigError(f"lengths must satisfy 1 <= low <= high, got {self.low}..{self.high}")

    def draw(self, rng: random.Random) -> int:
        """One length."""
        return rng.randint(self.low, self.high)


def fixed(length: int) -> Lengths:
    """A constant length."""
    return Lengths(length, length)


def fixed_arrivals(num_requests: int, gap: float) -> list[float]:
    """Arrival times in seconds with a constant gap; gap 0 is all at once."""
    return [index * gap for index in range(num_requests)]


def random_arrivals(rng: random.Random, num_requests: int, rate: float, burstiness: float = 1.0) -> list[float]:
    """Arrival times in seconds at `rate` requests per second; the first is 0.

    Gaps follow a gamma distribution with shape `burstiness` and mean 1/rate: 1 is a Poisson process, below 1 is more
    bursty, above 1 is more even. An infinite rate is all at once.
    """
    if not rate > 0 or not burstiness > 0:
        raise ConfigError(f"rate and burstiness must be above 0, got {rate:g} and {burstiness:g}")
    if rate == float("inf"):
        return [0.0] * num_requests
    times, now = [], 0.0
    for _ in range(num_requests):
        times.append(now)
        now += rng.gammavariate(burstiness, 1 / (rate * burstiness))
    return times


def random_jobs(
    seed: int, arrivals: Sequence[float], prompt_lens: Lengths, output_lens: Lengths, ids: tuple[int, int]
) -> list[Job]:
    """One job per arrival with random token ids in the range `ids` (both ends included).

    Different seeds give different prompts, so runs share no prefixes.
    """
    rng = random.Random(seed)
    low, high = ids
    if not 0 <= low <= high:
        raise ConfigError(f"token ids must satisfy 0 <= low <= high, got {low}..{high}")
    return [
        Job(
            at=at,
            prompt_ids=tuple(rng.randint(low, high) for _ in range(prompt_lens.draw(rng))),
            output_len=output_lens.draw(rng),
            seed=rng.randrange(2**31),
        )
        for at in arrivals
    ]
