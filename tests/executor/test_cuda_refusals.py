"""Which device is chosen, what a GPU refuses before a weight is read, and what it leaves for pages. No kernel runs."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from support.checkpoints import make_checkpoint

from flover.cli.main import main
from flover.config import EngineConfig
from flover.errors import ConfigError, ModelError
from flover.executor.cuda import CudaPlatform
from flover.executor.detect import new_platform, resolve_device
from flover.executor.load import load_device
from flover.model.describe import describe_model
from flover.model.shard import Shard
from flover.ops.cuda import device
from flover.ops.cuda.device import Gpu

FAKE = Gpu(torch.device("cpu"), "a GPU that is not there", (9, 0), 2**29, 2**29)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("llama"), "llama")


@pytest.mark.parametrize(
    ("gpu", "settings", "message"),
    [
        ({"capability": (7, 5)}, {}, r"compute capability 7\.5, at least 8\.0 is needed"),
        ({}, {"tensor_parallel_size": 2}, "--tensor-parallel-size 2 needs 2 GPUs, and torch finds 1 here"),
        (
            {"count": 3},
            {"tensor_parallel_size": 8, "nnodes": 2},
            "--tensor-parallel-size 8 needs 4 GPUs on each of --nnodes 2 nodes, and torch finds 3 here",
        ),
        ({}, {"data_parallel_size": 2}, "--data-parallel-size is 2, not 1"),
        (
            {"free_bytes": 6_720_000},
            {},
            "do not fit into what --gpu-memory-utilization 0.9 leaves of a GPU that is not ",
        ),
        ({}, {"kv_cache_memory_bytes": 2**30}, "--kv-cache-memory-bytes asks for 1024.0 MiB"),
    ],
)
def test_what_does_not_run_on_a_gpu_is_refused_before_a_weight_is_read(
    checkpoint: Path, gpu: dict[str, Any], settings: dict[str, Any], message: str
) -> None:
    config = EngineConfig(model=str(checkpoint), device="cuda", **settings)
    seen: list[int] = []
    with pytest.raises((ConfigError, ModelError), match=message) as refused:
        platform = CudaPlatform(config, dataclasses.replace(FAKE, **gpu))
        load_device(config, lambda done, total: seen.append(done), platform=platform)
    assert "\n" not in str(refused.value)
    assert not seen


def test_ranks_have_a_gpu_each_and_take_the_pages_that_fit_all(checkpoint: Path) -> None:
    """As much memory for each as for one; half of the weights and half of the pages' bytes."""
    pages = []
    many: dict[str, Any] = {"max_num_seqs": 1024, "max_num_batched_tokens": 1024, "enforce_eager": True}
    for size in (1, 2):
        config = EngineConfig(model=str(checkpoint), device="cuda", tensor_parallel_size=size, **many)
        machine = CudaPlatform(config, dataclasses.replace(FAKE, count=size, free_bytes=2**26)).machine()
        described = describe_model(config, Shard(0, size))
        plan = described.plan(machine, config.local_ranks)
        assert plan.pool.total_bytes <= machine.available_bytes - described.weight_bytes
        pages.append(plan.pool.num_pages)
    assert pages[1] > 1.9 * pages[0]
    with pytest.raises(ConfigError, match="ray gives ranks CPUs and no GPU"):
        EngineConfig(device="cuda", distributed_executor_backend="ray")


def test_pages_get_what_weights_leave_of_the_utilization(checkpoint: Path) -> None:
    machines = [
        CudaPlatform(EngineConfig(gpu_memory_utilization=share), dataclasses.replace(FAKE, free_bytes=free)).machine()
        for share, free in ((0.9, 2**29), (0.5, 2**28), (0.5, 3 * 2**27))
    ]
    assert [one.available_bytes for one in machines] == [int(0.9 * 2**29), 0, 2**27]
    assert {one.pool_share for one in machines} == {1.0}
    with pytest.raises(ConfigError, match=r"--gpu-memory-utilization must be above 0 and at most 1, got 1\.1"):
        EngineConfig(gpu_memory_utilization=1.1)


def test_pages_leave_room_for_activations_that_the_rest_of_the_memory_has_none_for(checkpoint: Path) -> None:
    def planned(tokens: int) -> tuple[int, int, int]:
        many: dict[str, Any] = {"max_num_seqs": 1024, "max_num_batched_tokens": tokens, "enforce_eager": True}
        config = EngineConfig(model=str(checkpoint), device="cuda", **many)
        machine = CudaPlatform(config, dataclasses.replace(FAKE, free_bytes=2**27)).machine()
        described = describe_model(config, Shard(0, 1))
        free = machine.available_bytes - described.weight_bytes - described.plan(machine, 1).pool.total_bytes
        return free, described.activation_bytes, machine.spare_bytes

    free, activations, spare = planned(2048)
    assert activations < spare == 2**29 - int(0.9 * 2**29)
    assert free < 2**20
    free, activations, spare = planned(2**15)
    assert activations - spare <= free < activations - spare + 2**20
    assert activations > spare
    with pytest.raises(
        ConfigError, match=r"an iteration of 1048576 tokens needs [\d,]+ MiB, and .* of a GPU that is not"
    ):
        planned(2**20)


@pytest.mark.parametrize(("fails_at", "message"), [(0, "weights do not fit into"), (10**5, "no memory for")])
def test_memory_that_is_gone_when_it_is_taken_is_said_in_a_line(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int, message: str
) -> None:
    """Another process has taken it since it was measured: first for a weight, then for pages."""
    taken = torch.zeros

    def limited(shape: tuple[int, ...], **rest: Any) -> torch.Tensor:
        if math.prod(shape) > fails_at:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return taken(shape, **rest)

    monkeypatch.setattr(torch, "zeros", limited)
    config = EngineConfig(model=str(checkpoint), device="cuda", max_num_seqs=64)
    with pytest.raises((ConfigError, ModelError), match=message):
        load_device(config, lambda done, total: None, platform=CudaPlatform(config, FAKE))


def test_doctor_says_what_fits_on_the_gpu(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["doctor", str(checkpoint), "--device", "cuda", "--skip-tokenizer-init"]
    monkeypatch.setattr("flover.executor.cuda.find_gpu", lambda index: FAKE)
    assert main([*words, "--max-num-seqs", "2"]) == 0
    out = capsys.readouterr().out
    assert "cuda: a GPU that is not there, compute capability 9.0, 0.5 GiB, 0.5 GiB available" in out
    assert "2 of full context at once" in out
    gpus = [dataclasses.replace(FAKE, count=2, free_bytes=free) for free in (2**29, 2**27)]
    monkeypatch.setattr("flover.executor.cuda.find_gpu", lambda index: gpus[index])
    assert main([*words, "--tensor-parallel-size", "2", "--max-num-seqs", "2", "--max-model-len", "64"]) == 0
    out = capsys.readouterr().out
    assert "device 1      cuda: a GPU that is not there, compute capability 9.0, 0.5 GiB, 0.1 GiB available" in out
    assert re.search(r"on each GPU +[\d.]+ .iB of weights, [\d.]+ .iB of keys and values", out)
    monkeypatch.setattr("flover.executor.cuda.find_gpu", lambda index: FAKE)
    assert main([*words, "--tensor-parallel-size", "2"]) == 2
    assert "--tensor-parallel-size 2 needs 2 GPUs, and torch finds 1 here" in capsys.readouterr().err
    assert main([*words, "--max-num-seqs", "2", "--kv-cache-dtype", "int8"]) == 0
    assert "per token as int8" in capsys.readouterr().out
    monkeypatch.setattr("flover.executor.cuda.find_gpu", lambda index: None)
    assert main(words) == 2
    assert capsys.readouterr().err.startswith("flover doctor: error: --device cuda: torch finds no GPU")


def test_auto_is_a_gpu_that_can_compute_the_model(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = EngineConfig(model=str(checkpoint))
    assert resolve_device(config, tmp_path).device == "cpu"
    assert not caplog.messages
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidiactl").touch()
    cases: list[tuple[Gpu | None, dict[str, Any], str]] = [
        (FAKE, {}, ""),
        (None, {}, "torch finds no GPU"),
        (dataclasses.replace(FAKE, capability=(7, 5)), {}, "compute capability"),
        (FAKE, {"tensor_parallel_size": 2}, "--tensor-parallel-size 2 needs 2 GPUs"),
    ]
    for found, settings, reason in cases:
        caplog.clear()
        monkeypatch.setattr("flover.executor.cuda.find_gpu", lambda index, found=found: found)
        resolved = resolve_device(dataclasses.replace(config, **settings), tmp_path)
        assert (resolved.device, resolved.async_scheduling) == ("cpu", False) if reason else ("cuda", True)
        assert [reason in line and "the CPU is used" in line for line in caplog.messages] == [True] * bool(reason)
    assert resolve_device(dataclasses.replace(config, async_scheduling=False), tmp_path).async_scheduling is False


def test_a_gpu_that_cannot_be_used_is_said_in_one_line(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process has it alone; there is no compiler for what Triton launches kernels with."""
    busy = (
        "CUDA error: CUDA-capable device(s) is/are busy or unavailable\nFor debugging consider CUDA_LAUNCH_BLOCKING=1"
    )
    set_device, launcher = [busy, ""], ["", "Failed to find C compiler."]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**30, 2**30))

    def fail(message: str) -> None:
        if message:
            raise RuntimeError(message)

    for first, second in zip(set_device, launcher, strict=True):
        monkeypatch.setattr(torch.cuda, "set_device", lambda device, message=first: fail(message))
        monkeypatch.setattr(device, "check_launcher", lambda message=second: fail(message))
        reason = re.escape((first or second).partition("\n")[0])
        with pytest.raises(ConfigError, match=f"^--device cuda: GPU 1 cannot be used: {reason}$"):
            new_platform(EngineConfig(model=str(checkpoint), device="cuda"), local_rank=1)


def test_cuda_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flover.executor.cuda.find_gpu", lambda index: None)
    with pytest.raises(ConfigError, match="--device cuda: torch finds no GPU"):
        new_platform(EngineConfig(device="cuda"))
    monkeypatch.setattr("flover.extras.importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"--device cuda needs torch: pip install 'flover\[cuda\]'"):
        new_platform(EngineConfig(device="cuda"))
