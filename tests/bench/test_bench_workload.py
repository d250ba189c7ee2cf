"""Workloads: the seed decides everything, and the laws of the arrivals hold."""

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flover.bench.workload import Lengths, fixed, fixed_arrivals, random_arrivals, random_jobs
from flover.errors import ConfigError


def gaps(times: list[float]) -> list[float]:
    return [late - early for early, late in itertools.pairwise(times)]


def spread(times: list[float]) -> float:
    """Standard deviation of the gaps over their mean: 1 for Poisson arrivals."""
    values = gaps(times)
    mean = sum(values) / len(values)
    return (sum((value - mean) ** 2 for value in values) / len(values)) ** 0.5 / mean


@given(seed=st.integers(0, 2**32), num=st.integers(1, 50), rate=st.floats(0.1, 1000), shape=st.floats(0.2, 5))
def test_arrivals_start_at_zero_never_go_back_and_follow_the_seed(
    seed: int, num: int, rate: float, shape: float
) -> None:
    times = random_arrivals(random.Random(seed), num, rate, shape)
    assert len(times) == num
    assert times[0] == 0.0
    assert all(gap >= 0 for gap in gaps(times))
    assert times == random_arrivals(random.Random(seed), num, rate, shape)


@pytest.mark.parametrize(("burstiness", "expected"), [(1.0, 1.0), (0.25, 2.0), (4.0, 0.5)])
def test_mean_gap_is_the_rate_and_burstiness_is_its_shape(burstiness: float, expected: float) -> None:
    times = random_arrivals(random.Random(1), 20_000, rate=8.0, burstiness=burstiness)
    assert times[-1] / (len(times) - 1) == pytest.approx(1 / 8.0, rel=0.05)
    assert spread(times) == pytest.approx(expected, rel=0.05)


def test_an_infinite_rate_and_no_gap_are_all_at_once() -> None:
    assert random_arrivals(random.Random(0), 3, float("inf")) == [0.0, 0.0, 0.0]
    assert fixed_arrivals(3, 0.0) == [0.0, 0.0, 0.0]
    assert fixed_arrivals(3, 0.5) == [0.0, 0.5, 1.0]


@pytest.mark.parametrize(("rate", "burstiness"), [(0.0, 1.0), (-1.0, 1.0), (1.0, 0.0), (float("nan"), 1.0)])
def test_a_rate_or_burstiness_that_is_not_above_zero_is_refused(rate: float, burstiness: float) -> None:
    with pytest.raises(ConfigError, match="above 0"):
        random_arrivals(random.Random(0), 3, rate, burstiness)


@given(seed=st.integers(0, 2**32), low=st.integers(1, 20), more=st.integers(0, 20))
def test_jobs_stay_in_their_ranges_and_follow_the_seed(seed: int, low: int, more: int) -> None:
    lengths = Lengths(low, low + more)
    jobs = random_jobs(seed, [0.0, 1.0, 2.0], lengths, lengths, (16, 255))
    assert [job.at for job in jobs] == [0.0, 1.0, 2.0]
    assert all(low <= len(job.prompt_ids) <= low + more and low <= job.output_len <= low + more for job in jobs)
    assert all(16 <= token <= 255 for job in jobs for token in job.prompt_ids)
    assert jobs == random_jobs(seed, [0.0, 1.0, 2.0], lengths, lengths, (16, 255))


def test_another_seed_means_other_prompts_so_no_prefix_is_shared() -> None:
    first, second = (random_jobs(seed, [0.0] * 32, fixed(64), fixed(64), (16, 255)) for seed in (1, 2))
    assert {job.prompt_ids[:4] for job in first}.isdisjoint({job.prompt_ids[:4] for job in second})


@pytest.mark.parametrize(("low", "high"), [(0, 5), (6, 5), (-1, -1)])
def test_lengths_that_make_no_sense_are_refused(low: int, high: int) -> None:
    with pytest.raises(ConfigError, match="1 <= low <= high"):
        Lengths(low, high)
