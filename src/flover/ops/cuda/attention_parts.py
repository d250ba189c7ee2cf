"""The pieces of attention: one part of the keys, the merge of two parts, the end."""

from __future__ import annotations

import triton
import triton.language as tl

from flover.ops.cuda.activation import tanh
from flover.ops.cuda.quantize import keep_blocks
from flover.ops.cuda.rotated import magnitude_bits, rotated


@triton.jit
def row_of_tile(query_starts, tile, num_rows, TILE_TOKENS: tl.constexpr):
    """The last row whose first tile is not behind `tile`. Row r begins at tile query_starts[r] // TILE_TOKENS + r and
    so has at least the tiles that it needs."""
    low, high = 0, num_rows - 1
    while low < high:
        middle = (low + high + 1) // 2
        behind = tl.load(query_starts + middle) // TILE_TOKENS + middle > tile
        low = tl.where(behind, low, middle)
        high = tl.where(behind, middle - 1, high)
    return low


@triton.jit
def dot(a, b, c):
    """a @ b + c in float32; float32 inputs are not rounded to TF32."""
    return tl.dot(a, b, c, input_precision="ieee")


@triton.jit
def nothing(MEMBERS: tl.constexpr, DIM_PAD: tl.constexpr):
    """Largest score, weight and weighted sum over no keys."""
    top = tl.full([MEMBERS], float("-inf"), tl.float32)
    return top, tl.zeros([MEMBERS], tl.float32), tl.zeros([MEMBERS, DIM_PAD], tl.float32)


@triton.jit
def as_float(x):
    """Numbers of a page. Of int8, exactly: an addition to the bits of 2^23 + 128 takes less than a conversion
    (FasterTransformer, interleaved_numeric_conversion.h)."""
    if x.dtype == tl.int8:
        x = (x.to(tl.int32) + 0x4B000080).to(tl.float32, bitcast=True) - 8388736.0
    return x


@triton.jit
def attend_part(
    q, keys, values, key_scales, value_scales, pages, position, slope, scale, softcap, window, low, high, part_start,
    kv_head, KV_HEADS: tl.constexpr, DIM: tl.constexpr, DIM_PAD: tl.constexpr, PAGE_SIZE: tl.constexpr,
    BLOCK_KEYS: tl.constexpr, SPLIT: tl.constexpr, HAS_SOFTCAP: tl.constexpr, HAS_SLOPES: tl.constexpr,
    HAS_SCALES: tl.constexpr,
):  # fmt: skip
    """Largest score, weight and weighted sum of values of the keys from part_start on, at most SPLIT; scores are in
    units of ln 2. A block of keys of which a token sees none changes nothing of it, to the bit."""
    LOG2E: tl.constexpr = 1.4426950408889634
    # A scale of values times a weight may be too small for float16.
    weights: tl.constexpr = tl.bfloat16 if HAS_SCALES and q.dtype == tl.float16 else q.dtype
    top, weight, total = nothing(q.shape[0], DIM_PAD)
    dim = tl.arange(0, DIM_PAD)
    begin = tl.maximum(part_start, low // BLOCK_KEYS * BLOCK_KEYS)
    for block in range(begin, tl.minimum(part_start + SPLIT, high), BLOCK_KEYS):
        key = block + tl.arange(0, BLOCK_KEYS)
        # What lies behind the row's last token, or before its window, may be another sequence's.
        own = (key >= low) & (key < high)
        page = tl.load(pages + key // PAGE_SIZE, own, other=0).to(tl.int64)
        slot = (page * KV_HEADS + kv_head) * PAGE_SIZE + key % PAGE_SIZE
        place = (slot * DIM)[:, None] + dim[None, :]
        held = own[:, None] & (dim < DIM)[None, :]
        k = as_float(tl.load(keys + place, held, other=0))
        scores = dot(q, tl.trans(k.to(q.dtype)), tl.zeros([q.shape[0], BLOCK_KEYS], tl.float32)) * scale
        if HAS_SCALES:
            scores *= tl.load(key_scales + slot, own, other=0.0)[None, :]
        if HAS_SOFTCAP:
            scores = softcap * tanh(scores / softcap)
        if HAS_SLOPES:
            scores = tl.fma((key[None, :] - position[:, None]).to(tl.float32), slope[:, None], scores)
        sees = (key[None, :] <= position[:, None]) & (key[None, :] > position[:, None] - window)
        scores = tl.where(sees & own[None, :], scores * LOG2E, float("-inf"))
        new_top = tl.maximum(top, tl.max(scores, 1))
        safe = tl.where(new_top == float("-inf"), 0.0, new_top)
        p = tl.exp2(scores - safe[:, None])
        shrink = tl.exp2(top - safe)
        weight = tl.fma(weight, shrink, tl.sum(p, 1))
        if HAS_SCALES:
            p *= tl.load(value_scales + slot, own, other=0.0)[None, :]
        v = as_float(tl.load(values + place, held, other=0))
        total = dot(p.to(weights), v.to(weights), total * shrink[:, None])
        top = new_top
    return top, weight, total


@triton.jit
def merge(top, weight, total, part_top, part_weight, part_total):
    """Largest score, weight and sum of both together; a part that sees no key changes nothing."""
    new_top = tl.maximum(top, part_top)
    safe = tl.where(new_top == float("-inf"), 0.0, new_top)
    before, after = tl.exp2(top - safe), tl.exp2(part_top - safe)
    weight = tl.fma(part_weight, after, weight * before)
    total = tl.fma(part_total, tl.broadcast_to(after[:, None], total.shape), total * before[:, None])
    return new_top, weight, total


@triton.jit
def store_part(sums, tops, weights, place, dim, real, inside, top, weight, total, DIM: tl.constexpr):
    """Put down what one part gave, before the program says that it is there."""
    tl.store(tops + place, top, real)
    tl.store(weights + place, weight, real)
    tl.store(sums + place[:, None] * DIM + dim[None, :], total, inside)
    tl.debug_barrier()


@triton.jit
def load_part(sums, tops, weights, place, dim, real, inside, DIM: tl.constexpr):
    """What one part gave; from the cache that all programs share."""
    top = tl.load(tops + place, real, other=float("-inf"), cache_modifier=".cg")
    weight = tl.load(weights + place, real, other=0.0, cache_modifier=".cg")
    total = tl.load(sums + place[:, None] * DIM + dim[None, :], inside, other=0.0, cache_modifier=".cg")
    return top, weight, total


@triton.jit
def merge_all(sums, tops, weights, cell, parts, dim, real, inside, DIM: tl.constexpr, DIM_PAD: tl.constexpr):
    """What all parts gave, the first one first."""
    top, weight, total = nothing(cell.shape[0], DIM_PAD)
    for part in range(parts):
        part_top, part_weight, part_total = load_part(sums, tops, weights, cell + part, dim, real, inside, DIM)
        top, weight, total = merge(top, weight, total, part_top, part_weight, part_total)
    return top, weight, total


@triton.jit
def finish(top, weight, total, sink, HAS_SINKS: tl.constexpr):
    """Divide by the weight, to which a sink adds its own."""
    LOG2E: tl.constexpr = 1.4426950408889634
    if HAS_SINKS:
        last = tl.maximum(top, sink * LOG2E)
        before = tl.exp2(top - last)
        weight = tl.fma(weight, before, tl.exp2(sink * LOG2E - last))
        total = total * before[:, None]
    return tl.div_rn(total, tl.broadcast_to(weight[:, None], total.shape))


@triton.jit
def keep_heads(
    y, start, first, count, kv_head, tokens, q, scales, shares, HEADS: tl.constexpr, KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr, GROUP_PAD: tl.constexpr, DIM: tl.constexpr, DIM_PAD: tl.constexpr, TILE_TOKENS: tl.constexpr,
    THEN: tl.constexpr,
):  # fmt: skip
    """Store the heads [TILE_TOKENS * GROUP_PAD, DIM_PAD] of a row's tokens from `first` on as the next product
    takes them: as they are, in blocks of 32, or rotated, of which every key head is a piece."""
    size: tl.constexpr = TILE_TOKENS * GROUP_PAD * DIM_PAD
    member, dim = tl.arange(0, TILE_TOKENS * GROUP_PAD), tl.arange(0, DIM_PAD)
    token, head = first + member // GROUP_PAD, member % GROUP_PAD
    if THEN.way == "blocks":
        place = tl.arange(0, size // 32) * 32
        token, place = first + place // (GROUP_PAD * DIM_PAD), place % (GROUP_PAD * DIM_PAD)
        head, dim = place // DIM_PAD, place % DIM_PAD
        block = ((kv_head * GROUP + head) * DIM + dim) // 32
        real = (token < count) & (head < GROUP) & (dim < DIM)
        value = tl.reshape(y.to(tl.float32), [size // 32, 32])
        keep_blocks(value, start + token, block, real, tokens, HEADS * DIM, q, scales, shares, THEN)
    else:
        inside = ((token < count) & (head < GROUP))[:, None] & (dim < DIM)[None, :]
        if THEN.way == "rotated":
            y = tl.reshape(tl.where(inside, y.to(tl.float32), 0.0), [size])
            y = tl.reshape(rotated(y, size, THEN.rounds), [TILE_TOKENS * GROUP_PAD, DIM_PAD])
        place = (start + token).to(tl.int64) * (HEADS * DIM) + (kv_head * GROUP + head) * DIM
        tl.store(q + place[:, None] + dim[None, :], y, inside)
        if THEN.way == "rotated":
            top = tl.max(tl.max(tl.reshape(magnitude_bits(y), [TILE_TOKENS, GROUP_PAD, DIM_PAD]), 2), 1)
            token = first + tl.arange(0, TILE_TOKENS)
            tl.store(scales + (start + token) * KV_HEADS + kv_head, top, token < count)
