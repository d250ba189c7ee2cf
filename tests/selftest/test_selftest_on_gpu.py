"""`flover selftest invariance --device cuda`, on tensors of the CPU: what holds with --batch-invariant and without."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import support.triton_interpreter  # noqa: F401  # before any kernel runs
from support.checkpoints import make_checkpoint
from support.gpu import GPU

from flover.cli import selftest
from flover.cli.main import main
from flover.executor.cuda_executor import CudaExecutor
from flover.selftest.matrix import ON_GPU

pytestmark = pytest.mark.gpu


def test_what_holds_with_and_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """torch's products of one row and of several add in other orders, on a CPU too."""
    few = dataclasses.replace(ON_GPU, page_size=(16,), warm=(False,), preempted=(False,), batch=(1, 3), chunk=(0,))
    monkeypatch.setattr(selftest, "ON_GPU", few)
    monkeypatch.setattr("flover.executor.cuda.find_gpu", lambda index: GPU)
    monkeypatch.setattr(CudaExecutor, "warm_up", lambda self, progress: None)
    model = str(make_checkpoint(tmp_path, "llama"))
    flags = ["--device", "cuda", "--enforce-eager", "--kv-cache-memory-bytes", "32MiB"]
    assert main(["selftest", "invariance", model, *flags]) == 0
    out = capsys.readouterr().out
    formats = json.loads(out.splitlines()[-1])["formats"]
    without, held = formats.values()
    assert list(formats)[1].endswith("with --batch-invariant")
    assert without["unequal"] and without["cells"] == held["cells"] == 2
    assert held["unequal"] == []
    assert "2 cells in" in out and "all of them bit-equal" in out
