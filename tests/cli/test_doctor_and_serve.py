"""`flover doctor` says that a model fits if and only if `flover serve` gets as far as reading its weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.checkpoints import make_checkpoint

from flover.cli.fits import find_fit
from flover.cli.main import main
from flover.config import BUNDLED_MODEL, EngineConfig
from flover.errors import ConfigError, ModelError
from flover.executor.load import load_device
from flover.memory.machine import Machine, cache_memory, read_machine, sibling_memory
from flover.model.describe import Description, ProcessPlan, describe_model
from flover.model.shard import Shard

GIB = 2**30
MACHINE = Machine(cores=2, available_bytes=8 * GIB)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model"), tokenizer=True)


def fits(config: EngineConfig, machine: Machine = MACHINE) -> bool:
    return find_fit(config, machine, lambda threads, size: 1e9).fits


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
    for command in ("doctor", "show"):
        assert main([command, str(path), "--num-threads", "1", *flags]) == 1
        assert "The model fits" not in capsys.readouterr().out


def test_show_says_what_doctor_says(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(path), "--num-threads", "1"]) == 0
    doctor = capsys.readouterr().out
    assert main(["show", str(path), "--num-threads", "1", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["model"], shown["fits"], shown["chat template"]) == (str(path), True, "yes")
    measured = {"memory bandwidth", "upper bound", "pool", "requests"}
    facts = {name: value for name, value in shown.items() if isinstance(value, str) and name not in measured}
    assert all(value in doctor for value in facts.values())
    assert {"architecture", "parameters", "weights", "weight files", "context", "tokenizer"} <= facts.keys()


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
    assert not fits(EngineConfig(model=str(copy)))


def engine_plan(config: EngineConfig, machine: Machine) -> tuple[Description, ProcessPlan] | None:
    """What an engine process works out before it reads weights; None where it ends instead."""
    try:
        described = describe_model(config, Shard(0, config.tensor_parallel_size))
        return described, described.plan(machine, config.local_ranks * config.data_parallel_size)
    except (ConfigError, ModelError):
        return None


SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "max_model_len": st.sampled_from([1, 100, 512, 513, 10**6]),
        "kv_cache_memory_bytes": st.integers(1, 2**22) | st.just(2**60),
        "dtype": st.sampled_from(["auto", "float32", "float16", "bfloat16"]),
        "quantization": st.sampled_from([None, "int8", "int4"]),
        "kv_cache_dtype": st.sampled_from(["auto", "float32", "int8"]),
        "block_size": st.sampled_from([1, 16, 2**14]),
        "max_num_seqs": st.sampled_from([1, 64]),
        "num_threads": st.sampled_from([None, 1, 3]),
        "load_format": st.sampled_from(["auto", "dummy"]),
        "tensor_parallel_size": st.sampled_from([1, 2, 3, 4]),
        "data_parallel_size": st.sampled_from([1, 2, 5]),
    },
)
MACHINES = st.builds(Machine, st.integers(1, 64), st.integers(0, 2**22) | st.just(2**40), st.sampled_from([0, 2**25]))


@settings(max_examples=150)
@given(changes=SETTINGS, machine=MACHINES)
@example({"data_parallel_size": 5, "kv_cache_memory_bytes": 2**20}, Machine(2, 2**22))
@example({"tensor_parallel_size": 2, "kv_cache_memory_bytes": 2**20}, Machine(2, 3 * 2**19))
def test_doctor_and_engine_plan_the_same(path: Path, changes: dict[str, Any], machine: Machine) -> None:
    config = EngineConfig(model=str(path), skip_tokenizer_init=True, **changes)
    asked: list[int] = []

    def measure(threads: int, num_bytes: int) -> float:
        asked.append(threads)
        return 1e9

    found, planned = find_fit(config, machine, measure), engine_plan(config, machine)
    assert found.fits == (planned is not None)
    if planned is not None:
        described, plan = planned
        assert f"{plan.pool.pool_tokens:,} tokens in pages of {config.block_size}" in found.facts["pool"]
        assert f" as {described.format}" in found.facts["weights"]
        assert asked == [plan.num_threads * config.tensor_parallel_size]
        needed = (described.weight_bytes + plan.pool.total_bytes) * config.data_parallel_size
        assert needed * config.tensor_parallel_size <= machine.available_bytes


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"quantization": "int4", "kv_cache_dtype": "int8"}, True),
        ({"dtype": "float16", "max_model_len": 100, "cpu_isa": "portable"}, True),
        ({"kv_cache_memory_bytes": 2**12}, False),
        ({"max_model_len": 10**6}, False),
    ],
)
def test_what_fits_loads_and_what_does_not_fit_does_not(changes: dict[str, Any], expected: bool) -> None:
    config = EngineConfig(model=BUNDLED_MODEL, num_threads=1, **changes)
    found = find_fit(config, read_machine(), lambda threads, size: 1e9)
    assert found.fits == expected
    if not expected:
        with pytest.raises((ConfigError, ModelError)):
            load_device(config, lambda done, total: None)
        return
    executor = load_device(config, lambda done, total: None)
    facts = executor.facts
    executor.close()
    assert f" as {facts.dtype}" in found.facts["weights"]
    if facts.pool_tokens == 64 * facts.max_model_len:  # else the memory that was free has changed in between
        assert f"{facts.pool_tokens:,} tokens" in found.facts["pool"]


def test_replicas_share_the_memory_of_the_machine(path: Path) -> None:
    config = {"model": str(path), "kv_cache_memory_bytes": 8 * GIB}
    assert fits(EngineConfig(**config), Machine(2, 10 * GIB))
    assert not fits(EngineConfig(**config, data_parallel_size=3), Machine(2, 10 * GIB))
    assert fits(EngineConfig(**config, data_parallel_size=3), Machine(2, 25 * GIB))


def test_weights_in_the_caches_have_no_bound(path: Path) -> None:
    def bound(cache_bytes: int) -> str:
        machine = Machine(2, 8 * GIB, cache_bytes)
        return find_fit(EngineConfig(model=str(path)), machine, lambda threads, size: 1e9).facts["upper bound"]

    assert "iterations/s" in bound(0)
    assert bound(32 * 2**20).startswith("none: the caches hold 32.0 MiB")


def test_speed_is_measured_on_as_many_bytes_as_the_weights_have(path: Path) -> None:
    facts = find_fit(EngineConfig(model=str(path), num_threads=1), MACHINE).facts
    assert facts["weights"].split(" as ")[0].split()[1] == "KiB"
    assert "KiB" in facts["memory bandwidth"]


def test_the_last_level_of_caches_counts_once_for_the_cores_that_share_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2})
    assert cache_memory(tmp_path) == 0
    for core, shared in ((0, "0-1"), (1, "0-1"), (2, "2-3"), (3, "2-3")):
        for index, (level, size, cores) in enumerate([("1", "32K", str(core)), ("3", "4096K", shared)]):
            folder = tmp_path / f"sys/devices/system/cpu/cpu{core}/cache/index{index}"
            folder.mkdir(parents=True)
            for name, text in (("level", level), ("size", size), ("shared_cpu_list", cores)):
                (folder / name).write_text(text + "\n")
    assert cache_memory(tmp_path) == 2 * 4096 * 1024


def test_siblings_are_the_other_children_of_the_parent(tmp_path: Path) -> None:
    for pid, parent, held in ((10, 1, 500), (11, 10, 70), (12, 10, 8), (13, 11, 900)):
        (tmp_path / f"proc/{pid}").mkdir(parents=True)
        status = f"Name:\tflover\nPid:\t{pid}\nPPid:\t{parent}\nRssAnon:\t     {held} kB\n"
        (tmp_path / f"proc/{pid}/status").write_text(status)
    (tmp_path / "proc/14").mkdir()
    assert sibling_memory(tmp_path, parent=10) == 78 * 1024
