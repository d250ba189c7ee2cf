"""Rows of a table: embeddings, and the hidden states whose logits are asked for."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from flover.ops.cuda.launch import OPTIONS
from flover.ops.cuda.weight import CudaWeight

_BLOCK = 1024


@triton.jit
def gather_kernel(ids, table, y, size, factor, BLOCK: tl.constexpr):
    """y[row] = factor * table[ids[row]]."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < size
    values = tl.load(table + tl.load(ids + row).to(tl.int64) * size + column, inside)
    tl.store(y + row * size + column, values.to(tl.float32) * factor, inside)


def gather_rows(table: Tensor, ids: Tensor, factor: float = 1.0) -> Tensor:
    """factor * table[ids], [T, H]."""
    rows, size = len(ids), table.shape[1]
    y = torch.empty((rows, size), dtype=table.dtype, device=table.device)
    if rows:
        gather_kernel[(rows, triton.cdiv(size, _BLOCK))](ids, table, y, size, float(factor), _BLOCK, **OPTIONS)
    return y


def embed(ids: Tensor, table: CudaWeight, factor: float) -> Tensor:
    """Rows of the table, times the factor."""
    return gather_rows(table.data, ids, factor)
