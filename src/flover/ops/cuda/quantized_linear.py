"""Products with quantized weights: integers of 8 bits times integers, on tensor cores, exact over a block of 32 inputs.

As on the CPU (csrc/linear_int.h, csrc/linear_block.h): activations have 8 bits, an output is one chain over the blocks
in order, and for int8 one exact sum. So tiles may have any size: a row's bits are the same. fp8_e4m3 takes activations
as they are, and one tile for any number of rows.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from flover.ops.cuda.blocks import numbers_of, scale_of
from flover.ops.cuda.epilogue import finish
from flover.ops.cuda.fp8 import fp8_linear
from flover.ops.cuda.launch import OPTIONS
from flover.ops.cuda.quantize import Integers, integers_of
from flover.ops.cuda.quantized import QuantizedWeight


@triton.jit
def add_block(
    total, a, x_scale, shares, x_row, rows, weight, at, record, unit, half, out, outputs, stride, FORMAT: tl.constexpr
):
    """What the block `half` of a unit adds to sums [rows, outputs], of activations `a` [rows, 32]."""
    place = tl.arange(0, 32)
    real = out < outputs
    w = tl.trans(numbers_of(weight, at, unit, half, out[:, None], place[None, :], real[:, None], stride, FORMAT))
    if FORMAT.scale == "row":
        total = tl.dot(a, w, total, out_dtype=tl.int32)
    elif FORMAT.code == "fp8":
        scale, _ = scale_of(weight, at, record, unit, half, 0, out, real, stride, FORMAT)
        sums = tl.dot(a, (w.to(tl.float32) * 256.0).to(a.dtype), input_precision="ieee")
        total = tl.fma(sums, tl.broadcast_to(scale[None, :], total.shape), total)
    else:
        scale, offset = scale_of(weight, at, record, unit, half, 0, out, real, stride, FORMAT)
        if FORMAT.parts == 2:
            second, second_offset = scale_of(weight, at, record, unit, half, 1, out, real, stride, FORMAT)
            upper = place[None, :] >= 16
            sums = tl.dot(tl.where(upper, 0, a), w, out_dtype=tl.int32).to(tl.float32) * scale[None, :]
            part = tl.dot(tl.where(upper, a, 0), w, out_dtype=tl.int32).to(tl.float32)
            sums = tl.fma(part, tl.broadcast_to(second[None, :], total.shape), sums)
        else:
            sums = tl.dot(a, w, out_dtype=tl.int32).to(tl.float32) * scale[None, :]
        total = tl.fma(sums, tl.broadcast_to(x_scale[:, None], total.shape), total)
        if FORMAT.offset or FORMAT.scale == "word":
            mine = shares + (unit * (1 if FORMAT.low == 8 else 2) + half).to(tl.int64) * FORMAT.parts * rows + x_row
            total = add_offset(total, tl.load(mine), offset)
            if FORMAT.parts == 2:
                total = add_offset(total, tl.load(mine + rows), second_offset)
    return total


@triton.jit
def add_offset(total, share, offset):
    """Sums of activations [rows] times offsets [outputs]."""
    return tl.fma(tl.broadcast_to(share[:, None], total.shape), tl.broadcast_to(offset[None, :], total.shape), total)


@triton.jit
def quantized_chain(
    x, scales, shares, x_row, rows, weight, at, out, outputs, stride, units, inputs, FORMAT: tl.constexpr,
    GATED: tl.constexpr, UNITS: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_OUT: tl.constexpr,
):  # fmt: skip
    """Sums over the inputs, in order, of the rows x_row of x times the outputs `out` of a weight; gated: and those as
    far behind its first half. x: int8 [rows, 32 * blocks], fp8: [rows, inputs] as it is."""
    kind: tl.constexpr = tl.int32 if FORMAT.scale == "row" else tl.float32
    total = tl.zeros([BLOCK_ROWS, BLOCK_OUT], kind)
    up_total = tl.zeros([BLOCK_ROWS, BLOCK_OUT], kind)
    together: tl.constexpr = 1 if FORMAT.low == 8 else 2
    width = inputs if FORMAT.code == "fp8" else units * (32 * together)
    x_place = x_row[:, None] * width
    place = tl.arange(0, 32)[None, :]
    for first in range(0, units, UNITS):
        for i in tl.static_range(UNITS):
            for half in tl.static_range(together):
                unit = first + i
                block = unit * together + half
                record = first * together // FORMAT.record + (i * together + half) // FORMAT.record
                column = block * 32 + place
                if FORMAT.code == "fp8":
                    a = tl.load(x + x_place + column, column < width, other=0.0)
                else:
                    a = tl.load(x + x_place + column)
                x_scale = x_row
                if FORMAT.scale != "row" and FORMAT.code != "fp8":
                    x_scale = tl.load(scales + block.to(tl.int64) * rows + x_row)
                total = add_block(
                    total, a, x_scale, shares, x_row, rows, weight, at, record, unit, half, out, outputs, stride, FORMAT
                )
                if GATED:
                    up_total = add_block(
                        up_total, a, x_scale, shares, x_row, rows, weight, at, record, unit, half, out + outputs,
                        2 * outputs, stride, FORMAT,
                    )  # fmt: skip
    if FORMAT.scale == "row":
        x_scale = tl.load(scales + x_row)[:, None]
        none = units * 0
        scale, _ = scale_of(weight, at, none, none, 0, 0, out, out < outputs, stride, FORMAT)
        total = total.to(tl.float32) * (scale[None, :] * x_scale)
        if GATED:
            scale, _ = scale_of(weight, at, none, none, 0, 0, out + outputs, out < outputs, stride, FORMAT)
            up_total = up_total.to(tl.float32) * (scale[None, :] * x_scale)
    return total, up_total


@triton.jit
def quantized_kernel(
    x, scales, shares, weight, at, bias, y, rows, outputs, stride, units, inputs, y_stride, FORMAT: tl.constexpr,
    KIND: tl.constexpr, GATED: tl.constexpr, HAS_BIAS: tl.constexpr, UNITS: tl.constexpr, BLOCK_ROWS: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
):  # fmt: skip
    """BLOCK_ROWS rows by BLOCK_OUT outputs (gated: with their gates); `outputs` counts those of y."""
    row = tl.program_id(1) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    out = tl.program_id(0) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    x_row = tl.minimum(row, rows - 1).to(tl.int64)
    total, up_total = quantized_chain(
        x, scales, shares, x_row, rows, weight, at, out, outputs, stride, units, inputs, FORMAT, GATED, UNITS,
        BLOCK_ROWS, BLOCK_OUT,
    )  # fmt: skip
    total = finish(total, up_total, bias, out, outputs, KIND, GATED, HAS_BIAS)
    inside = (row < rows)[:, None] & (out < outputs)[None, :]
    tl.store(y + row.to(tl.int64)[:, None] * y_stride + out[None, :], total, inside)


class Tile(NamedTuple):
    """How a product is cut: so many rows and outputs for a program of so many warps, which takes so many units of the
    inputs in one turn of its loop. Formats with two scales for a block, and gated weights, fill more registers."""

    rows: int
    outputs: int
    units: int
    warps: int


def tile_of(weight: QuantizedWeight, rows: int) -> Tile:
    """For a product of so many rows. fp8 has one tile: tensor cores of floats add in an order of their own."""
    kind, count = weight.kind, weight.blocks // weight.kind.together
    if kind.code == "fp8":
        return Tile(16, 32, math.gcd(count, 4), 2)
    if rows <= 16:
        crowded = (kind.parts == 2 or kind.factors == "both") + weight.gated
        return Tile(16, 32, math.gcd(count, 4 >> crowded), 2)
    return Tile(64, 32 if weight.gated or kind.parts == 2 else 64, 1, 4)


def as_integers(x: Tensor, weight: QuantizedWeight) -> Integers:
    """Activations as the weight takes them."""
    return Integers(x, x, x) if weight.kind.code == "fp8" else integers_of(x, weight)


def quantized_linear(x: Tensor, weight: QuantizedWeight, bias: Tensor | None, kind: str | None, y: Tensor) -> None:
    """x times the weight's transpose, plus the bias, activated and gated, to y [rows, outputs], whose rows may lie
    apart."""
    rows, outputs, form = len(x), y.shape[1], weight.kind
    if not rows:
        return
    if weight.fp8_activations:
        fp8_linear(x, weight, bias, kind, y)
        return
    integers = as_integers(x, weight)
    tile = tile_of(weight, rows)
    quantized_kernel[(triton.cdiv(outputs, tile.outputs), triton.cdiv(rows, tile.rows))](
        integers.q, integers.scales, integers.shares, weight.data, tuple(weight.sections), bias, y, rows, outputs,
        weight.stride, weight.blocks // form.together, weight.shape[1], y.stride(0),
        FORMAT=form,
        KIND=kind or "none",
        GATED=weight.gated,
        HAS_BIAS=bias is not None,
        UNITS=tile.units,
        BLOCK_ROWS=tile.rows,
        BLOCK_OUT=tile.outputs,
        num_warps=tile.warps,
        num_stages=3,
        **OPTIONS,
    )  # fmt: skip
