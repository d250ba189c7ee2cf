"""`bench latency`, `throughput` and `startup`: figures that can be checked by head, and each run whole and small."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flover.bench.serving.memory import children, packed_bytes, peak_memory, resident_memory
from flover.bench.serving.offline import Latency, Throughput
from flover.bench.serving.offline_options import LatencyOptions, StartupOptions
from flover.bench.serving.startup import Phases, ServerStart, Startup, middle, read_seconds
from flover.bench.serving.startup_report import cold_note, startup_facts, startup_table, verdicts
from flover.cli.main import main
from flover.config import EngineConfig
from flover.errors import ConfigError, EngineError

SMALL = ["--num-threads=1", "--kv-cache-memory-bytes=32MiB"]
MIB = 2**20


def run(capsys: pytest.CaptureFixture[str], *words: str) -> dict:
    assert main(["bench", *words]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_latency_of_known_batches() -> None:
    found = Latency([1.0, 2.0, 3.0, 4.0, 5.0], output_tokens=30).result()
    assert (found["avg_latency"], found["output_tokens_per_second"]) == (3.0, 10.0)
    assert found["percentiles"] == pytest.approx({"10": 1.4, "25": 2.0, "50": 3.0, "75": 4.0, "90": 4.6, "99": 4.96})
    assert found["latencies"] == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_throughput_of_a_known_run() -> None:
    found = Throughput(seconds=2.0, num_requests=4, prompt_tokens=60, output_tokens=40).result()
    assert found["elapsed_time"] == 2.0
    assert (found["requests_per_second"], found["tokens_per_second"]) == (2.0, 50.0)
    assert (found["total_num_tokens"], found["num_requests"], found["output_tokens_per_second"]) == (100, 4, 20.0)


def test_latency_as_a_user_runs_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--batch-size=2", "--n=2", "--input-len=8", "--output-len=6", "--num-iters-warmup=1", "--num-iters=3"]
    line = run(capsys, "latency", *SMALL, *words, f"--output-json={tmp_path / 'out.json'}")
    assert len(line["latencies"]) == 3
    assert 0 < min(line["latencies"]) <= line["avg_latency"] <= max(line["latencies"])
    assert line["output_tokens_per_second"] == pytest.approx(2 * 2 * 6 / line["avg_latency"], rel=1e-3)
    assert json.loads((tmp_path / "out.json").read_text())["avg_latency"] == line["avg_latency"]


def test_throughput_as_a_user_runs_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = run(capsys, "throughput", *SMALL, "--num-prompts=5", "--input-len=8", "--output-len=6", "--disable-tqdm")
    assert (line["num_requests"], line["num_prompt_tokens"], line["num_output_tokens"]) == (5, 40, 30)
    assert line["total_num_tokens"] == 70
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "Once upon a time", "output_len": 3}\n{"prompt": [20, 21]}\n')
    words = ["--dataset-name=custom", f"--dataset-path={path}", "--output-len=4", "--num-prompts=2", "--ignore-eos"]
    line = run(capsys, "throughput", *SMALL, *words, "--disable-shuffle")
    assert line["num_output_tokens"] == 3 + 4


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["latency", "--max-num-seqs=4", "--batch-size=3", "--n=2"], "--batch-size x --n is 6"),
        (["throughput", "--gsp-num-groups=2"], "--gsp-num-groups is not for --dataset-name random"),
        (["throughput", "--dataset-name=hf"], "would have to be downloaded"),
    ],
)
def test_what_cannot_be_run_is_refused(words: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *words]) == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize(
    "make", [lambda: LatencyOptions(num_iters=0), lambda: LatencyOptions(n=0), lambda: StartupOptions(num_iters_cold=0)]
)
def test_options_below_their_least_are_refused(make: object) -> None:
    with pytest.raises(ConfigError, match="must be at least 1, got 0"):
        make()
    assert LatencyOptions(num_iters_warmup=0).num_rows == 8


# Startup


def start(ready: float, engine_peak: int) -> ServerStart:
    return ServerStart(
        listening=0.5,
        ready=ready,
        first_token=ready + 0.1,
        first_ttft=0.1,
        second_ttft=0.05,
        door_peak=80 * MIB,
        engine_peak=engine_peak,
    )


QUICK = {"import flover": 0.05, "flover --help": 0.1}


def kinds(*, cold_ready: float = 1.6, peak: int = 314 * MIB) -> dict[str, Startup]:
    phases = [Phases(imports=1.0, weights=0.5, warm_up=0.1, before_weights=200 * MIB)]
    return {
        "cold": Startup([start(cold_ready, peak)], phases, read=0.5),
        "warm": Startup([start(1.1, 300 * MIB)], phases, read=0.1),
    }


def test_the_limits_of_a_start() -> None:
    def held(commands: dict[str, float] = QUICK, **changes: Any) -> list[bool]:
        return [verdict.held for verdict in verdicts(kinds(**changes), 100 * MIB, commands)]

    assert held() == [True, True, True, True, True]
    assert held(cold_ready=1.8) == [True, True, False, True, True]
    assert held({"import flover": 0.11, "flover --help": 0.21}) == [False, False, True, True, True]
    slow, _, late, _, heavy = verdicts(
        kinds(cold_ready=1.8, peak=316 * MIB), 100 * MIB, QUICK | {"import flover": 0.123}
    )
    assert str(slow) == "import flover: 123 ms, limit 100 ms: NOT met"
    assert str(late) == "cold: ready after 1.80 s, limit 1.2 s + reading = 1.70 s: NOT met"
    assert "1.16 x the packed weights of 100.0 MiB, limit 1.15 x (the whole process: 3.16 x): NOT met" in str(heavy)


def test_the_report_of_starts() -> None:
    facts = startup_facts(kinds(), 100 * MIB, QUICK)
    assert facts["commands"] == QUICK
    assert facts["weights_peak_over_packed"] == pytest.approx(1.14)
    assert facts["engine_peak_over_packed"] == pytest.approx(3.14)
    assert facts["cold"]["median"]["ready"] == 1.6
    assert facts["held"] is True
    assert startup_table("title", kinds()).row_count == 12
    assert cold_note(kinds(), 1) == ""
    assert "random weights" in cold_note(kinds(), 0)
    same = {name: Startup(kind.starts, kind.phases, read=0.1) for name, kind in kinds().items()}
    assert "page cache" in cold_note(same, 1)


def test_the_middle_of_starts_is_taken_figure_by_figure() -> None:
    runs = [start(3.0, 1), start(1.0, 3), start(2.0, 2)]
    assert (middle(runs).ready, middle(runs).engine_peak) == (2.0, 2)


def test_memory_is_read_from_the_system() -> None:
    before = resident_memory(os.getpid())
    block = b"x" * (40 * MIB)
    with_block = resident_memory(os.getpid())
    assert len(block) - MIB < with_block - before < len(block) + 5 * MIB
    del block
    assert peak_memory(os.getpid()) >= with_block - MIB
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert child.pid in children(os.getpid())
    assert child.pid not in children(os.getpid())
    with pytest.raises(EngineError, match="cannot be read"):
        peak_memory(child.pid)


def test_weights_are_counted_as_they_are_packed() -> None:
    full, half, small = (
        packed_bytes(EngineConfig(**settings)) for settings in ({"dtype": "float32"}, {}, {"quantization": "int8"})
    )
    assert full / 2 < half < 0.51 * full
    assert small < 0.6 * half


def test_reading_takes_every_byte(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(bytes(9 * MIB))
    assert read_seconds([path]) > 0
    with pytest.raises(FileNotFoundError):
        read_seconds([tmp_path / "none"])


def test_startup_as_a_user_runs_it(capsys: pytest.CaptureFixture[str]) -> None:
    line = run(capsys, "startup", *SMALL, "--num-iters-cold=1", "--num-iters-warm=1")
    for kind in ("cold", "warm"):
        median = line[kind]["median"]
        assert 0 < median["listening"] < median["ready"] < median["first_token"]
        assert min(median["imports"], median["weights"], median["warm_up"]) > 0
        assert median["engine_peak"] > line["packed_weight_bytes"] > 5 * MIB
        assert line[kind]["ready_limit"] == pytest.approx(1.2 + line[kind]["file_read"], rel=1e-4)
    assert line["limit_over_packed"] == 1.15
    assert min(line["commands"].values()) > 0


def test_speculation_as_a_user_runs_it(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flover.bench.speculation.ROWS", (1, 2))
    line = run(capsys, "speculation", *SMALL, "--output-len=3", "--num-iters=1")
    assert [(one["prompts"], one["num_requests"]) for one in line["results"]] == [
        (kind, rows) for kind in ("extractive", "code", "random") for rows in (1, 2)
    ]
    assert all(one["ratio"] > 0 and one["accepted_tokens"] <= one["draft_tokens"] for one in line["results"])
