"""`flover bench gpu` from end to end where Triton's interpreter takes the GPU's place."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from flover_benchmarks.gpu import device, model, parity, rival, steps
from flover_benchmarks.gpu.parts import INTERPRETED, PartSpec
from flover_benchmarks.gpu.worker import measure
from support.gpu import DEVICE, GPU

from flover.cli.main import main
from flover.errors import EngineDeadError, FloverError
from flover.executor.cuda import CudaExecutor
from flover.ops.cuda import table

pytestmark = pytest.mark.gpu
MISSING = "flover._cpu", "rich", "jinja2", "starlette", "uvicorn", "uvloop", "aiohttp", "llguidance", "yaml"
"""What a machine need not have: the compiled kernels, and all packages but numpy, msgspec, torch and triton."""
MORE = "huggingface_hub", "tokenizers", "safetensors", "prometheus_client", "matplotlib", "httptools"


def spec_of(name: str, **sizes: Any) -> PartSpec:
    return PartSpec(name, "tiny-llama", DEVICE.type, 300.0, replace(INTERPRETED, **sizes))


def test_all_parts_on_a_machine_with_little(tmp_path: Path) -> None:
    """No compiled kernels; transformers cannot be imported, which costs no other part."""
    (tmp_path / "sitecustomize.py").write_text(
        f"import sys\nfor name in {(*MISSING, *MORE)!r}:\n    sys.modules[name] = None\n"
    )
    command = [sys.executable, "-m", "flover", "bench", "gpu", "--device", "cpu", "--models", "tiny-llama"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    parts = {(found := json.loads(line))["part"]: found for line in done.stdout.splitlines() if line.startswith("{")}
    assert list(parts) == ["parity", "limits", "steps", "E1", "concurrent", "E6", "transformers"]
    assert {name for name, part in parts.items() if part["error"]} == {"transformers"}, done.stderr
    assert "huggingface_hub" in parts["transformers"]["error"]
    assert done.returncode == 1
    records = {name: part["records"] for name, part in parts.items()}
    assert [(one["rows"], one["context"]) for one in records["steps"][1:]] == [(1, 40), (3, 40)]
    assert {one["strategy"] for one in records["E1"][1:]} == {"fusion", "dynamic-batching", "serial"}
    assert [one["instances"] for one in records["concurrent"]] == [2]
    assert [one["reorder"] for one in records["E6"][1:]] == [True, False, True]
    assert [one["engine"] for one in records["transformers"]] == ["flover"]
    tables = done.stdout[done.stdout.rindex("\n{") :]
    for title in ("Parity", "What the device can do", "Steps of tiny-llama", "E1: tiny-llama", "E6: tiny-llama"):
        assert title in tables
    assert "FAILED: " in tables and "tiny-llama in bfloat16: Triton's interpreter" in tables


def test_without_a_gpu_one_line_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert main(["bench", "gpu"]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.splitlines()[-1] == "flover bench gpu: error: torch finds no GPU: flover bench gpu --estimate needs none"


def test_transformers_generates_as_many_tokens() -> None:
    found: list[dict[str, Any]] = []
    rival.compare(spec_of("transformers"), lambda: 100.0, lambda **one: found.append(one), pytest.fail)
    assert [one.get("engine") for one in found] == ["flover", "transformers", None]


def test_parity_fails_for_a_wrong_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16 too, where all is well before."""
    _, config = parity.read_config(parity.TINY["tiny-gpt-j"])
    assert parity.logits_error(config, "bfloat16", DEVICE) < parity.TOLERANCE["bfloat16"]
    found: list[dict[str, Any]] = []
    add = table.add
    monkeypatch.setattr(table, "add", lambda x, y: add(x, 1.01 * y))
    with pytest.raises(FloverError, match="tiny-gpt-j: logits in float32 differ by"):
        parity.check_parity(DEVICE, "tiny-gpt-j", lambda **one: found.append(one), lambda reason: None)
    assert (found[0]["dtype"], found[0]["holds"]) == ("float32", False)


def test_an_error_of_the_device_ends_its_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what was measured before it; the engine does not try again."""
    forwards: list[int] = []
    forward = CudaExecutor._forward

    def failing(self: CudaExecutor, batch: Any) -> Any:
        forwards.append(batch.num_rows)
        if batch.num_rows == 3:
            raise RuntimeError("an illegal memory access")
        return forward(self, batch)

    monkeypatch.setattr(CudaExecutor, "_forward", failing)
    monkeypatch.setattr(CudaExecutor, "warm_up", lambda self, progress: None)
    found: list[dict[str, Any]] = []
    assert measure(spec_of("steps"), found.append, io.StringIO()) == 1
    assert found[1]["rows"] == 1
    assert found[-1]["error"] == f"{EngineDeadError.__name__}: RuntimeError: an illegal memory access"
    assert forwards.count(3) == 1


def test_what_there_is_no_time_or_room_for_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    size = 135 * 2**20  # most of it is kept for graphs
    monkeypatch.setattr(model, "gpu_of", lambda name: replace(GPU, total_bytes=size, free_bytes=size))
    said: list[str] = []
    sizes = {"rows": (1, 90), "contexts": (40,)}
    steps.measure_steps(spec_of("steps", **sizes), lambda: 0.0, lambda **one: None, said.append)
    assert said[0] == "1 rows of 40 tokens: no time was left"
    assert said[1].startswith("90 rows of 40 tokens: keys and values have room for ")


def test_what_computes_is_found() -> None:
    x = torch.ones(256, 256, device=DEVICE)
    busy = device.busy_in(DEVICE, lambda: [x @ x for _ in range(3)])
    assert busy.seconds > 0 and busy.kernels >= 3
    assert any("mm" in name for name in busy.longest)
