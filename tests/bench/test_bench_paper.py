"""`flover bench paper`: the strategies in real engine processes, and what becomes of results."""

import json
from pathlib import Path

import pytest
from flover_benchmarks.paper import engines, published, report
from flover_benchmarks.paper.arrivals import made_over_time
from flover_benchmarks.paper.bench import FUSION, SERIAL, Bench, Figure, Result, Scale, Table
from flover_benchmarks.paper.experiments import run_experiments
from flover_benchmarks.paper.lengths import memory_figure
from flover_benchmarks.paper.outcome import BatchingStrategy, Moment, Outcome
from flover_benchmarks.paper.processes import ProcessRunner, engine_config
from flover_benchmarks.paper.ranks import FULL_CASES, tensor_parallel
from flover_benchmarks.paper.reordering import cost

from flover.bench.metrics import RequestRecord
from flover.bench.workload import Job
from flover.cli.main import main
from flover.config import EngineConfig
from flover.errors import InvariantError

WINDOW = BatchingStrategy("dynamic-batching", window_ms=100)
CONFIG = EngineConfig(num_threads=1, kv_cache_memory_bytes=32 * 2**20, max_num_seqs=8)
JOBS = [Job(0.0, tuple(range(20, 28)), 12, 1), Job(0.0, tuple(range(30, 38)), 24, 2), Job(0.3, (50, 51), 6, 3)]


def record(sent: float, *ticks: float) -> RequestRecord:
    return RequestRecord(sent=sent, ticks=list(ticks), end=ticks[-1], output_tokens=len(ticks))


def test_an_outcome_counts_from_the_first_arrival_to_the_last_token() -> None:
    outcome = Outcome([record(1.0, 2.0, 3.0), record(2.0, 3.0, 5.0)], 3, 0, [Moment(1.0, 7, 1), Moment(2.0, 4, 2)])
    assert outcome.seconds == 4.0
    assert outcome.mean_latency == 2.5
    assert outcome.overlap == pytest.approx(4 / 3)
    assert outcome.peak_pages == 7
    assert made_over_time(outcome) == ([1.0, 2.0, 2.0, 4.0], [0.25, 0.5, 0.75, 1.0])


@pytest.mark.alone
def test_strategies_in_engine_processes() -> None:
    outcomes: dict[str, Outcome] = {}
    with ProcessRunner(CONFIG) as runner:
        for strategy in (FUSION, SERIAL, WINDOW, BatchingStrategy("concurrent", instances=2)):
            outcomes[strategy.label] = runner.run(JOBS, strategy)
    for label, outcome in outcomes.items():
        assert [one.output_tokens for one in outcome.records] == [12, 24, 6], label
        assert all(len(one.ticks) == one.output_tokens for one in outcome.records), label
        assert outcome.moments and outcome.peak_pages > 0
    widest = {label: max(moment.generating for moment in outcome.moments) for label, outcome in outcomes.items()}
    assert widest["fusion"] == 2 and widest[WINDOW.label] == 2
    assert widest["serial"] == 1
    assert outcomes["serial"].iterations == 42
    assert outcomes["fusion"].iterations < 42
    ends = [one.end or 0.0 for one in outcomes["serial"].records]
    assert ends == sorted(ends)
    assert outcomes["serial"].records[1].ticks[0] > ends[0]
    for one in outcomes[WINDOW.label].records:
        assert one.ttft > WINDOW.window_ms / 1e3
    assert outcomes["fusion"].records[2].ttft < WINDOW.window_ms / 1e3


def test_concurrent_instances_share_the_cores() -> None:
    config = engine_config(EngineConfig(), BatchingStrategy("concurrent", instances=4), cores=8)
    assert (config.strategy, config.num_threads) == ("serial", 2)
    assert engine_config(EngineConfig(), BatchingStrategy("concurrent", instances=4), cores=2).num_threads == 1


class Known:
    """A runner whose outcomes are known: a token every second, one after another."""

    def run(self, jobs: list[Job], strategy: BatchingStrategy) -> Outcome:
        records = [record(job.at, *(job.at + 1 + i for i in range(job.output_len))) for job in jobs]
        return Outcome(records, 10, 5, [Moment(0.0, 3, 1), Moment(2.0, 1, 1)])


def test_ranks_share_the_cores_and_the_model() -> None:
    config = engine_config(EngineConfig(), BatchingStrategy("fusion", ranks=2), cores=4)
    assert (config.tensor_parallel_size, config.num_threads) == (2, 2)
    assert engine_config(EngineConfig(), FUSION, cores=4).tensor_parallel_size == 1


def test_tensor_parallelism_is_compared_with_and_without_reordering() -> None:
    bench = Bench(Known(), Scale(output_len=16, nums=(1, 4)), lambda what: None, "known")  # type: ignore[arg-type]
    result = tensor_parallel(bench, FULL_CASES)
    assert [row[:3] for row in result.tables[0].rows] == [
        ("2", "16", "4..31"),
        ("2", "32", "4..31"),
        ("4", "16", "4..75"),
    ]
    assert {row[6] for row in result.tables[0].rows} == {"1.46 x", "1.59 x", "2.34 x"}


@pytest.mark.long
def test_two_ranks_in_engine_processes() -> None:
    with ProcessRunner(CONFIG) as runner:
        outcome = runner.run(JOBS, BatchingStrategy("fusion", ranks=2))
    assert [one.output_tokens for one in outcome.records] == [12, 24, 6]


def test_the_cost_of_reordering_is_measured_on_real_buffers() -> None:
    bench = Bench(Known(), Scale(output_len=16, nums=(1, 4)), lambda what: None, "known")  # type: ignore[arg-type]
    facts = cost(bench, max_model_len=128, num_rows=8).facts
    assert facts["moves"] == 5
    assert 0 < facts["us_per_move"] < 10_000
    assert facts["bytes_per_move"] > 8 * 4


def test_memory_is_drawn_beside_the_slots_of_the_worst_case() -> None:
    bench = Bench(Known(), Scale(output_len=16), lambda what: None, "known")  # type: ignore[arg-type]
    figure = memory_figure("E5", bench, Known().run(JOBS, FUSION), num=32, longest=100)
    assert figure.series[0][2] == (3.0, 1.0)
    assert figure.series[1][2] == (32 * 7.0, 32 * 7.0)


def test_results_become_tables_figures_and_lines(tmp_path: Path) -> None:
    table = Table("A table", ("N", "x | y"), (("1", "2 | 3"),))
    figure = Figure("e0", "A figure", "x", "y", (("a", (1.0, 2.0), (3.0, 4.0)),), log_x=True, steps=True)
    result = Result("E0", "E0: known", (table,), (figure,), ("A remark.",), {"value": 1.5})
    line = report.line("paper", result, "flover bench paper", "known", {})
    report.write([result], [line], tmp_path, "flover bench paper", figures=True)
    text = (tmp_path / report.REPORT).read_text()
    assert (
        "## E0: known" in text and "| 1 | 2 \\| 3 |" in text and "![A figure](e0.png)" in text and "A remark." in text
    )
    assert (tmp_path / "e0.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / report.LINES).read_text())["value"] == 1.5
    with pytest.raises(InvariantError, match="e0, e0"):
        report.write([result, result], [line], tmp_path, "flover bench paper", figures=True)


def test_every_model_has_figures_of_its_own() -> None:
    names = [
        figure.name
        for model in ("a", "b")
        for result in run_experiments(
            Bench(Known(), Scale(output_len=16, nums=(1, 4)), lambda what: None, model),  # type: ignore[arg-type]
            ["E1"],
            lambda result: None,
        )
        for figure in result.figures
    ]
    assert len(names) == len(set(names)) == 4


def test_other_engines_get_the_same_requests() -> None:
    case = engines.Case(is_fixed=False, num=32, interval=2)
    jobs = engines.jobs_of(case, lone=2.0, output_len=64, ids=(300, 999), seed=4)
    assert jobs == engines.jobs_of(case, lone=2.0, output_len=64, ids=(300, 999), seed=4)
    assert {job.output_len for job in jobs} <= set(range(16, 65)) and len({job.output_len for job in jobs}) > 5
    assert jobs[1].at == pytest.approx(2.0 * 0.5 / 5.6)
    assert set(engines.PRINTED) == {(c.is_fixed, c.num, c.interval) for c in engines.cases(engines.NUMS)}


def test_the_papers_numbers_belong_together() -> None:
    assert len(published.E3_GAPS_MS) == len(published.E3_ITERATIONS) == len(published.E3_SPEEDUP)
    for iterations, overlap in zip(published.E3_ITERATIONS, published.E3_OVERLAP, strict=True):
        assert 32 * published.E3_OUTPUT_LEN / iterations == pytest.approx(overlap, rel=0.08)
    for model, speedups in published.E1_SPEEDUP.items():
        assert len(speedups) == len(published.E1_SECONDS[model]) == len(published.NUMS)


@pytest.mark.parametrize(
    "words", [["--all", "--quick"], ["--output-len", "2"], ["--num-requests", "0"], ["--instances", "0"]]
)
def test_contradictions_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "paper", "--no-figures", *words]) == 2
    assert words[0] in capsys.readouterr().err
