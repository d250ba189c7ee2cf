"""Which experts a token goes to; which pairs of token and expert a program has, and where their results go."""

from __future__ import annotations

import triton
import triton.language as tl

from flover.ops.cuda.attention_parts import row_of_tile
from flover.ops.cuda.epilogue import finish

EXPERT_ROWS = 16
"""Pairs of token and expert in a tile; of integers there may be fewer (`tiles.rows_of_an_expert`)."""


@triton.jit
def route_kernel(scores, ids, weights, experts, CHOSEN: tl.constexpr, NORMALIZED: tl.constexpr, BLOCK: tl.constexpr):
    """The CHOSEN largest scores of one token, the first of equal ones, and their softmax."""
    token = tl.program_id(0).to(tl.int64)
    expert = tl.arange(0, BLOCK)
    score = tl.load(scores + token * experts + expert, expert < experts, other=float("-inf")).to(tl.float32)
    top = tl.max(score)
    every = tl.sum(tl.exp(score - top))
    left = score
    chosen = 0.0
    for place in tl.static_range(CHOSEN):
        value, index = tl.max(left, 0, return_indices=True)
        tl.store(ids + token * CHOSEN + place, index.to(tl.int32))
        chosen += tl.exp(value - top)
        left = tl.where(expert == index, float("-inf"), left)
    left = score
    for place in tl.static_range(CHOSEN):
        value, index = tl.max(left, 0, return_indices=True)
        tl.store(weights + token * CHOSEN + place, tl.div_rn(tl.exp(value - top), chosen if NORMALIZED else every))
        left = tl.where(expert == index, float("-inf"), left)


@triton.jit
def pairs_of_tile(starts, tile, experts, BLOCK_ROWS: tl.constexpr):
    """The expert of a tile; where its pairs start, how many they are, and the first of them that the tile has."""
    expert = row_of_tile(starts, tile, experts, BLOCK_ROWS)
    start = tl.load(starts + expert)
    return expert, start, tl.load(starts + expert + 1) - start, (tile - (start // BLOCK_ROWS + expert)) * BLOCK_ROWS


@triton.jit
def pairs_at(order, start, count, first, BLOCK_ROWS: tl.constexpr):
    """The pairs of a tile, and which of its places have one: of `count` that start there, those from `first` on."""
    place = first + tl.arange(0, BLOCK_ROWS)
    return tl.load(order + start + tl.minimum(place, count - 1)).to(tl.int64), place < count


@triton.jit
def finish_pairs(
    total, up_total, biases, expert, y, pair, real, out, outputs, KIND: tl.constexpr, GATED: tl.constexpr,
    HAS_BIAS: tl.constexpr,
):  # fmt: skip
    """What comes behind the sums of pairs of one expert, and their rows of y [pairs, outputs]; `real` places have one.
    `biases` are addresses."""
    bias = tl.load(biases + expert).to(tl.pointer_type(tl.float32)) if HAS_BIAS else y
    total = finish(total, up_total, bias, out, outputs, KIND, GATED, HAS_BIAS)
    tl.store(y + pair[:, None] * outputs + out[None, :], total, real[:, None] & (out < outputs)[None, :])
