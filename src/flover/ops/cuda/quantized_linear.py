"""Products with quantized weights: integers of 8 bits times integers, on tensor cores, exact over a block of 32 inputs.

As on the CPU (csrc/linear_int.h, csrc/linear_block.h): activations have 8 bits, an output is one chain over the blocks
in order, and for int8 one exact sum. So tiles may have any size: a row's bits are the same. fp8_e4m3 takes activations
as they are, and one tile for any number of rows.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from flover.ops.cuda.blocks import add_sums, numbers_of, scale_of, times_scales, words_of
from flover.ops.cuda.epilogue import finish
from flover.ops.cuda.few_rows import words_chain
from flover.ops.cuda.fp8 import fp8_linear
from flover.ops.cuda.launch import OPTIONS, TYPES, WORD_ROWS, power_of_two
from flover.ops.cuda.quantize import (
    FLOATS,
    MOST_ROTATED,
    Activations,
    Recipe,
    Rows,
    activations_of,
    floats_of,
    is_whole,
    keep_tile,
    new_activations,
    recipe_of,
)
from flover.ops.cuda.quantized import QuantizedWeight
from flover.ops.cuda.rotated import row_integers, scales_of_rows
from flover.ops.cuda.tiles import MOST_REGISTERS, TOGETHER, tile_of
from flover.ops.cuda.tree import tree_sums


@triton.jit
def add_block(total, x, weight, at, record, unit, half, out, outputs, stride, FORMAT: tl.constexpr):
    """What the block `half` of a unit adds to sums [rows, outputs], of activations as `activations_at` has them."""
    a, x_scale, share, second_share = x
    column, real, word = tl.arange(0, 32), out < outputs, tl.arange(0, 8)
    words = words_of(weight, at, unit, half, out[:, None], word[None, :], real[:, None], stride, FORMAT)
    w = tl.trans(numbers_of(words, FORMAT, out.shape[0]))
    if FORMAT.scale == "row":
        total = tl.dot(a, w, total, out_dtype=tl.int32)
    elif FORMAT.code == "fp8":
        scale, _ = scale_of(weight, at, record, unit, half, 0, out, real, stride, FORMAT)
        sums = tl.dot(a, w.to(a.dtype), input_precision="ieee")
        total = tl.fma(sums, tl.broadcast_to(scale[None, :], total.shape), total)
    else:
        if FORMAT.parts == 2:
            upper = column[None, :] >= 16
            first = tl.dot(tl.where(upper, 0, a), w, out_dtype=tl.int32)
            second = tl.dot(tl.where(upper, a, 0), w, out_dtype=tl.int32)
        else:
            first = tl.dot(a, w, out_dtype=tl.int32)
            second = first
        place = weight, at, record, unit, half
        total = add_sums(total, first, second, x_scale, share, second_share, place, out, real, stride, FORMAT)
    return total


@triton.jit
def activations_at(
    x, scales, shares, x_row, rows, width, block, x_scale, inverse, FORMAT: tl.constexpr, RECIPE: tl.constexpr
):
    """One block of the rows x_row, [rows, 32]; its scales, and its shares in what offsets of weights add."""
    column = block * 32 + tl.arange(0, 32)[None, :]
    share, second_share = x_row, x_row
    if RECIPE.way == "floats":
        a = tl.load(x + x_row[:, None] * width + column, column < width, other=0.0)
    elif RECIPE.way == "rotated":
        stored = tl.load(x + x_row[:, None] * width + column, column < width, other=0.0)
        word, integer = row_integers(stored, inverse[:, None])
        if RECIPE.parts > 0:
            share = x_scale * tl.sum(integer, 1)
        a = word.to(tl.int8)
    else:
        a = tl.load(x + x_row[:, None] * width + column)
        if RECIPE.way == "blocks":
            x_scale = tl.load(scales + (block * rows + x_row.to(tl.int32)))
        if FORMAT.offset or FORMAT.scale == "word":
            mine = shares + (block * FORMAT.parts * rows + x_row.to(tl.int32))
            share = tl.load(mine)
            if FORMAT.parts == 2:
                second_share = tl.load(mine + rows)
    return a, x_scale, share, second_share


@triton.jit
def quantized_chain(
    x, scales, shares, x_row, rows, weight, at, out, outputs, stride, units, inputs, begin, end, FORMAT: tl.constexpr,
    RECIPE: tl.constexpr, NUM_PIECES: tl.constexpr, PIECES: tl.constexpr, GATED: tl.constexpr, UNITS: tl.constexpr,
    STAGES: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_OUT: tl.constexpr,
):  # fmt: skip
    """Sums over the units from `begin` to `end`, in order, of the rows x_row of x times the outputs `out` of a weight;
    gated: and those as far behind its first half. x is as `quantize.Activations` have it."""
    kind: tl.constexpr = tl.int32 if FORMAT.scale == "row" else tl.float32
    total = tl.zeros([BLOCK_ROWS, BLOCK_OUT], kind)
    up_total = tl.zeros([BLOCK_ROWS, BLOCK_OUT], kind)
    together: tl.constexpr = 1 if FORMAT.low == 8 else 2
    width = inputs if RECIPE.way == "floats" or RECIPE.way == "rotated" else units * (32 * together)
    x_scale, inverse = scales_of_rows(scales, x_row, RECIPE, NUM_PIECES, PIECES)
    # With stages said here, scales are loaded ahead too; else only what tensor cores multiply.
    for first in tl.range(begin, end, UNITS, num_stages=STAGES):
        for i in tl.static_range(UNITS):
            for half in tl.static_range(together):
                unit = first + i
                block = unit * together + half
                record = first * together // FORMAT.record + (i * together + half) // FORMAT.record
                own = activations_at(x, scales, shares, x_row, rows, width, block, x_scale, inverse, FORMAT, RECIPE)
                total = add_block(total, own, weight, at, record, unit, half, out, outputs, stride, FORMAT)
                if GATED:
                    up_total = add_block(
                        up_total, own, weight, at, record, unit, half, out + outputs, 2 * outputs, stride, FORMAT
                    )
    if FORMAT.scale == "row":
        total = times_scales(total, weight, at, out, out < outputs, stride, x_scale, FORMAT)
        if GATED:
            up_total = times_scales(up_total, weight, at, out + outputs, out < outputs, stride, x_scale, FORMAT)
    return total, up_total


@triton.jit(do_not_specialize=["rows"])  # one kernel for any batch
def quantized_kernel(
    x, scales, shares, weight, at, bias, y, y_scales, y_shares, rows, outputs, stride, units, inputs, y_stride,
    FORMAT: tl.constexpr, RECIPE: tl.constexpr, NUM_PIECES: tl.constexpr, PIECES: tl.constexpr, THEN: tl.constexpr,
    TYPE: tl.constexpr, KIND: tl.constexpr, GATED: tl.constexpr, HAS_BIAS: tl.constexpr, UNITS: tl.constexpr,
    STAGES: tl.constexpr, SEGMENTS: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_OUT: tl.constexpr,
):  # fmt: skip
    """BLOCK_ROWS rows by BLOCK_OUT outputs (gated: with their gates); `outputs` counts those of y. THEN: how y keeps
    them, rounded to TYPE before."""
    first_row, first_out = tl.program_id(1) * BLOCK_ROWS, tl.program_id(0) * BLOCK_OUT
    row = first_row + tl.arange(0, BLOCK_ROWS)
    out = first_out + tl.arange(0, BLOCK_OUT)
    x_row = tl.minimum(row, rows - 1).to(tl.int64)
    what = x, scales, shares, x_row, rows, weight, at, out, outputs, stride, units, inputs
    total, up_total = tree_sums(
        words_chain if BLOCK_ROWS <= WORD_ROWS else quantized_chain, what, units, units // SEGMENTS,
        (FORMAT, RECIPE, NUM_PIECES, PIECES, GATED, UNITS, STAGES, BLOCK_ROWS, BLOCK_OUT), SEGMENTS, BLOCK_ROWS,
        BLOCK_OUT,
    )  # fmt: skip
    total = finish(total, up_total, bias, out, outputs, KIND, GATED, HAS_BIAS)
    if THEN.way == "floats":
        inside = (row < rows)[:, None] & (out < outputs)[None, :]
        tl.store(y + row.to(tl.int64)[:, None] * y_stride + out[None, :], total, inside)
    else:
        keep_tile(
            total.to(TYPE).to(tl.float32), row, first_row, first_out, rows, outputs, tl.program_id(0),
            tl.num_programs(0), y, y_scales, y_shares, BLOCK_ROWS, BLOCK_OUT, THEN,
        )  # fmt: skip


def pieces_of(x: Activations) -> dict[str, int]:
    """Of rotated rows: the largest magnitudes of each."""
    count = x.scales.shape[1] if x.recipe.way == "rotated" else 1
    return {"NUM_PIECES": count, "PIECES": power_of_two(count)}


def quantized_linear(
    x: Rows, weight: QuantizedWeight, bias: Tensor | None, kind: str | None, y: Tensor, segments: int = 1
) -> None:
    """x times the weight's transpose, plus the bias, activated and gated, to y [rows, outputs], whose rows may lie
    apart. A sum is a tree over so many segments."""
    if len(y) and weight.fp8_activations:
        fp8_linear(floats_of(x), weight, bias, kind, y, segments)
    elif len(y):
        own = activations_of(x, weight)
        _launch(own, weight, bias, kind, (y, None, None), FLOATS, y.stride(0), segments)


def linear_then(
    x: Rows, weight: QuantizedWeight, bias: Tensor | None, kind: str | None, then: QuantizedWeight
) -> Activations | None:
    """The same as a product with the weight `then` takes it; None for what this cannot prepare on the way."""
    (rows, _), recipe, outputs = x.shape, recipe_of(then), weight.shape[0] // (2 if weight.gated else 1)
    if not rows or not is_whole(then, outputs) or then.order is not None or recipe.way == "floats":
        return None
    if weight.fp8_activations:
        return None
    pieces = None
    if recipe.way == "row":
        if rows > MOST_ROTATED or weight.kind.code == "fp8":
            return None
        pieces = triton.cdiv(outputs, TOGETHER)
    own = activations_of(x, weight)
    made = new_activations(None, torch.empty(0, dtype=x.dtype, device=own.q.device), (rows, outputs), then, pieces)
    _launch(own, weight, bias, kind, (made.q, made.scales, made.shares), made.recipe, outputs)
    return made


def _launch(
    x: Activations,
    weight: QuantizedWeight,
    bias: Tensor | None,
    kind: str | None,
    into: tuple[Tensor, Tensor | None, Tensor | None],
    then: Recipe,
    y_stride: int,
    segments: int = 1,
) -> None:
    rows, outputs, form = x.shape[0], weight.shape[0] // (2 if weight.gated else 1), weight.kind
    tile = tile_of(weight, rows, x.recipe, then, segments)
    quantized_kernel[(triton.cdiv(outputs, tile.outputs), triton.cdiv(rows, tile.rows))](
        x.q, x.scales, x.shares, weight.data, tuple(weight.sections), bias, *into, rows, outputs,
        weight.stride, weight.blocks // form.together, weight.shape[1], y_stride,
        FORMAT=form,
        RECIPE=x.recipe,
        **pieces_of(x),
        THEN=then,
        TYPE=TYPES[x.dtype],
        KIND=kind or "none",
        GATED=weight.gated,
        HAS_BIAS=bias is not None,
        UNITS=tile.units,
        STAGES=tile.stages,
        SEGMENTS=segments,
        BLOCK_ROWS=tile.rows,
        BLOCK_OUT=tile.outputs,
        num_warps=tile.warps,
        maxnreg=MOST_REGISTERS,
        num_stages=tile.stages,
        **OPTIONS,
    )  # fmt: skip
