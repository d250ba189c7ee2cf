"""The benchmarks and the demo, run whole and small as a user runs them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flover.bench.client import COMPLETIONS, Send
from flover.bench.fusion import check_all_served
from flover.bench.metrics import RequestRecord
from flover.bench.presets import PRESETS, write_preset
from flover.errors import ConfigError, EngineError

SMALL = ["--num-threads=1", "--kv-cache-memory-bytes=32MiB"]


def flover(*words: str) -> str:
    done = subprocess.run([sys.executable, "-m", "flover", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory with a config alone, for --load-format dummy."""
    path = tmp_path_factory.mktemp("tiny")
    small = {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 96, "head_dim": 16, "vocab_size": 300}
    config = PRESETS["llama-213m"] | small | {"num_attention_heads": 4, "num_key_value_heads": 2}
    (path / "config.json").write_text(json.dumps(config))
    return path


def dummy(path: Path) -> list[str]:
    return [str(path), "--load-format=dummy", "--skip-tokenizer-init", *SMALL]


@pytest.mark.alone
def test_fusion_on_random_weights(tiny: Path) -> None:
    # Without a target prompts join at once, and the outputs are long against the time in which the requests arrive.
    words = ["--num-requests=8", "--prompt-len=16", "--output-len=96", "--target-itl-ms=0"]
    out = flover("bench", "fusion", *dummy(tiny), *words)
    line: dict[str, Any] = json.loads(out.splitlines()[-1])
    for half in ("fused", "serial"):
        assert line[half]["output_tokens"] == 8 * 96
        assert line[half]["prompt_tokens"] == 8 * 16
        assert line[half]["cached_tokens"] == 0
        assert 0 < line[half]["itl_ms"]["p50"] <= line[half]["itl_ms"]["p99"]
    assert line["fused"]["mean_fused_width"] > 4 * line["serial"]["mean_fused_width"]
    assert line["serial"]["mean_fused_width"] <= 1
    assert line["ratio"] > 1.2
    assert line["machine"]["torch"]
    assert line["options"]["num_requests"] == 8
    assert line["command"].startswith("flover bench fusion")
    assert "output tokens per second" in out


@pytest.mark.alone
def test_interference_on_random_weights(tiny: Path) -> None:
    words = ["--num-streams=3", "--long-prompt-len=1500", "--rounds=2", "--pause=0.2", "--target-itl-ms=50"]
    out = flover("bench", "interference", *dummy(tiny), *words)
    line = json.loads(out.splitlines()[-1])
    assert line["limit_ms"] == 75.0
    assert line["held"] is (line["budget_on"]["disturbed_itl_ms"]["p99"] <= 75.0)
    for setting in ("budget_on", "budget_off"):
        facts = line[setting]
        assert facts["long_prompt_len"] == 1500
        assert facts["num_gaps"] >= 3 * 2
        assert facts["disturbed_itl_ms"]["max"] >= facts["disturbed_itl_ms"]["p99"] > 0


def test_the_demo_ends_by_itself_and_compares() -> None:
    out = flover("demo", "--num-requests=6", "--rate=20", *SMALL)
    assert "Fused: requests join and leave at any time" in out
    assert "The same requests one after another" in out
    assert "mean batch size" in out
    assert "of 6 texts are the same in both runs." in out
    assert out.rstrip().endswith("nothing is left running.")
    assert "\x1b" not in out


def test_make_model_writes_a_config_that_can_be_run(tmp_path: Path) -> None:
    out = flover("bench", "make-model", str(tmp_path / "new"))
    assert "--load-format dummy" in out
    config = json.loads((tmp_path / "new" / "config.json").read_text())
    assert (config["hidden_size"], config["num_hidden_layers"], config["vocab_size"]) == (1024, 16, 32000)


def test_a_directory_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    with pytest.raises(ConfigError, match="not an empty directory"):
        write_preset("llama-213m", tmp_path)
    with pytest.raises(ConfigError, match="no preset"):
        write_preset("gpt-9", tmp_path / "other")


def test_half_a_workload_is_no_result() -> None:
    send = Send(0.0, COMPLETIONS, {"max_tokens": 2})
    good = RequestRecord(sent=0.0, ticks=[1.0, 2.0], end=2.0, output_tokens=2)
    check_all_served([good], [send])
    short = RequestRecord(sent=0.0, ticks=[1.0], end=1.0, output_tokens=1)
    with pytest.raises(EngineError, match="1 output tokens instead of 2"):
        check_all_served([short], [send])
    failed = RequestRecord(sent=0.0, error="503: loading")
    with pytest.raises(EngineError, match="request 0 failed: 503: loading"):
        check_all_served([failed], [send])


def test_ranks_on_random_weights(tiny: Path) -> None:
    out = flover("bench", "ranks", *dummy(tiny), "--tensor-parallel-size=2", "--rows", "1", "4", "--steps=5")
    line = json.loads(out.splitlines()[-1])
    assert [result["rows"] for result in line["results"]] == [1, 4]
    for result in line["results"]:
        assert result["calls"] == 2 * 2 + 2, "two sums a layer, one for the embedding, and the gather"
        assert result["bytes"] == 4 * result["rows"] * (5 * 64 + 300 // 2 + 1)
        assert 0 < result["collective_seconds"] + result["frame_seconds"] < result["seconds"]
        assert 50 < result["frame_bytes"] < 1000
