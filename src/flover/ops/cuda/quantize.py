"""Activations in 8 bits, for products with quantized weights (csrc/linear_int.h, csrc/linear_block.h).

x = scale * q, q in -127..127: with a scale for every 32 inputs, or, behind a rotation, with one for a row. What is not
finite makes the scale not a number, and so every output of its row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from flover.ops import ONE_SCALE
from flover.ops.cuda.launch import OPTIONS
from flover.ops.cuda.quantized import BLOCK, QuantizedWeight

_BLOCKS_AT_ONCE = 32
_INPUTS_AT_ONCE = 2048


@dataclass(frozen=True, slots=True)
class Integers:
    """Rows in 8 bits: `q` int8 [rows, 32 * blocks]; `scales` [blocks, rows]; `shares` [blocks * parts, rows], each a
    scale times the sum of its integers. Scales for a whole row are [1, rows] where the weight has one for an output."""

    q: Tensor
    scales: Tensor
    shares: Tensor


@triton.jit
def nearest(x):
    """The nearest integer, of two the even one, for magnitudes below 2^22."""
    return (x + 12582912.0) - 12582912.0


@triton.jit
def magnitude_bits(x):
    """Bits of |x|, which are in the order of the numbers; from 0x7f800000 on they are no finite number."""
    return x.to(tl.int32, bitcast=True) & 0x7FFFFFFF


@triton.jit
def quantize_kernel(
    x, order, q, scales, shares, rows, inputs, blocks, PARTS: tl.constexpr, HAS_ORDER: tl.constexpr, COUNT: tl.constexpr
):
    """COUNT blocks of one row; `order` has the inputs as the weight has them."""
    row = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1) * COUNT + tl.arange(0, COUNT)
    place = tl.arange(0, 32)[None, :]
    column = block[:, None] * 32 + place
    inside = column < inputs
    source = tl.load(order + column, inside, other=0) if HAS_ORDER else column
    value = tl.load(x + row * inputs + source, inside, other=0.0).to(tl.float32)
    top = tl.max(magnitude_bits(value), 1)
    finite = top < 0x7F800000
    reach = tl.where(finite, top, 0).to(tl.float32, bitcast=True)
    scale = tl.where(reach > 1e-30, tl.div_rn(reach, 127.0), 0.0)
    inverse = tl.where(reach > 1e-30, tl.div_rn(127.0, reach), 0.0)
    integer = nearest(tl.where(finite[:, None], value, 0.0) * inverse[:, None])
    scale = tl.where(finite, scale, float("nan"))
    real = block < blocks
    tl.store(q + row * blocks * 32 + column, integer.to(tl.int8), real[:, None])
    tl.store(scales + block.to(tl.int64) * rows + row, scale, real)
    for part in tl.static_range(PARTS):
        mine = tl.sum(tl.where(place // (32 // PARTS) == part, integer, 0.0), 1)
        tl.store(shares + (block.to(tl.int64) * PARTS + part) * rows + row, scale * mine, real)


@triton.jit
def rotated(x, SIZE: tl.constexpr, ROUNDS: tl.constexpr):
    """Every 2^ROUNDS of SIZE numbers times the Hadamard matrix, round by round (csrc/rotate.h)."""
    for i in tl.static_range(ROUNDS):
        pairs = tl.permute(tl.reshape(x, [SIZE // (2 << i), 2, 1 << i]), [0, 2, 1])
        first, second = tl.split(pairs)
        x = tl.reshape(tl.permute(tl.join(first + second, first - second), [0, 2, 1]), [SIZE])
    return x


@triton.jit
def rotate_kernel(
    x, q, scales, shares, rows, inputs, blocks, factor, ROUNDS: tl.constexpr, ONE: tl.constexpr, SIZE: tl.constexpr
):
    """One row, SIZE inputs at a time: once for its largest magnitude, once for its integers. ONE: one scale is kept."""
    row = tl.program_id(0).to(tl.int64)
    place = tl.arange(0, SIZE)
    top = 0
    for first in range(0, inputs, SIZE):
        inside = first + place < inputs
        value = rotated(tl.load(x + row * inputs + first + place, inside, other=0.0).to(tl.float32), SIZE, ROUNDS)
        top = tl.maximum(top, tl.max(magnitude_bits(value)))
    finite = top < 0x7F800000
    reach = tl.where(finite, top, 0).to(tl.float32, bitcast=True)
    inverse = tl.where(reach > 0.0, tl.div_rn(127.0, reach), 0.0)
    scale = tl.where(finite, tl.div_rn(reach, 127.0) * factor, float("nan"))
    if ONE:
        tl.store(scales + row, scale)
    for first in range(0, blocks * 32, SIZE):
        inside = first + place < inputs
        value = rotated(tl.load(x + row * inputs + first + place, inside, other=0.0).to(tl.float32), SIZE, ROUNDS)
        value = tl.where(finite, value, 0.0) * inverse
        integer = nearest(tl.minimum(tl.maximum(value, -127.0), 127.0))
        tl.store(q + row * blocks * 32 + first + place, integer.to(tl.int8), first + place < blocks * 32)
        if not ONE:
            block = first // 32 + tl.arange(0, SIZE // 32)
            at, real = block.to(tl.int64) * rows + row, block < blocks
            tl.store(scales + at, tl.broadcast_to(scale, [SIZE // 32]), real)
            tl.store(shares + at, scale * tl.sum(tl.reshape(integer, [SIZE // 32, 32]), 1), real)


def rotation_factor(rotation: int) -> float:
    """What rotated activations are multiplied with (csrc/weight.h: rotation_scale)."""
    return float(2.0 ** -(rotation.bit_length() // 2))


def integers_of(x: Tensor, weight: QuantizedWeight) -> Integers:
    """Rows of x as that weight's products want them."""
    rows, inputs, blocks, kind = len(x), x.shape[1], weight.blocks, weight.kind
    one = kind.scale == "row"
    numbers = torch.empty((rows, BLOCK * blocks), dtype=torch.int8, device=x.device)
    scales = torch.empty((1 if one else blocks, rows), dtype=torch.float32, device=x.device)
    shares = torch.empty((0 if one else blocks * kind.parts, rows), dtype=torch.float32, device=x.device)
    if weight.format in ONE_SCALE:
        rounds, size = weight.rotation.bit_length() - 1, _INPUTS_AT_ONCE
        rotate_kernel[(rows,)](
            x, numbers, scales, shares, rows, inputs, blocks, rotation_factor(weight.rotation), rounds, one, size,
            num_warps=8, **OPTIONS,
        )  # fmt: skip
    else:
        grid, order = (rows, triton.cdiv(blocks, _BLOCKS_AT_ONCE)), weight.order
        quantize_kernel[grid](
            x, order, numbers, scales, shares, rows, inputs, blocks, kind.parts, order is not None, _BLOCKS_AT_ONCE,
            num_warps=4, **OPTIONS,
        )  # fmt: skip
    return Integers(numbers, scales, shares)
