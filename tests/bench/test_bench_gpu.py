"""`flover bench gpu`: floors that can be computed by hand, and what is decided and drawn without a GPU."""

import json
import os
from typing import Any

import pytest
from flover_benchmarks.gpu.floor import model_bytes, step_floor
from flover_benchmarks.gpu.machines import Gpu, gpu_named
from flover_benchmarks.gpu.parts import FULL, MODELS, QUICK, PartSpec, all_parts, seconds_for
from flover_benchmarks.gpu.report import tables
from flover_benchmarks.gpu.run import PartResult, lines_until, run_part

from flover.bench.presets import PRESETS
from flover.cli.main import main
from flover.errors import ConfigError
from flover.model.hf_config import read_config

ROUND = Gpu("round", bandwidth=1e12, peak=1e14, memory=80e9)


def test_one_sequence_is_bound_by_memory_and_many_by_arithmetic() -> None:
    _, config = read_config(PRESETS["llama-3-8b"])
    embedding = 128256 * 4096
    assert model_bytes(config) == pytest.approx(2 * 8.03e9, rel=0.01)
    one = step_floor(config, ROUND, 1, 512)
    assert one.weight_bytes == model_bytes(config) - 2 * embedding
    assert one.kv_bytes == 2 * 2 * 32 * 512 * 8 * 128
    assert one.seconds == (one.weight_bytes + one.kv_bytes) / 1e12
    many = step_floor(config, ROUND, 1024, 1)
    assert many.linear_seconds == pytest.approx(2 * 1024 * one.weight_bytes / 2 / 1e14)


def test_tied_embeddings_are_read_as_the_head() -> None:
    _, config = read_config(PRESETS["llama-3.2-1b"])
    assert step_floor(config, ROUND, 1, 1).weight_bytes == model_bytes(config)


def test_a_gpu_that_is_not_known_is_refused_with_those_that_are() -> None:
    assert gpu_named("a100").name == "A100-80GB"
    assert gpu_named("h200").name == "H200"
    with pytest.raises(ConfigError, match=r"--gpu knows .*H100.*, not 'V100'"):
        gpu_named("V100")


def test_estimates_are_json_first_and_a_table_last(capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "bench",
        "gpu",
        "--estimate",
        "--gpu",
        "rtx4090",
        "--models",
        "gpt-j-6b",
        "--rows",
        "4",
        "--contexts",
        "64",
    ]
    assert main(words) == 0
    first, rest = capsys.readouterr().out.split("\n", 1)
    found = json.loads(first)
    assert found["gpu"]["name"] == "RTX-4090" and len(found["results"]["gpt-j-6b"]) == 1
    assert rest.startswith("gpt-j-6b: 12.1 GB on RTX-4090, estimated from its data sheet")
    for more, message in (([], "--gpu names a GPU that is not here: it needs --estimate"), (["--rows", "0"], "--rows")):
        assert main(["bench", "gpu", *more, *([] if more else ["--gpu", "h100"])]) == 2
        assert message in capsys.readouterr().err


def test_parts_share_the_budget_and_what_is_left_of_it() -> None:
    parts = all_parts(MODELS, "cuda", FULL, quick=False)
    names = [part.label for part in parts]
    assert names[:3] == ["parity", "limits", "steps llama-3.2-1b"] and names[-1] == "transformers llama-3-8b"
    assert names.index("concurrent gpt-j-6b") == names.index("E1 gpt-j-6b") + 1
    left = 540.0
    for place in range(len(parts)):
        seconds = seconds_for(parts[place:], left)
        assert 15 < seconds < 80
        left -= seconds
    assert left == pytest.approx(0.0) and seconds_for(parts, -3.0) == 0.0
    quick = all_parts(MODELS, "cuda", QUICK, quick=True)
    assert [part.label for part in quick] == ["parity", "limits", "steps llama-3.2-1b", "E1 llama-3.2-1b"]
    assert PartSpec.from_json(json.loads(json.dumps(parts[3].to_json()))) == parts[3]


def test_a_part_that_says_nothing_more_is_given_up() -> None:
    read, write = os.pipe()
    left = iter([5.0, 5.0, 0.0])
    with os.fdopen(read) as stream, os.fdopen(write, "w") as out:
        out.write("one\ntwo\n")
        out.flush()
        assert list(lines_until(stream, lambda: next(left))) == ["one\n", "two\n", None]
        out.close()
    ended = PartResult(PartSpec("steps", "llama-3-8b", "cuda", 0.5, FULL))
    for record in ({"copy_bytes_per_s": 1.0}, {"left_out": "256 rows"}, {"error": "E: it failed", "traceback": ["x"]}):
        ended.take(record)
    assert (ended.records, ended.left_out, ended.error) == ([{"copy_bytes_per_s": 1.0}], ["256 rows"], "E: it failed")
    assert run_part(ended.spec, lambda: 0.0, print).left_out == ["no time was left"]


def test_tables_compare_with_measured_floors_and_the_paper() -> None:
    """A step of one row takes twice its floor; concurrent instances come from a part of their own."""

    def part(name: str, model: str, *records: dict[str, Any]) -> PartResult:
        return PartResult(PartSpec(name, model, "cuda", 1.0, FULL), records=list(records))

    _, config = read_config(PRESETS["llama-3-8b"])
    limits = {"gpu": "round", "copy_bytes_per_s": 1e12, "bf16_ops_per_s": 1e14, "memory_bytes": 80e9}
    floor = step_floor(config, ROUND, 1, 512).seconds
    step = {"rows": 1, "context": 512, "seconds": 2 * floor, "host_share": 0.04, "kernels": 256.0}
    ran = {"strategy": "fusion", "label": "fusion", "seconds": 2.0, "mean_latency_s": 0.5}
    instances = {"strategy": "concurrent", "label": "4 concurrent", "seconds": 22.0, "mean_latency_s": 1.0}
    results = [
        part("limits", "", limits),
        part("steps", "llama-3-8b", {"ready_s": 1.0}, step),
        part("E1", "gpt-j-6b", {"lone_s": 0.5, "requests": 32, "output_len": 128}, ran),
        part("concurrent", "gpt-j-6b", instances),
    ]
    drawn = {table.title.split()[0]: table for table in tables(results)}
    assert drawn["Steps"].rows == ((
        "512", "1", f"{2e3 * floor:.2f}", f"{1e3 * floor:.2f}", "2.00 x", f"{0.5 / floor:,.0f}", "4%", "8.0",
    ),)  # fmt: skip
    assert [row[2:4] for row in drawn["E1:"].rows] == [("1.00 x", "–"), ("11.00 x", "10.90 x")]
    assert drawn["Left"].rows == (("–", "nothing"),)
    assert list(tables(results[:2]))[1].rows[0][4] == "2.00 x"
