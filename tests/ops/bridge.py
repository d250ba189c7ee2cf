"""The CPU's operations on torch's tensors: the same memory, so that tests compare with torch's formulas."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flover.ops import Group, Ops, Pages
from flover.ops.cpu import cpu_ops, instruction_sets
from flover.ops.cpu_weight import PackedWeight

OWN_ISAS = [isa for isa in instruction_sets() if isa != "avx512_bf16"]
"""Instruction sets with kernels of their own beside linears in bfloat16: the rest of avx512_bf16 is avx512."""
OWN = (
    "name",
    "new_weight",
    "page_shapes",
    "capture",
    "captures_one_shape",
    "kernel_seconds",
    "group",
    "array",
    "join",
    "adapters",
)
"""Fields of the table that take no arrays."""


def torch_ops(isa: str, num_threads: int, group: Group | None = None) -> Ops:
    """The table of the CPU, taking and giving tensors."""
    plain = cpu_ops(isa, num_threads, group)
    names = [item.name for item in fields(Ops) if item.name not in OWN]
    return replace(plain, **{name: on_tensors(getattr(plain, name)) for name in names})


def on_tensors(op: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args: as_tensors(op(*map(as_arrays, args)))


def as_arrays(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.view(torch.int16).numpy().view(np.uint16) if value.dtype == torch.bfloat16 else value.numpy()
    if isinstance(value, Pages):
        names = ("keys", "values", "key_scales", "value_scales")
        return replace(value, **{name: as_arrays(getattr(value, name)) for name in names})
    return value


def as_tensors(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value)
    return tuple(map(as_tensors, value)) if isinstance(value, tuple) else value


def store(weight: Any, first: int, rows: Tensor) -> None:
    """Fill rows of a weight of any implementation."""
    weight.store(first, rows.float().cpu().numpy())


def unpacked(weight: PackedWeight) -> Tensor:
    """The numbers that the kernels compute with."""
    return torch.from_numpy(weight.unpack())
