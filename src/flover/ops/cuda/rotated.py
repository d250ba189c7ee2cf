"""Rows that are rotated (csrc/rotate.h) and have one scale: their largest magnitude, and their integers."""

from __future__ import annotations

import triton
import triton.language as tl

from flover.ops.cuda.launch import WORD_ROWS


@triton.jit
def magnitude_bits(x):
    """Bits of |x|, which are in the order of the numbers; from 0x7f800000 on they are no finite number."""
    return x.to(tl.int32, bitcast=True) & 0x7FFFFFFF


@triton.jit
def rotated(x, SIZE: tl.constexpr, ROUNDS: tl.constexpr):
    """Every 2^ROUNDS of SIZE numbers times the Hadamard matrix, round by round (csrc/rotate.h)."""
    for i in tl.static_range(ROUNDS):
        pairs = tl.permute(tl.reshape(x, [SIZE // (2 << i), 2, 1 << i]), [0, 2, 1])
        first, second = tl.split(pairs)
        x = tl.reshape(tl.permute(tl.join(first + second, first - second), [0, 2, 1]), [SIZE])
    return x


@triton.jit
def row_scale(top, ROUNDS: tl.constexpr):
    """The scale of rows whose largest rotated numbers have magnitudes of these bits, and what to multiply them with."""
    finite = top < 0x7F800000
    reach = tl.where(finite, top, 0).to(tl.float32, bitcast=True)
    inverse = tl.where(reach > 0.0, tl.minimum(tl.div_rn(127.0, reach), 3.0e38), 0.0)  # finite for the tiniest row
    factor: tl.constexpr = 1.0 / (1 << ((ROUNDS + 1) // 2))
    return tl.where(finite, tl.div_rn(reach, 127.0) * factor, float("nan")), inverse


@triton.jit
def one_by_one(values, COUNT: tl.constexpr):
    """The same numbers [COUNT], none below zero: made one by one they have no layout, which the compiler would give to
    all that is computed with them."""
    place, found = tl.arange(0, COUNT), tl.zeros([COUNT], values.dtype)
    for i in tl.static_range(COUNT):
        found = tl.where(place == i, tl.max(tl.where(place == i, values, 0), 0), found)
    return found


@triton.jit
def scales_of_rows(scales, x_row, RECIPE: tl.constexpr, NUM_PIECES: tl.constexpr, PIECES: tl.constexpr):
    """The scales of these rows, where they have one each; and what to multiply the numbers of rotated ones with: the
    largest magnitude of such a row is the largest of its NUM_PIECES pieces."""
    scale, inverse = x_row, x_row
    if RECIPE.way == "rotated":
        piece = tl.arange(0, PIECES)[None, :]
        top = tl.max(tl.load(scales + x_row[:, None] * NUM_PIECES + piece, piece < NUM_PIECES, other=0), 1)
        if x_row.shape[0] <= WORD_ROWS:
            top = one_by_one(top, x_row.shape[0])
        scale, inverse = row_scale(top, RECIPE.rounds)
    elif RECIPE.way == "row":
        scale = tl.load(scales + x_row)
    return scale, inverse


@triton.jit
def row_integers(value, inverse):
    """Rotated numbers as integers, in the lowest byte of words, and in float32. Neither has a meaning in a row that is
    not finite, whose scale is not a number."""
    shifted = value * inverse + 12582912.0  # what `quantize.nearest` adds leaves the integer in the last bits
    return shifted.to(tl.int32, bitcast=True), shifted - 12582912.0


@triton.jit
def keep_row(value, top, row, first, rows, width, q, scales, shares, SIZE: tl.constexpr, RECIPE: tl.constexpr):
    """Store SIZE rotated numbers of a row as integers, from the input `first` on; all of it is `width` wide."""
    scale, inverse = row_scale(top, RECIPE.rounds)
    word, integer = row_integers(value, inverse)
    column = first + tl.arange(0, SIZE)
    tl.store(q + row * width + column, word.to(tl.int8), column < width)
    tl.store(scales + row, scale)
    if RECIPE.parts == 1:
        block = first // 32 + tl.arange(0, SIZE // 32)
        sums = tl.sum(tl.reshape(integer, [SIZE // 32, 32]), 1)
        tl.store(shares + block.to(tl.int64) * rows + row, scale * sums, block * 32 < width)


@triton.jit
def largest_rotated(x, row, inputs, RECIPE: tl.constexpr, SIZE: tl.constexpr):
    """Bits of the largest magnitude of one row, rotated."""
    place = tl.arange(0, SIZE)
    top = 0
    for first in range(0, inputs, SIZE):
        inside = first + place < inputs
        value = tl.load(x + row * inputs + first + place, inside, other=0.0).to(tl.float32)
        top = tl.maximum(top, tl.max(magnitude_bits(rotated(value, SIZE, RECIPE.rounds))))
    return top
