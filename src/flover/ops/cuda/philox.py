"""The random numbers of the sampler on the device: Philox4x32-10 of a row's seed and position, bit for bit those of the
host (`uniforms` in model/sampling)."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from flover.ops.cuda.launch import OPTIONS

_BLOCK = 128


@triton.jit(do_not_specialize=["rows"])
def uniforms_kernel(seeds, positions, y, rows, BLOCK: tl.constexpr):
    """One number in (0, 1) of 52 random bits for each row."""
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    seed = tl.load(seeds + row, row < rows, other=0).to(tl.uint64)
    position = tl.load(positions + row, row < rows, other=0).to(tl.uint64)
    low = tl.full([BLOCK], 0xFFFFFFFF, tl.uint64)
    c0, c1, c2, c3 = position & low, position >> 32, low ^ low, low ^ low
    k0, k1 = seed & low, seed >> 32
    for _ in range(10):
        first, second = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (second >> 32) ^ c1 ^ k0, second & low, (first >> 32) ^ c3 ^ k1, first & low
        k0, k1 = (k0 + 0x9E3779B9) & low, (k1 + 0xBB67AE85) & low
    bits = ((c0 << 20) | (c1 >> 12)).to(tl.int64)
    tl.store(y + row, (bits.to(tl.float64) + 0.5) * 2.220446049250313e-16, row < rows)


def uniforms(seeds: Tensor, positions: Tensor) -> Tensor:
    """float64 [R] for int64 [R] seeds and positions."""
    y = torch.empty(len(seeds), dtype=torch.float64, device=seeds.device)
    if len(seeds):
        uniforms_kernel[(triton.cdiv(len(seeds), _BLOCK),)](seeds, positions, y, len(seeds), _BLOCK, **OPTIONS)
    return y
