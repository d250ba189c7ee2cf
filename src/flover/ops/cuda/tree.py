"""Sums over inputs that ranks share, in one order for 1, 2, 4 and 8 ranks: a tree over segments of the inputs
(docs/distributed.md; arXiv:2511.17826)."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from flover.ops.cuda.launch import OPTIONS

_BLOCK = 512


@triton.jit
def tree_sums(
    CHAIN: tl.constexpr, what, count, length, how, SEGMENTS: tl.constexpr, BLOCK_ROWS: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
):  # fmt: skip
    """Sums, and those of gates, over `count` steps of the inputs: one chain, CHAIN(*what, first, last, *how), or a tree
    over SEGMENTS of `length` steps, of which each is one. Sums that ranks share have no gates."""
    if SEGMENTS == 1:
        total, up_total = CHAIN(*what, 0, count, *how)
    else:
        total = tl.zeros([BLOCK_ROWS, BLOCK_OUT], tl.float32)
        up_total = total
        ones, twos, fours = total, total, total
        for segment in range(SEGMENTS):
            first = segment * length
            total, _ = CHAIN(*what, first, first + length, *how)
            total, ones, twos, fours = _fold(total, segment, ones, twos, fours)
    return total, up_total


@triton.jit
def _fold(total, segment, ones, twos, fours):
    """The next of up to eight sums joins a tree over neighbours. `ones`, `twos`, `fours`: subtrees of so many sums
    which wait for their other half. The first result is the tree itself once the last sum has joined."""
    total = tl.where(segment % 2 == 1, ones + total, total)
    total = tl.where(segment % 4 == 3, twos + total, total)
    total = tl.where(segment % 8 == 7, fours + total, total)
    ones = tl.where(segment % 2 == 0, total, ones)
    twos = tl.where(segment % 4 == 1, total, twos)
    fours = tl.where(segment % 8 == 3, total, fours)
    return total, ones, twos, fours


@triton.jit
def tree_kernel(parts, y, size, COUNT: tl.constexpr, ROUNDS: tl.constexpr, BLOCK: tl.constexpr):
    """Numbers of COUNT parts, up to 2^ROUNDS, one after another."""
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    part = tl.arange(0, 1 << ROUNDS)[:, None]
    there = (part < COUNT) & (place < size)[None, :]
    total = tl.load(parts + part * size + place[None, :], there, other=0.0).to(tl.float32)
    for i in tl.static_range(ROUNDS):
        total = tl.sum(tl.reshape(total, [1 << (ROUNDS - 1 - i), 2, BLOCK]), 1)
    tl.store(y + place, tl.reshape(total, [BLOCK]), place < size)


def add_parts(parts: Tensor, y: Tensor) -> None:
    """The sum of parts [N, *y.shape] as a tree over neighbours (`ops.group.tree_sum`), in float32, to y."""
    count, size = len(parts), y.numel()
    if size:
        rounds = (count - 1).bit_length()
        tree_kernel[(triton.cdiv(size, _BLOCK),)](parts, y, size, count, rounds, _BLOCK, num_warps=4, **OPTIONS)


def rounded(total: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """A sum in float32 [T, O], plus the bias [O], in that type."""
    if bias is None:
        return total.to(dtype)
    return torch.add(total, bias, out=torch.empty(total.shape, dtype=dtype, device=total.device))
