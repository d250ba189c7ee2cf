"""The arithmetic of linears in blocks, in numpy and exact to the bit, as csrc/linear_block.h says it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
INPUTS = 768
"""24 blocks of activations: a whole piece and a half."""


def activations(rows: int, inputs: int = INPUTS) -> Floats:
    """Of very different sizes in a row, as those of models are; one row is zero and one has blocks of zeros."""
    generator = np.random.default_rng(2)
    x = generator.standard_normal((rows, inputs), dtype=np.float32)
    x *= np.exp(2 * generator.standard_normal((1, inputs))).astype(np.float32)
    x[rows // 2] = 0
    x[-1, : inputs // 2] = 0
    return x


def fma(a: Floats, b: Floats, c: Floats) -> Floats:
    """a * b + c rounded once: the product is exact in float64, the sum is rounded there to an odd last bit (Boldo and
    Melquiond, 2008), so that rounding to float32 is right."""
    product, c = a.astype(np.float64) * b, np.asarray(c, dtype=np.float64)
    total = product + c
    back = total - product
    error = (product - (total - back)) + (c - back)
    even = total.view(np.int64) % 2 == 0
    towards = np.copysign(np.inf, error)
    return np.where((error != 0) & even, np.nextafter(total, towards), total).astype(np.float32)


def quantized(x: Floats) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Scales and integers of every 32 inputs, [rows, blocks] and [rows, in]."""
    blocks = x.reshape(len(x), -1, 32)
    reach = np.abs(blocks).max(2)
    inverse = np.divide(np.float32(127), reach, out=np.zeros_like(reach), where=reach > 1e-30)
    scales = np.where(reach > 1e-30, reach / np.float32(127), np.float32(0))
    return scales, np.rint(blocks * inverse[..., None]).astype(np.int64).reshape(x.shape)


def rounded(x: Floats) -> Floats:
    """The factors of products in bfloat16: the nearest, of two the even one, and 0 for what is below 2^-56."""
    bits = x.view(np.uint32)
    nearest = ((bits + 0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)).view(np.float32)
    return np.where(np.abs(x) < 2.0**-56, np.float32(0), nearest)


def chain_of_pairs(x: Floats, weights: Floats) -> Floats:
    """One chain over the inputs, of every two the second first, as VDPBF16PS adds them."""
    y = np.zeros((len(x), len(weights)), dtype=np.float32)
    for first in range(0, x.shape[1], 2):
        for k in range(min(first + 1, x.shape[1] - 1), first - 1, -1):
            y = fma(x[:, k, None], weights[None, :, k], y)
    return y
