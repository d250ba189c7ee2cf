"""Products of few rows with quantized weights: four numbers in a word, multiplied and added by one instruction (DP4A).

A tensor core multiplies 16 rows or none, and wants every number in a place of its own: for few rows taking numbers
apart, and sums of rows that are not there, would take longer than memory does. Sums of integers are exact, so these
products have the bits of those by tensor cores (quantized_linear.py).
"""

from __future__ import annotations

import triton
import triton.language as tl

from flover.ops.cuda.blocks import add_sums, times_scales, words_of
from flover.ops.cuda.launch import INTERPRETED
from flover.ops.cuda.rotated import row_integers, scales_of_rows


@triton.jit
def byte_of(word, INDEX: tl.constexpr):
    """A signed byte of words, in 32 bits."""
    return (word << (24 - 8 * INDEX)) >> 24


@triton.jit
def dot4(a, b, total):
    """`total` plus the products of the four signed bytes of words."""
    if INTERPRETED:
        for i in tl.static_range(4):
            total = total + byte_of(a, i) * byte_of(b, i)
    else:
        total = tl.inline_asm_elementwise(
            "dp4a.s32.s32 $0, $1, $2, $3;", "=r,r,r,r", [a, b, total], dtype=tl.int32, is_pure=True, pack=1
        )
    return total


@triton.jit
def apart(values, COUNT: tl.constexpr):
    """The last dimension of 1, 2 or 4, taken apart: always four, of which those that are not there repeat others."""
    if COUNT == 4:
        shape: tl.constexpr = values.shape[:-1] + [2, 2]  # noqa: RUF005  kernels know no star here
        even, odd = tl.split(tl.reshape(values, shape))
        first, third = tl.split(even)
        second, fourth = tl.split(odd)
    elif COUNT == 2:
        first, second = tl.split(values)
        third, fourth = first, second
    else:
        first = tl.reshape(values, values.shape[:-1])
        second, third, fourth = first, first, first
    return first, second, third, fourth


@triton.jit
def word_sums(
    x, weight, at, unit, out, real, stride, FORMAT: tl.constexpr, BLOCKS: tl.constexpr, BLOCK_ROWS: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
):  # fmt: skip
    """Of each part of a unit: sums [rows, outputs] of its numbers times the integers x [rows, 1, BLOCKS, 8]."""
    half, word = tl.arange(0, BLOCKS)[None, None, :, None], tl.arange(0, 8)[None, None, None, :]
    words = words_of(weight, at, unit, half, out[None, :, None, None], word, real[None, :, None, None], stride, FORMAT)
    start = x * 0
    if FORMAT.zero:
        start = dot4(x, tl.full(x.shape, (256 - FORMAT.zero) * 0x01010101 - 0x100000000, tl.int32), start)
    products = dot4(words, x, start)
    count: tl.constexpr = BLOCKS * FORMAT.parts
    return apart(tl.sum(tl.reshape(products, [BLOCK_ROWS, BLOCK_OUT, count, 8 // FORMAT.parts]), 3), count)


@triton.jit
def words_at(
    x, scales, shares, x_row, rows, width, unit, x_scale, inverse, FORMAT: tl.constexpr, RECIPE: tl.constexpr,
    BLOCKS: tl.constexpr, BLOCK_ROWS: tl.constexpr,
):  # fmt: skip
    """A unit of the rows x_row, [rows, 1, BLOCKS, 8] words; the scales of its blocks, and their shares in what offsets
    of weights add, which are [rows] each."""
    block, row = unit * BLOCKS + tl.arange(0, BLOCKS)[None, :], x_row.to(tl.int32)
    count: tl.constexpr = BLOCKS * FORMAT.parts
    x_scales, own_shares = (x_scale,) * 4, (x_scale,) * 4
    if RECIPE.way == "rotated":
        place = tl.arange(0, BLOCKS * 32)[None, :]
        column = unit * (BLOCKS * 32) + place
        stored = tl.load(x + x_row[:, None] * width + column, column < width, other=0.0)
        byte, integer = row_integers(stored, inverse[:, None])
        if RECIPE.parts > 0:
            sums = tl.sum(tl.reshape(integer, [BLOCK_ROWS, BLOCKS, 32]), 2)
            own_shares = apart(x_scale[:, None] * sums, BLOCKS)
        shifted = (byte & 255) << (place % 4 * 8)
        words = tl.sum(tl.reshape(shifted, [BLOCK_ROWS, 1, BLOCKS, 8, 4]), 4)
    else:
        word = block[:, None, :, None] * 8 + tl.arange(0, 8)[None, None, None, :]
        words = tl.load(x.to(tl.pointer_type(tl.int32)) + (row[:, None, None, None] * (width // 4) + word))
        if RECIPE.way == "blocks":
            x_scales = apart(tl.load(scales + (block * rows + row[:, None])), BLOCKS)
        if FORMAT.offset or FORMAT.scale == "word":
            part = unit * count + tl.arange(0, count)[None, :]
            own_shares = apart(tl.load(shares + (part * rows + row[:, None])), count)
    return words, x_scales, own_shares


@triton.jit
def add_unit(
    total, x, weight, at, first, unit, out, outputs, stride, FORMAT: tl.constexpr, BLOCKS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_OUT: tl.constexpr,
):  # fmt: skip
    """What the unit `first` + `unit` adds to sums [rows, outputs], of activations as `words_at` has them."""
    words, x_scales, shares = x
    real = out < outputs
    sums = word_sums(words, weight, at, first + unit, out, real, stride, FORMAT, BLOCKS, BLOCK_ROWS, BLOCK_OUT)
    if FORMAT.scale == "row":
        total += sums[0]
    else:
        parts: tl.constexpr = FORMAT.parts
        for half in tl.static_range(BLOCKS):
            record = first * BLOCKS // FORMAT.record + (unit * BLOCKS + half) // FORMAT.record
            place = weight, at, record, first + unit, half
            total = add_sums(
                total, sums[half * parts], sums[half * parts + parts - 1], x_scales[half], shares[half * parts],
                shares[half * parts + parts - 1], place, out, real, stride, FORMAT,
            )  # fmt: skip
    return total


@triton.jit
def words_chain(
    x, scales, shares, x_row, rows, weight, at, out, outputs, stride, units, inputs, begin, end, FORMAT: tl.constexpr,
    RECIPE: tl.constexpr, NUM_PIECES: tl.constexpr, PIECES: tl.constexpr, GATED: tl.constexpr, UNITS: tl.constexpr,
    STAGES: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_OUT: tl.constexpr,
):  # fmt: skip
    """The same as `quantized_linear.quantized_chain`, to the bit."""
    kind: tl.constexpr = tl.int32 if FORMAT.scale == "row" else tl.float32
    total = tl.zeros([BLOCK_ROWS, BLOCK_OUT], kind)
    up_total = tl.zeros([BLOCK_ROWS, BLOCK_OUT], kind)
    blocks: tl.constexpr = 1 if FORMAT.low == 8 else 2
    width = inputs if RECIPE.way == "rotated" else units * (32 * blocks)
    x_scale, inverse = scales_of_rows(scales, x_row, RECIPE, NUM_PIECES, PIECES)
    for first in tl.range(begin, end, UNITS, num_stages=STAGES):
        for i in tl.static_range(UNITS):
            own = words_at(
                x, scales, shares, x_row, rows, width, first + i, x_scale, inverse, FORMAT, RECIPE, blocks,
                BLOCK_ROWS,
            )  # fmt: skip
            total = add_unit(
                total, own, weight, at, first, i, out, outputs, stride, FORMAT, blocks, BLOCK_ROWS, BLOCK_OUT
            )
            if GATED:
                up_total = add_unit(
                    up_total, own, weight, at, first, i, out + outputs, 2 * outputs, stride, FORMAT, blocks,
                    BLOCK_ROWS, BLOCK_OUT,
                )  # fmt: skip
    if FORMAT.scale == "row":
        total = times_scales(total, weight, at, out, out < outputs, stride, x_scale, FORMAT)
        if GATED:
            up_total = times_scales(up_total, weight, at, out + outputs, out < outputs, stride, x_scale, FORMAT)
    return total, up_total
