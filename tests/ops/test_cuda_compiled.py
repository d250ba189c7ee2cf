"""The kernels of ops/cuda compiled for a GPU that is not here; `make cuda` compiles all of them for every GPU."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

from flover.ops.cuda.quantized import QUANTIZED

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
    """Of Llama 3 8B on an H100: no spills, wide loads, tensor cores, at most eight launches a layer."""
    out = run(tmp_path, str(TOOLS / "cuda_kernels.py"), "--arch", "90", "--model", "llama-3-8b", "--sample")
    names = {line.split("|")[1].strip() for line in out.splitlines()[2:]}
    assert {"attention_kernel", "gather_kernel", "norm_kernel", "product_kernel", "rotary_write_kernel"} <= names


def test_a_layer_takes_eight_launches_and_reads_its_weights_once(tmp_path: Path) -> None:
    """In every format of matrices: a generate step moves at most 3 % more than weights, keys and values."""
    counted = run(tmp_path, str(TOOLS / "cuda_step_bytes.py"), "--rows", "1", "32")
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in counted.splitlines()[2:]]
    models, formats = ("llama-3-8b", "gpt-j-6b"), ("bfloat16", *QUANTIZED)
    assert [tuple(line[:3]) for line in lines] == list(product(models, formats, ("1", "32")))
    assert all(1.0 <= float(line[3]) <= 1.03 and int(line[4]) <= 8 for line in lines)


def test_nothing_of_a_quantized_model_is_compiled_after_the_warm_up(tmp_path: Path) -> None:
    """Whatever the number of rows, and of tokens of a chunk; of a mixture of experts, too."""
    assert run(tmp_path, str(Path(__file__).parent / "warm_specs.py")) == "18 models\n"


def test_static_ranges_are_over_names() -> None:
    """Triton 3.6 compiles no `static_range(FORMAT.planes)`, which newer ones do."""
    sources = {path.name: path.read_text() for path in (ROOT / "src/flover/ops/cuda").glob("*.py")}
    found = [(name, one) for name, text in sources.items() for one in re.findall(r"static_range\(([^()]*)\)", text)]
    assert len(found) > 5
    assert [one for one in found if not one[1].isidentifier() and not one[1].isdigit()] == []


@pytest.mark.timeout(900)
def test_launchers_take_what_a_server_launches(tmp_path: Path) -> None:
    """Triton's own, on a driver that computes nothing; the interpreter has none."""
    models = "llama:quantization=int4", "mixtral:quantization=int8"
    lines = run(tmp_path, str(TOOLS / "cuda_launches.py"), *models).splitlines()
    found = [re.fullmatch(r"(\w+):.+: (\d+) kernels compiled, (\d+) launches", line) for line in lines]
    assert [one[1] for one in found if one and int(one[3]) > 20] == ["llama", "mixtral"]


@pytest.mark.timeout(900)
def test_what_the_interpreter_runs_compiles(tmp_path: Path) -> None:
    assert "kernels compiled" in run(tmp_path, str(Path(__file__).parent / "compile_specs.py"))
