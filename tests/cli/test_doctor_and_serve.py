"""`flover doctor` says that a model fits if and only if `flover serve` gets as far as reading its weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import make_checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st

from flover.cli.fits import find_fit, plan_memory
from flover.cli.main import main
from flover.config import EngineConfig
from flover.errors import ConfigError, ModelError
from flover.executor.load import load_device
from flover.model.describe import describe_model
from flover.model.shard import WHOLE
from flover.server.loading import load_text


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model"), tokenizer=True)


@pytest.mark.parametrize(
    "flags",
    [
        ["--max-model-len", "1000000"],
        ["--kv-cache-memory-bytes", "100000GiB"],
        ["--kv-cache-memory-bytes", "1"],
        ["--tensor-parallel-size", "3"],
        ["--tensor-parallel-size", "2", "--quantization", "int4"],
        ["--tokenizer", "/no/such/folder"],
    ],
)
def test_what_serve_refuses_doctor_refuses(flags: list[str], path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(path), "--num-threads", "1", *flags]) == 1
    assert "The model fits" not in capsys.readouterr().out


def test_replicas_share_the_memory_of_the_machine(path: Path) -> None:
    def fits(available: int, **changes: Any) -> bool:
        config = EngineConfig(model=str(path), kv_cache_memory_bytes=8 * 2**30, **changes)
        try:
            plan_memory(describe_model(config, WHOLE, weights=False), available)
        except ConfigError:
            return False
        return True

    assert fits(10 * 2**30)
    assert not fits(10 * 2**30, data_parallel_size=3)
    assert fits(25 * 2**30, data_parallel_size=3)


@pytest.mark.parametrize("damage", ["weights", "tensor", "tokenizer", "generation", "config"])
def test_a_damaged_model_does_not_fit(damage: str, path: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(path, tmp_path / "copy"))
    match damage:
        case "weights":
            (copy / "model.safetensors").unlink()
        case "tensor":
            (copy / "model.safetensors").write_bytes((copy / "model.safetensors").read_bytes()[:-10])
        case "tokenizer":
            (copy / "tokenizer.json").write_text("{}")
        case "generation":
            (copy / "generation_config.json").write_text(json.dumps({"top_p": 0.0}))
        case "config":
            (copy / "config.json").write_text("{}")
    assert not find_fit(EngineConfig(model=str(copy), num_threads=1)).fits


SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "max_model_len": st.sampled_from([1, 100, 512, 513, 10**6]),
        "kv_cache_memory_bytes": st.sampled_from([1, 2**12, 2**20, 2**60]),
        "dtype": st.sampled_from(["auto", "float16", "bfloat16"]),
        "quantization": st.sampled_from([None, "int8", "int4"]),
        "kv_cache_dtype": st.sampled_from(["auto", "int8"]),
        "block_size": st.sampled_from([1, 16, 2**14]),
        "max_num_seqs": st.sampled_from([1, 64]),
        "cpu_isa": st.sampled_from(["auto", "portable"]),
        "load_format": st.sampled_from(["auto", "dummy"]),
        "skip_tokenizer_init": st.booleans(),
    },
)


@settings(max_examples=40)
@given(changes=SETTINGS)
def test_doctor_and_serve_never_contradict(path: Path, changes: dict[str, Any]) -> None:
    config = EngineConfig(model=str(path), num_threads=1, **changes)
    threads = torch.get_num_threads()
    try:
        load_text(config, None)
        load_device(config, lambda done, total: None).close()
        serves = True
    except (ConfigError, ModelError):
        serves = False
    finally:
        torch.set_num_threads(threads)
    assert find_fit(config).fits == serves


def test_speed_is_measured_on_as_many_bytes_as_the_weights_have(path: Path) -> None:
    facts = find_fit(EngineConfig(model=str(path), num_threads=1)).facts
    assert facts["weights"].split(" as ")[0].split()[1] == "KiB"
    assert "KiB" in facts["memory bandwidth"]
    assert "iterations/s" in facts["upper bound"]
