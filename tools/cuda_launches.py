"""Launches every kernel of a server's start with Triton's own launchers, without a GPU: what their arguments are is
packed and checked as on one, and `cuda_driver.c` is the driver, which computes nothing. What Triton cannot compile for
an H100, or its launchers do not take, ends this.

    python tools/cuda_launches.py [FAMILY:SETTING=VALUE ...]

Families are those of tests/support/recipes.py: PYTHONPATH has to have tests. Needs a C compiler.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = "libcuda.so.1"
MODELS = ("llama:dtype=bfloat16", "llama:quantization=int4", "mixtral:quantization=int8", "gpt_oss:kv_cache_dtype=int8")
CAPABILITY = 9, 0


def on_no_gpu() -> None:
    """torch says what Triton asks it about the GPU; memory that a kernel would have written holds zeros."""
    answers: dict[str, Any] = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "mem_get_info": lambda device: (2**28, 2**28),
        "get_device_name": lambda device: "no GPU",
        "get_device_capability": lambda device=0: CAPABILITY,
    }
    for name, answer in answers.items():
        setattr(torch.cuda, name, answer)
    from triton.runtime.driver import driver

    driver.active.get_current_stream = lambda device: 0
    torch.empty = lambda *size, **options: torch.zeros(*size, **options)


def start(model: str, folder: Path) -> int:
    """Kernels that the start of a server compiles and launches for this model, all of which run on tensors here."""
    from flover.config import EngineConfig
    from flover.executor.cuda import CudaPlatform
    from flover.executor.load import load_device
    from flover.ops.cuda.device import Gpu, find_gpu

    assert find_gpu() is not None, "the launcher itself"
    family, _, setting = model.partition(":")
    name, _, value = setting.partition("=")
    settings: dict[str, Any] = {"max_num_seqs": 4, "max_model_len": 300, "kv_cache_memory_bytes": 2**22, name: value}
    checkpoints: Any = importlib.import_module("support.checkpoints")  # of the tests
    checkpoint = checkpoints.make_checkpoint(folder / "model", family, num_hidden_layers=1)
    config = EngineConfig(model=str(checkpoint), skip_tokenizer_init=True, device="cuda", **settings)
    platform = CudaPlatform(config, Gpu(torch.device("cpu"), "no GPU", CAPABILITY, 2**28, 2**28))
    platform.compilations.watch()
    load_device(config, lambda *progress: None, platform=platform).close()
    return platform.compilations.count


def main() -> int:
    models = sys.argv[1:] or MODELS
    with tempfile.TemporaryDirectory() as folder:
        if "LAUNCHES" not in os.environ:
            command = ["cc", "-shared", "-fPIC", "-o", f"{folder}/{LIBRARY}", str(ROOT / "tools/cuda_driver.c")]
            subprocess.run(command, check=True)
            found = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
            found |= {"LD_LIBRARY_PATH": folder, "TRITON_LIBCUDA_PATH": folder, "LAUNCHES": "1"}
            return subprocess.run([sys.executable, *sys.argv], env=found, check=False).returncode
        on_no_gpu()
        launched = ctypes.CDLL(LIBRARY).num_launches
        for model in models:
            before = launched()
            compiled = start(model, Path(tempfile.mkdtemp(dir=folder)))
            print(f"{model}: {compiled} kernels compiled, {launched() - before} launches", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
