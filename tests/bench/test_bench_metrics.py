"""Figures from ticks that a person can check by head."""

import math

import pytest

from flover.bench.metrics import RequestRecord, Spread, percentile, summarise


def record(sent: float, ticks: list[float], **changes: object) -> RequestRecord:
    values = {"end": ticks[-1] if ticks else None, "prompt_tokens": 3, "output_tokens": len(ticks), **changes}
    return RequestRecord(sent=sent, ticks=ticks, **values)


def test_percentiles_interpolate_between_neighbours() -> None:
    assert percentile([40.0, 10.0, 20.0, 30.0], 50) == 25.0
    assert percentile([10.0, 20.0, 30.0, 40.0], 0) == 10.0
    assert percentile([10.0, 20.0, 30.0, 40.0], 100) == 40.0
    assert percentile(range(101), 99) == 99.0
    assert percentile([7.0], 99) == 7.0
    assert math.isnan(percentile([], 50))


def test_one_request_by_its_definitions() -> None:
    one = record(10.0, [10.5, 10.7, 11.0, 11.1])
    assert one.ttft == pytest.approx(0.5)
    assert one.e2el == pytest.approx(1.1)
    assert one.gaps == pytest.approx([0.2, 0.3, 0.1])
    summary = summarise([one])
    assert summary.tpot.mean == pytest.approx(1e3 * (1.1 - 0.5) / 3)
    assert summary.itl.max == pytest.approx(300.0)


def test_time_per_token_counts_tokens_and_gaps_count_chunks() -> None:
    merged = record(0.0, [1.0, 2.0, 3.0], output_tokens=5)
    summary = summarise([merged])
    assert summary.tpot.mean == pytest.approx(1e3 * 2.0 / 4)
    assert summary.itl.mean == pytest.approx(1e3)


def test_throughput_runs_from_the_first_send_to_the_last_chunk() -> None:
    summary = summarise([record(5.0, [6.0, 7.0]), record(6.0, [8.0, 9.0, 10.0])])
    assert summary.duration == pytest.approx(5.0)
    assert summary.output_throughput == pytest.approx(5 / 5.0)
    assert (summary.completed, summary.prompt_tokens, summary.output_tokens) == (2, 6, 5)


def test_gaps_are_pooled_so_long_requests_weigh_more() -> None:
    slow = record(0.0, [0.0, 1.0])
    quick = record(0.0, [0.1 * tick for tick in range(1, 11)])
    assert summarise([slow, quick]).itl.mean == pytest.approx(1e3 * (1.0 + 9 * 0.1) / 10)


def test_a_single_token_has_no_gap_and_no_time_per_token() -> None:
    summary = summarise([record(0.0, [0.5])])
    assert math.isnan(summary.itl.p50)
    assert math.isnan(summary.tpot.mean)
    assert summary.ttft.p99 == pytest.approx(500.0)


def test_failed_requests_are_counted_and_otherwise_left_out() -> None:
    failed = record(0.0, [100.0], error="500: broken")
    silent = record(0.0, [])
    summary = summarise([record(1.0, [2.0]), failed, silent])
    assert (summary.completed, summary.failed, summary.output_tokens) == (1, 2, 1)
    assert summary.ttft.max == pytest.approx(1000.0)
    assert summary.duration == pytest.approx(2.0)


def test_a_run_in_which_everything_failed_has_figures_too() -> None:
    summary = summarise([record(0.0, [], error="refused")])
    assert (summary.completed, summary.failed, summary.output_throughput) == (0, 1, 0.0)


def test_spreads_are_in_milliseconds() -> None:
    assert Spread.of([0.001, 0.003]) == Spread(mean=2.0, p50=2.0, p99=pytest.approx(2.98), max=3.0)
