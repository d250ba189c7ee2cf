"""Sums, soft caps and angles."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from flover.ops.cuda.activation import sigmoid, tanh
from flover.ops.cuda.launch import OPTIONS

_BLOCK = 1024


@triton.jit
def add_kernel(x, y, total, size, BLOCK: tl.constexpr):
    """total = x + y."""
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = index < size
    a = tl.load(x + index, inside).to(tl.float32)
    b = tl.load(y + index, inside).to(tl.float32)
    tl.store(total + index, a + b, inside)


def add(x: Tensor, y: Tensor) -> Tensor:
    """x + y."""
    total = torch.empty_like(x)
    add_kernel[(triton.cdiv(x.numel(), _BLOCK),)](x, y, total, x.numel(), _BLOCK, **OPTIONS)
    return total


@triton.jit
def add_gated_kernel(x, y, gate, total, columns, BLOCK: tl.constexpr):
    """total = x + sigmoid(gate of the row) * y."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < columns
    index = row * columns + column
    share = sigmoid(tl.load(gate + row).to(tl.float32))
    a = tl.load(x + index, inside).to(tl.float32)
    b = tl.load(y + index, inside).to(tl.float32)
    tl.store(total + index, tl.fma(share, b, a), inside)


def add_gated(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    """The second term through a gate of its own for each token."""
    total, (rows, columns) = torch.empty_like(x), x.shape
    add_gated_kernel[(rows, triton.cdiv(columns, _BLOCK))](x, y, gate, total, columns, _BLOCK, **OPTIONS)
    return total


def scale_queries(queries: Tensor, gate: Tensor) -> Tensor:
    """Every query times a number of its token."""
    flat = queries.flatten(1).contiguous()
    return add_gated(flat, flat, gate).view(queries.shape)


@triton.jit
def softcap_kernel(x, cap, size, BLOCK: tl.constexpr):
    """x = cap * tanh(x / cap)."""
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = index < size
    value = tl.load(x + index, inside).to(tl.float32)
    tl.store(x + index, cap * tanh(value / cap), inside)


def softcap(x: Tensor, cap: float) -> Tensor:
    """Numbers bent towards -cap and cap, in place."""
    softcap_kernel[(triton.cdiv(x.numel(), _BLOCK),)](x, cap, x.numel(), _BLOCK, **OPTIONS)
    return x


@triton.jit
def angles_kernel(positions, frequencies, cos, sin, factor, count, size, BLOCK: tl.constexpr):
    """Of position index // count and frequency index % count."""
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = index < size
    position = tl.load(positions + index // count, inside, other=0).to(tl.float32)
    angle = position * tl.load(frequencies + index % count, inside, other=0.0)
    tl.store(cos + index, tl.cos(angle) * factor, inside)
    tl.store(sin + index, tl.sin(angle) * factor, inside)


def angles(positions: Tensor, frequencies: Tensor, factor: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines of position times frequency."""
    shape = len(positions), len(frequencies)
    cos, sin = (torch.empty(shape, dtype=torch.float32, device=positions.device) for _ in range(2))
    grid = (triton.cdiv(cos.numel(), 128),)
    angles_kernel[grid](positions, frequencies, cos, sin, factor, shape[1], cos.numel(), 128, num_warps=1, **OPTIONS)
    return cos, sin
