"""The kernels of ops/cuda compiled for a GPU that is not here; `make cuda` compiles all of them for every GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.gpu
TOOL = Path(__file__).resolve().parents[2] / "tools" / "cuda_kernels.py"


def test_a_generate_step_compiled(tmp_path: Path) -> None:
    """Of Llama 3 8B on an H100: no spills, wide loads, tensor cores, at most eight launches a layer."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    command = [sys.executable, str(TOOL), "--arch", "90", "--model", "llama-3-8b", "--sample"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    names = {line.split("|")[1].strip() for line in done.stdout.splitlines()[2:]}
    assert {"attention_kernel", "gather_kernel", "norm_kernel", "product_kernel", "rotary_write_kernel"} <= names
