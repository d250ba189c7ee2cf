"""`bench sweep`: the grid, the knee, and a whole sweep against a server that costs nothing."""

import json
import math
from pathlib import Path

import pytest

from flover.bench.metrics import RequestRecord
from flover.bench.serving.figures import make_figures
from flover.bench.serving.null_server import null_server
from flover.bench.serving.offline_options import SweepOptions
from flover.bench.serving.sweep import Point, combinations, knee, read_params, to_arguments
from flover.bench.serving.sweep_report import knee_facts, knee_lines, sweep_table
from flover.cli.main import main
from flover.errors import ConfigError


def point(rate: float, good: int, server: str = "") -> Point:
    """Ten requests, of which `good` had their first token within 100 ms."""
    records = [
        RequestRecord(sent=0.0, ticks=[0.05 if index < good else 0.5, 1.0], end=1.0, output_tokens=2)
        for index in range(10)
    ]
    return Point(server, "", rate, make_figures(records, {"ttft": 100.0}))


def test_the_knee_is_the_last_rate_before_the_first_bad_one() -> None:
    points = [point(8.0, 5), point(1.0, 10), point(2.0, 9), point(4.0, 10), point(16.0, 10), point(math.inf, 10)]
    best = knee(points, 0.9)
    assert best is not None
    assert best.rate == 4.0
    assert knee([point(1.0, 8)], 0.9) is None
    assert knee([point(math.inf, 10)], 0.9) is None


def test_the_report_names_the_knee_of_each_combination() -> None:
    points = [point(1.0, 10, "a"), point(4.0, 2, "a"), point(1.0, 10, "b"), point(math.inf, 9, "b"), point(1.0, 0, "c")]
    assert list(combinations(points)) == ["a", "b", "c"]
    assert knee_facts(points, 0.9) == {"a": 1.0, "b": 1.0, "c": None}
    first, second, third = knee_lines(points, 0.9)
    assert first.endswith("a: 1 requests per second, fewer than 4")
    assert second.endswith("b: 1 requests per second or more")
    assert third.endswith("c: even 1 requests per second are too many")
    assert sweep_table("title", points, 0.9).row_count == 5


def test_settings_are_flags() -> None:
    params = {"max_num_seqs": 8, "reorder": False, "profile": True, "goodput": ["ttft:1", "tpot:2"], "seed": None}
    assert to_arguments(params) == ["--max-num-seqs=8", "--no-reorder", "--profile", "--goodput", "ttft:1", "tpot:2"]
    assert to_arguments({"extra-body": {"a": 1}}) == ['--extra-body={"a": 1}']


def test_grids_have_names(tmp_path: Path) -> None:
    assert read_params("--serve-params", None) == {"": {}}
    assert read_params("--serve-params", '[{"n": 1}, {}]') == {"--n=1": {"n": 1}, "as given": {}}
    path = tmp_path / "grid.json"
    path.write_text('{"small": {"n": 1}}')
    assert read_params("--serve-params", str(path)) == {"small": {"n": 1}}


@pytest.mark.parametrize("source", ["[]", "{}", "[1]", '{"a": 1}', "{", "/no/such/file"])
def test_a_grid_that_is_none_is_refused(source: str) -> None:
    with pytest.raises(ConfigError, match="--bench-params"):
        read_params("--bench-params", source)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"attainment": 0.0}, "--attainment"),
        ({"request_rates": ("0", "1")}, "--request-rates"),
        ({"request_rates": ("fast",)}, "--request-rates"),
        ({"serve_params": "[{}]"}, "needs --serve-cmd"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused(changes: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        SweepOptions(**changes)


def test_rates_rise_and_come_once() -> None:
    assert SweepOptions(request_rates=("inf", "2", "1", "2")).rates == [1.0, 2.0, math.inf]


@pytest.mark.alone
def test_a_whole_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with null_server(gap_ms=1.0) as server:
        words = ["--base-url", server.url, "--num-prompts=8", "--input-len=4", "--output-len=4", "--num-warmups=1"]
        words += ["--request-rates", "50", "inf", "--bench-params", '{"one": {"max_concurrency": 1}, "all": {}}']
        assert main(["bench", "sweep", *words, "--output-dir", str(tmp_path), "--goodput", "ttft:1000"]) == 0
    out = capsys.readouterr().out
    line = json.loads(out.splitlines()[-1])
    assert line["knees"] == {"one": 50.0, "all": 50.0}
    assert [(one["client"], one["request_rate"], one["completed"]) for one in line["points"]] == [
        ("one", 50.0, 8),
        ("one", "inf", 8),
        ("all", 50.0, 8),
        ("all", "inf", 8),
    ]
    assert [one["max_concurrent_requests"] for one in line["points"][:2]] == [1, 1]
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 4


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--serve-cmd=vllm serve x"], "must begin with 'flover serve'"),
        (["--bench-params", '[{"no_such_flag": 1}]'], "--no-such-flag"),
        (["--dataset-name=timed_trace", "--dataset-path=x"], "its own times"),
    ],
)
def test_the_command_refuses_in_one_line(words: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "sweep", *words]) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err.count("\n")) == ("", 1)
    assert complaint in captured.err
