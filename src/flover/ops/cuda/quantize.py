"""Activations in 8 bits, for products with quantized weights (csrc/linear_int.h, csrc/linear_block.h).

x = scale * q, q in -127..127: with a scale for every 32 inputs, or, behind a rotation, with one for a row. What is not
finite makes the scale not a number, and so every output of its row.

Whoever computes activations can quantize them on the way (`Ops.prepare`): norms, attention, and products with quantized
weights. A scale of a row that no program has whole is left to the product: it gets rotated numbers, and the largest
magnitude of every piece that a program had. All of them do the operations of the kernels here, so bits are the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import torch
import triton
import triton.language as tl
from torch import Tensor

from flover.errors import InvariantError
from flover.ops import ONE_SCALE, Group
from flover.ops.cuda.launch import OPTIONS
from flover.ops.cuda.quantized import BLOCK, QuantizedWeight
from flover.ops.cuda.rotated import keep_row, largest_rotated, magnitude_bits, rotated

_BLOCKS_AT_ONCE = 32
_INPUTS_AT_ONCE = 2048
MOST_ROTATED = 64
"""Rows of a step whose scales are left to the product, which finds the integers of all rows in each of its programs;
more rows have a launch for that."""


class Recipe(NamedTuple):
    """How activations are kept: as they are ("floats"), in integers with a scale for every 32 ("blocks") or, behind so
    many `rounds` of a rotation, for a row ("row"); or rotated, and not yet integers ("rotated"). A block has `parts`
    sums of its integers, which offsets of weights are multiplied with."""

    way: str = "floats"
    parts: int = 0
    rounds: int = 0


FLOATS = Recipe()


@dataclass(frozen=True, slots=True)
class Activations:
    """Rows [T, I] in 8 bits: `q` int8 [T, 32 * blocks]; `scales` [blocks, T], or [T] for rows; `shares`
    [blocks * parts, T], each a scale times the sum of its integers. Rotated: `q` float32 [T, I], `scales` the bits of
    the largest magnitude of each piece of a row, int32 [T, pieces]. `order` has the inputs as the weight has them.
    `x` has the numbers themselves where other
    operations may read them too; their type is `dtype`."""

    x: Tensor | None
    dtype: torch.dtype
    shape: tuple[int, int]
    recipe: Recipe
    order: Tensor | None
    q: Tensor
    scales: Tensor
    shares: Tensor

    def serves(self, weight: QuantizedWeight) -> bool:
        """Whether products with that weight take these."""
        own, mine = recipe_of(weight), self.recipe
        ways = ("row", "rotated") if own.way == "row" else (own.way,)
        alike = mine.way in ways and own.rounds == mine.rounds and own.parts in (0, mine.parts)
        wide = mine.way in ("rotated", "floats") or self.q.shape[1] == BLOCK * weight.blocks
        return alike and wide and self.order is weight.order


Rows: TypeAlias = Tensor | Activations
"""What operations take for activations."""


def recipe_of(weight: QuantizedWeight) -> Recipe:
    """How products with that weight take activations."""
    kind = weight.kind
    if kind.code == "fp8":
        return FLOATS
    parts = kind.parts if kind.offset or kind.scale == "word" else 0
    if weight.format in ONE_SCALE:
        return Recipe("row", parts, weight.rotation.bit_length() - 1)
    return Recipe("blocks", parts)


def is_whole(weight: QuantizedWeight, inputs: int) -> bool:
    """Whether rows of so many inputs have no blocks that are not there: others are not quantized on the way."""
    return inputs == weight.shape[1] == BLOCK * weight.blocks


def floats_of(x: Rows) -> Tensor:
    """The numbers themselves. Raises `InvariantError` for what was quantized for one product alone."""
    if isinstance(x, Tensor):
        return x
    if x.x is None:
        raise InvariantError("activations that are quantized for one weight are multiplied with another")
    return x.x


def new_activations(
    x: Tensor | None, like: Tensor, shape: tuple[int, int], weight: QuantizedWeight, pieces: int | None = None
) -> Activations:
    """Room for rows as products with that weight take them, or rotated in so many pieces."""
    rows, recipe, device = shape[0], recipe_of(weight), like.device
    if pieces is not None:
        recipe = recipe._replace(way="rotated")
        q = torch.empty(shape, dtype=torch.float32, device=device)
        scales = torch.empty((rows, pieces), dtype=torch.int32, device=device)
        shares = scales
    else:
        q = torch.empty((rows, BLOCK * weight.blocks), dtype=torch.int8, device=device)
        scales = torch.empty((1 if recipe.way == "row" else weight.blocks, rows), dtype=torch.float32, device=device)
        shares = torch.empty((weight.blocks * recipe.parts, rows), dtype=torch.float32, device=device)
    return Activations(x, like.dtype, shape, recipe, weight.order, q, scales, shares)


@triton.jit
def nearest(x):
    """The nearest integer, of two the even one, for magnitudes below 2^22."""
    return (x + 12582912.0) - 12582912.0


@triton.jit
def keep_blocks(value, row, block, real, rows, width, q, scales, shares, RECIPE: tl.constexpr):
    """Quantize blocks of 32 numbers [n, 32] of these rows, at these places in them [n], and store what is `real`."""
    place = tl.arange(0, 32)[None, :]
    top = tl.max(magnitude_bits(value), 1)
    finite = top < 0x7F800000
    reach = tl.where(finite, top, 0).to(tl.float32, bitcast=True)
    scale = tl.where(reach > 1e-30, tl.div_rn(reach, 127.0), 0.0)
    inverse = tl.where(reach > 1e-30, tl.div_rn(127.0, reach), 0.0)
    integer = nearest(tl.where(finite[:, None], value, 0.0) * inverse[:, None])
    scale = tl.where(finite, scale, float("nan"))
    row, block = row.to(tl.int64), block.to(tl.int64)
    tl.store(q + (row * width + block * 32)[:, None] + place, integer.to(tl.int8), real[:, None])
    tl.store(scales + block * rows + row, scale, real)
    parts: tl.constexpr = RECIPE.parts
    for part in tl.static_range(parts):  # Triton 3.6 takes a name alone
        mine = tl.sum(tl.where(place // (32 // parts) == part, integer, 0.0), 1)
        tl.store(shares + (block * parts + part) * rows + row, scale * mine, real)


@triton.jit(do_not_specialize=["rows"])  # one kernel for any batch
def quantize_kernel(
    x, order, q, scales, shares, rows, inputs, blocks, RECIPE: tl.constexpr, HAS_ORDER: tl.constexpr,
    COUNT: tl.constexpr,
):  # fmt: skip
    """COUNT blocks of one row; `order` has the inputs as the weight has them."""
    row = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1) * COUNT + tl.arange(0, COUNT)
    column = block[:, None] * 32 + tl.arange(0, 32)[None, :]
    inside = column < inputs
    source = tl.load(order + column, inside, other=0) if HAS_ORDER else column
    value = tl.load(x + row * inputs + source, inside, other=0.0).to(tl.float32)
    keep_blocks(value, row + block * 0, block, block < blocks, rows, blocks * 32, q, scales, shares, RECIPE)


@triton.jit
def largest_kernel(x, tops, inputs, RECIPE: tl.constexpr, SIZE: tl.constexpr):
    """That of one row, for `rotate_kernel`."""
    row = tl.program_id(0).to(tl.int64)
    tl.store(tops + row, largest_rotated(x, row, inputs, RECIPE, SIZE))


@triton.jit(do_not_specialize=["rows"])
def rotate_kernel(x, tops, q, scales, shares, rows, inputs, blocks, RECIPE: tl.constexpr, SIZE: tl.constexpr):
    """One row, SIZE inputs at a time: once for its largest magnitude if `tops` does not have it, once for its
    integers."""
    row = tl.program_id(0).to(tl.int64)
    place = tl.arange(0, SIZE)
    top = largest_rotated(x, row, inputs, RECIPE, SIZE) if tops is None else tl.load(tops + row)
    for first in range(0, blocks * 32, SIZE):
        inside = first + place < inputs
        value = tl.load(x + row * inputs + first + place, inside, other=0.0).to(tl.float32)
        value = rotated(value, SIZE, RECIPE.rounds)
        keep_row(value, top, row, first, rows, blocks * 32, q, scales, shares, SIZE, RECIPE)


@triton.jit
def keep_tile(
    value, row, first_row, first_out, rows, outputs, piece, pieces, q, scales, shares, ROWS: tl.constexpr,
    OUTS: tl.constexpr, RECIPE: tl.constexpr,
):  # fmt: skip
    """A tile [ROWS, OUTS] of a product's results, as the next product takes them: in blocks, or rotated."""
    if RECIPE.way == "blocks":
        count: tl.constexpr = ROWS * OUTS // 32
        pair = tl.arange(0, count)
        r, block = first_row + pair // (OUTS // 32), first_out // 32 + pair % (OUTS // 32)
        real = (r < rows) & (block * 32 < outputs)
        keep_blocks(tl.reshape(value, [count, 32]), r, block, real, rows, outputs, q, scales, shares, RECIPE)
    else:
        out = first_out + tl.arange(0, OUTS)
        inside = (row < rows)[:, None] & (out < outputs)[None, :]
        value = tl.where(inside, value, 0.0)
        value = tl.reshape(rotated(tl.reshape(value, [ROWS * OUTS]), ROWS * OUTS, RECIPE.rounds), [ROWS, OUTS])
        tl.store(q + row.to(tl.int64)[:, None] * outputs + out[None, :], value, inside)
        tl.store(scales + row * pieces + piece, tl.max(magnitude_bits(value), 1), row < rows)


def rotation_factor(rotation: int) -> float:
    """What rotated activations are multiplied with (csrc/weight.h: rotation_scale)."""
    return float(2.0 ** -(rotation.bit_length() // 2))


def activations_of(x: Rows, weight: QuantizedWeight) -> Activations:
    """Rows of x as that weight's products take them."""
    if isinstance(x, Activations) and x.serves(weight):
        return x
    x = floats_of(x)
    (rows, inputs), recipe, blocks = x.shape, recipe_of(weight), weight.blocks
    if recipe.way == "floats":
        return Activations(x, x.dtype, (rows, inputs), recipe, None, x, x, x)
    if recipe.way == "row":
        return _in_integers(x, weight, None)
    made = new_activations(x, x, (rows, inputs), weight)
    grid, order = (rows, triton.cdiv(blocks, _BLOCKS_AT_ONCE)), weight.order
    quantize_kernel[grid](
        x, order, made.q, made.scales, made.shares, rows, inputs, blocks, recipe, order is not None, _BLOCKS_AT_ONCE,
        num_warps=4, **OPTIONS,
    )  # fmt: skip
    return made


def activations_of_all(x: Rows, weight: QuantizedWeight, group: Group) -> Activations:
    """Rows of x as products with that weight take them, whose inputs ranks share: a scale of a row is that of all its
    inputs, for which ranks take the largest of their largest magnitudes."""
    if weight.format not in ONE_SCALE:
        return activations_of(x, weight)
    if isinstance(x, Activations) and x.recipe.way == "rotated" and x.serves(weight):
        group.all_reduce("max", x.scales)  # of every piece: no launch is spent on finding the largest of these before
        return x
    x = floats_of(x)
    rows, inputs = x.shape
    tops = torch.empty(rows, dtype=torch.int32, device=x.device)
    largest_kernel[(rows,)](x, tops, inputs, recipe_of(weight), _INPUTS_AT_ONCE, num_warps=8, **OPTIONS)
    group.all_reduce("max", tops)
    return _in_integers(x, weight, tops)


def _in_integers(x: Tensor, weight: QuantizedWeight, tops: Tensor | None) -> Activations:
    (rows, inputs), made = x.shape, new_activations(x, x, (x.shape[0], x.shape[1]), weight)
    rotate_kernel[(rows,)](
        x, tops, made.q, made.scales, made.shares, rows, inputs, weight.blocks, made.recipe, _INPUTS_AT_ONCE,
        num_warps=8, **OPTIONS,
    )  # fmt: skip
    return made
