"""The kernels of ops/cuda compiled for a GPU that is not here; `make cuda` compiles all of them for every GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.gpu
ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / "tools"


def run(cache: Path, *command: str) -> str:
    """The output of a program whose Triton compiles."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(cache), "PYTHONPATH": f"{TOOLS}:{ROOT / 'tests'}"}
    done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_generate_step_compiled(tmp_path: Path) -> None:
    """Of Llama 3 8B on an H100: no spills, wide loads, tensor cores, at most eight launches a layer. A layer moves at
    most 3 % more than its weights, keys and values."""
    out = run(tmp_path, str(TOOLS / "cuda_kernels.py"), "--arch", "90", "--model", "llama-3-8b", "--sample")
    names = {line.split("|")[1].strip() for line in out.splitlines()[2:]}
    assert {"attention_kernel", "gather_kernel", "norm_kernel", "product_kernel", "rotary_write_kernel"} <= names
    counted = run(tmp_path, str(TOOLS / "cuda_step_bytes.py"), "--rows", "1", "32")
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in counted.splitlines()[2:]]
    assert [line[:2] for line in lines] == [
        [model, rows] for model in ("llama-3-8b", "gpt-j-6b") for rows in ("1", "32")
    ]
    assert all(1.0 <= float(line[2]) <= 1.03 and int(line[3]) <= 8 for line in lines)


@pytest.mark.timeout(900)
def test_what_the_interpreter_runs_compiles(tmp_path: Path) -> None:
    assert "kernels compiled" in run(tmp_path, str(Path(__file__).parent / "compile_specs.py"))
