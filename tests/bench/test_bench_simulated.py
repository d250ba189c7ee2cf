"""Simulated time: the real engine on a clock that the cost model moves."""

import pytest
from flover_benchmarks.commands.simulate import parse_cost
from flover_benchmarks.paper.bench import FUSION, NO_REORDER, SERIAL, STATIC, Bench, Scale
from flover_benchmarks.paper.experiments import EXPERIMENTS, run_experiments
from flover_benchmarks.paper.outcome import BatchingStrategy
from flover_benchmarks.simulated.cost import Cost, line, roomy
from flover_benchmarks.simulated.fit import Observation, fit, mean_error
from flover_benchmarks.simulated.fleet import SimulatedFleet, least_requests, round_robin
from flover_benchmarks.simulated.runner import SimulatedRunner

from flover.bench.workload import Job
from flover.errors import ConfigError

TEN_MS = line(10.0, 0.0)


def jobs(*cases: tuple[float, int]) -> list[Job]:
    return [Job(at, (1, 2, 3), length, 0) for at, length in cases]


def test_cost_is_straight_between_points_and_beyond_them() -> None:
    cost = Cost(((1, 10.0), (3, 14.0), (7, 16.0)), per_context=0.5)
    assert [cost.of(tokens, 0) for tokens in (1, 2, 3, 5, 7, 9)] == [10, 12, 14, 15, 16, 17]
    assert cost.of(3, 4) == 16.0
    assert line(5.0, 2.0).of(4, 0) == 13.0


@pytest.mark.parametrize("text", ["", "1", "a,b", "1:2", "3:1,2:5", "0,0", "1,1,-1", "1,2,3,4"])
def test_a_cost_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_cost(text)


def test_a_lone_request_takes_an_iteration_for_each_token() -> None:
    outcome = SimulatedRunner(TEN_MS).run(jobs((2.0, 5)), FUSION)
    assert outcome.seconds == pytest.approx(0.05)
    assert outcome.iterations == 5 and outcome.overlap == 1.0


def test_fusion_lets_a_newcomer_join_and_serial_does_not() -> None:
    load = jobs((0.0, 10), (0.015, 10))
    fused, serial = (SimulatedRunner(TEN_MS).run(load, strategy) for strategy in (FUSION, SERIAL))
    assert fused.seconds == pytest.approx(0.12)  # joins at 0.02
    assert fused.iterations == 12
    assert serial.seconds == pytest.approx(0.20)
    assert [record.ttft for record in fused.records] == pytest.approx([0.01, 0.015])


def test_dynamic_batching_waits_for_its_window_and_runs_to_the_longest() -> None:
    load = jobs((0.0, 4), (0.05, 10), (0.2, 1))
    outcome = SimulatedRunner(TEN_MS).run(load, BatchingStrategy("dynamic-batching", window_ms=100))
    assert [record.ticks[0] for record in outcome.records] == pytest.approx([0.11, 0.11, 0.31])
    assert outcome.seconds == pytest.approx(0.31)


def test_a_full_batch_does_not_wait_for_its_window() -> None:
    runner = SimulatedRunner(TEN_MS, max_num_seqs=2)
    outcome = runner.run(jobs((0.0, 1), (0.03, 1)), BatchingStrategy("dynamic-batching", window_ms=1000))
    assert [record.ticks[0] for record in outcome.records] == pytest.approx([0.04, 0.04])


def test_concurrent_instances_share_the_machine() -> None:
    load = jobs((0.0, 10), (0.0, 10), (0.0, 10))
    outcome = SimulatedRunner(TEN_MS).run(load, BatchingStrategy("concurrent", instances=2))
    assert outcome.records[0].e2el == pytest.approx(0.2, rel=0.1)
    assert outcome.seconds == pytest.approx(0.3, rel=0.1)
    assert outcome.overlap == 1.0


def test_reordering_saves_the_computing_of_dead_rows() -> None:
    load = jobs(*((0.0, 2 if index % 2 else 40) for index in range(8)))
    cost = line(1.0, 1.0)
    fused, fixed, static = (SimulatedRunner(cost).run(load, s).seconds for s in (FUSION, NO_REORDER, STATIC))
    assert fused < fixed <= static
    assert static == pytest.approx((25 + 39 * 9) / 1e3)


def test_replicas_do_not_slow_each_other_and_the_router_spreads() -> None:
    facts, config = roomy(max_num_seqs=4, longest=64)
    for router in (least_requests, round_robin()):
        fleet = SimulatedFleet(facts, config, line(10.0, 1.0), 3)
        outcome = fleet.run(jobs((0.0, 10), (0.0, 10), (0.0, 10)), router)
        assert [record.e2el for record in outcome.records] == pytest.approx([0.112] * 3, rel=0.05)


def test_a_fit_finds_the_cost_that_made_the_observations() -> None:
    cost = Cost(((1, 10.0), (8, 12.0), (32, 40.0)), per_context=0.01)
    seen = [Observation(t, c, cost.of(t, c)) for t in (1, 2, 4, 8, 16, 24, 32) for c in (16, 200, 900)]
    assert mean_error(fit(seen), seen) < 0.02
    assert mean_error(line(10.0, 0.0), seen) > 0.2


def test_every_experiment_runs_and_fusion_wins() -> None:
    scale = Scale(output_len=16, nums=(1, 4, 8), instances=2, gaps=(20, 1000), samples=(1, 2))
    bench = Bench(SimulatedRunner(line(10.0, 0.4)), scale, lambda what: None, "simulated")
    results = {result.name: result for result in run_experiments(bench, list(EXPERIMENTS), lambda result: None)}
    assert set(results) == {"E1", "E2", "E3", "E4", "E5", "E6"}
    assert results["E1"].facts["speedup"]["serial"][8] > 4
    assert results["E1"].facts["speedup"]["serial"][1] == pytest.approx(1.0)
    assert results["E3"].facts["overlap"][0] > results["E3"].facts["overlap"][1]
    assert all(gain >= 1 for gain in results["E5"].facts["gain"])
    for result in results.values():
        for table in result.tables:
            assert all(len(row) == len(table.header) for row in table.rows)
