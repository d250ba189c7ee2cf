"""The order of a row's tokens on the device: by logit, largest first, and by id, lowest first, where logits are equal
(`ops/order.py`)."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from flover.ops.cuda.launch import OPTIONS

BLOCK = 4096
"""Logits of a row that a program has in registers."""


@triton.jit
def sortable(x):
    """uint32 in the order of the float32 numbers x; both zeros are one, a NaN is the largest."""
    bits = tl.where(x == 0.0, 0.0, x).to(tl.int32, bitcast=True)
    flipped = (bits ^ ((bits >> 31) | -2147483648)).to(tl.uint32, bitcast=True)
    return tl.where(x != x, 0xFFFFFFFF, flipped).to(tl.uint32)


@triton.jit
def argmax_kernel(logits, best, ids, width, BLOCK: tl.constexpr):
    """One row: its largest logit and the first id that has it."""
    row = tl.program_id(0).to(tl.int64)
    place = tl.arange(0, BLOCK)
    top = tl.zeros([BLOCK], tl.uint32)
    first = tl.full([BLOCK], 2147483647, tl.int32)
    for start in range(0, width, BLOCK):
        token = start + place
        key = sortable(tl.load(logits + row * width + token, token < width, other=float("-inf")).to(tl.float32))
        better = (token < width) & ((key > top) | (first == 2147483647))
        first = tl.where(better, token, first)
        top = tl.where(better, key, top)
    largest = tl.max(top)
    token = tl.min(tl.where((top == largest) & (first < 2147483647), first, 2147483647))
    tl.store(ids + row, token.to(tl.int64))
    tl.store(best + row, tl.load(logits + row * width + token).to(tl.float32))


def argmax(logits: Tensor, masks: None = None) -> tuple[Tensor, Tensor]:
    """The largest of each row of `logits` [R, V], float32, and the first id that has it; a NaN is the largest.
    There are no masks: on a device they are edits."""
    rows, width = logits.shape
    best = torch.empty(rows, dtype=torch.float32, device=logits.device)
    ids = torch.empty(rows, dtype=torch.int64, device=logits.device)
    if rows:
        argmax_kernel[(rows,)](logits, best, ids, width, BLOCK, num_warps=8, **OPTIONS)
    return best, ids


@triton.jit
def logsumexp_kernel(logits, y, width, BLOCK: tl.constexpr):
    """One row: the largest first, then the sum of exponentials, block by block in float64."""
    row = tl.program_id(0).to(tl.int64)
    place = tl.arange(0, BLOCK)
    top = tl.full([BLOCK], float("-inf"), tl.float32)
    for start in range(0, width, BLOCK):
        token = start + place
        value = tl.load(logits + row * width + token, token < width, other=float("-inf")).to(tl.float32)
        top = tl.maximum(top, value)
    largest = tl.max(top)
    total = tl.zeros([BLOCK], tl.float64)
    for start in range(0, width, BLOCK):
        token = start + place
        value = tl.load(logits + row * width + token, token < width, other=float("-inf")).to(tl.float32)
        total += tl.exp(value - largest).to(tl.float64)
    tl.store(y + row, largest.to(tl.float64) + tl.log(tl.sum(total)))


def logsumexp(logits: Tensor) -> Tensor:
    """The logarithm of the sum of exponentials of each row of `logits` [R, V], float64 [R]."""
    rows, width = logits.shape
    y = torch.empty(rows, dtype=torch.float64, device=logits.device)
    if rows:
        logsumexp_kernel[(rows,)](logits, y, width, BLOCK // 2, num_warps=8, **OPTIONS)
    return y
