"""The device that tests of the GPU's kernels run on: the CPU, where Triton's interpreter takes a GPU's place, or with
`pytest --on-gpu` a real one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch

import support.triton_interpreter  # noqa: F401  # before any kernel runs
from flover.ops.cuda.device import Gpu, find_gpu

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
CPU = torch.device("cpu")
FAKE = Gpu(CPU, "a GPU that is not there", (9, 0), 2**28, 2**28)
GPU = FAKE if INTERPRETED else find_gpu() or FAKE
DEVICE = GPU.device


def on_device(value: Any, device: torch.device = DEVICE) -> Any:
    """Tensors, and what holds some, on that device."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {name: on_device(item, device) for name, item in value.items()}
    return tuple(on_device(item, device) for item in value) if type(value) is tuple else value
