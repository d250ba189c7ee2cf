"""Ragged attention over pages: prompt chunks and single tokens in one launch.

The keys of a row are cut at multiples of SPLIT positions. Each part has its own softmax (Dao, 2023), and the parts are
merged one after another, the first one first. A row of one token gives every part to a program of its own, and the one
that comes last merges them (flash decoding); a row with a chunk has programs that go through the parts themselves. Both
do the same operations in the same order, so a token's result depends on its own context alone: not on its chunk, the
other rows, the page size or the number of programs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from flover.ops import Pages
from flover.ops.cuda import SPLIT
from flover.ops.cuda.attention_parts import (
    attend_part,
    finish,
    keep_heads,
    merge,
    merge_all,
    nothing,
    row_of_tile,
    store_part,
)
from flover.ops.cuda.launch import OPTIONS, power_of_two
from flover.ops.cuda.quantize import FLOATS, MOST_ROTATED, Activations, Rows, is_whole, new_activations, recipe_of
from flover.ops.cuda.quantized import BLOCK, QuantizedWeight

_BLOCK_KEYS = 64
_TILE_ROWS = 16
"""Tokens times query heads of a key head that one product takes: the fewest that tensor cores do."""
_NO_WINDOW = 2**30


@triton.jit(do_not_specialize=["num_tokens", "num_rows", "num_parts"])  # they change from forward to forward
def attention_kernel(
    queries, keys, values, key_scales, value_scales, page_table, query_starts, context_lens, slopes, sinks, sums, tops,
    weights, arrivals, y, y_scales, y_shares, scale, softcap, window, num_tokens, num_rows, table_stride, query_stride,
    num_parts,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, GROUP: tl.constexpr, GROUP_PAD: tl.constexpr, DIM: tl.constexpr,
    DIM_PAD: tl.constexpr, PAGE_SIZE: tl.constexpr, TILE_TOKENS: tl.constexpr, BLOCK_KEYS: tl.constexpr,
    SPLIT: tl.constexpr, ONE_TOKEN_ROWS: tl.constexpr, HAS_SOFTCAP: tl.constexpr, HAS_SLOPES: tl.constexpr,
    HAS_SINKS: tl.constexpr, HAS_SCALES: tl.constexpr, HAS_PARTS: tl.constexpr, THEN: tl.constexpr,
):  # fmt: skip
    """TILE_TOKENS tokens of one row by the GROUP_PAD query heads of one key head; the third index counts parts."""
    tile, kv_head, place = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    row, first_tile = tile, tile
    if not ONE_TOKEN_ROWS:
        row = row_of_tile(query_starts, tile, num_rows, TILE_TOKENS)
        first_tile = tl.load(query_starts + row) // TILE_TOKENS + row
    start, first = tl.load(query_starts + row), (tile - first_tile) * TILE_TOKENS
    count = tl.load(query_starts + row + 1) - start
    behind = tl.load(context_lens + row) - count
    if first >= count:
        return
    # The keys that any token of the tile sees, and the parts that they lie in.
    low = tl.maximum(behind + first - window + 1, 0)
    high = behind + tl.minimum(first + TILE_TOKENS, count)
    first_part = low // SPLIT
    parts = (high - 1) // SPLIT + 1 - first_part
    shared = (count == 1) & (parts > 1)
    if place >= tl.where(shared, parts, 1):
        return
    member, dim = tl.arange(0, TILE_TOKENS * GROUP_PAD), tl.arange(0, DIM_PAD)
    token, head = first + member // GROUP_PAD, kv_head * GROUP + member % GROUP_PAD
    real = (token < count) & (member % GROUP_PAD < GROUP)
    inside = real[:, None] & (dim < DIM)[None, :]
    first_dim = (start + token).to(tl.int64) * query_stride + head * DIM
    q = tl.load(queries + first_dim[:, None] + dim[None, :], inside, other=0.0)
    slope = tl.load(slopes + head, real, other=0.0) if HAS_SLOPES else tl.zeros_like(head).to(tl.float32)
    sink = tl.load(sinks + head, real, other=0.0) if HAS_SINKS else slope
    top, weight, total = nothing(TILE_TOKENS * GROUP_PAD, DIM_PAD)
    for part in range(tl.where(shared, place, 0), tl.where(shared, place + 1, parts)):
        part_top, part_weight, part_total = attend_part(
            q, keys, values, key_scales, value_scales, page_table + row * table_stride, behind + token, slope, scale,
            softcap, window, low, high, (first_part + part) * SPLIT, kv_head, KV_HEADS, DIM, DIM_PAD, PAGE_SIZE,
            BLOCK_KEYS, SPLIT, HAS_SOFTCAP, HAS_SLOPES, HAS_SCALES,
        )  # fmt: skip
        top, weight, total = merge(top, weight, total, part_top, part_weight, part_total)
    if HAS_PARTS:  # else there is no space for them
        if shared:
            cell = (row * HEADS + head).to(tl.int64) * num_parts
            store_part(sums, tops, weights, cell + place, dim, real, inside, top, weight, total, DIM)
            counter = arrivals + row * KV_HEADS + kv_head
            if tl.atomic_add(counter, 1, sem="acq_rel") != parts - 1:
                return
            # This program is the last of the row's to come: it merges the parts, and leaves the counter as it was.
            tl.debug_barrier()
            tl.store(counter, 0)
            top, weight, total = merge_all(sums, tops, weights, cell, parts, dim, real, inside, DIM, DIM_PAD)
    seen = finish(top, weight, total, sink, HAS_SINKS).to(queries.dtype.element_ty)
    keep_heads(
        seen, start, first, count, kv_head, num_tokens, y, y_scales, y_shares, HEADS, KV_HEADS, GROUP, GROUP_PAD, DIM,
        DIM_PAD, TILE_TOKENS, THEN,
    )  # fmt: skip


@dataclass(slots=True)
class AttentionPlan:
    """One forward's batch, and the work space that its layers share."""

    page_table: Tensor
    query_starts: Tensor
    context_lens: Tensor
    one_token_rows: bool
    longest: int
    arrivals: Tensor | None = None
    space: tuple[Tensor, Tensor, Tensor] | None = None

    def workspace(self, parts: int, heads: int, kv_heads: int, dim: int) -> tuple[Tensor | None, ...]:
        """Sums, largest scores and weights of every part of a row, and the parts that have been computed; None where
        there is but one part."""
        if parts == 1:
            return None, None, None, None
        device, rows = self.page_table.device, len(self.context_lens)
        if self.arrivals is None or self.space is None:
            # The widest need first: a window has fewer parts.
            most = triton.cdiv(self.longest, SPLIT)
            self.arrivals = torch.zeros(rows * kv_heads, dtype=torch.int32, device=device)
            shapes = (rows, heads, most, dim), (rows, heads, most), (rows, heads, most)
            sums, tops, weights = (torch.empty(shape, dtype=torch.float32, device=device) for shape in shapes)
            self.space = sums, tops, weights
        return *self.space, self.arrivals


def plan_attention(
    page_table: Tensor,
    query_starts: Tensor,
    context_lens: Tensor,
    query_lens_host: Sequence[int],
    context_lens_host: Sequence[int],
    pages: Pages,
    windows: frozenset[int | None],
) -> AttentionPlan:
    """The host's context lengths may be upper bounds: a captured forward is planned once for all that follow."""
    one_token = all(length == 1 for length in query_lens_host)
    return AttentionPlan(page_table, query_starts, context_lens, one_token, max(context_lens_host, default=1))


def _room(queries: Tensor, kv_heads: int, then: QuantizedWeight | None) -> Rows:
    """For the output: as a product with `then` takes it, where a program has what is quantized or rotated together."""
    tokens, heads, dim = queries.shape
    group, shape = heads // kv_heads, (tokens, heads * dim)
    if tokens and then is not None and then.order is None and is_whole(then, heads * dim):
        recipe = recipe_of(then)
        together = BLOCK if recipe.way == "blocks" else max(BLOCK, then.rotation)
        unpadded = power_of_two(dim) == dim and power_of_two(group) == group
        alone = dim % together == 0 or (unpadded and group * dim % together == 0)
        if alone and (recipe.way == "blocks" or (recipe.way == "row" and tokens <= MOST_ROTATED)):
            return new_activations(None, queries, shape, then, kv_heads if recipe.way == "row" else None)
    return torch.empty(shape, dtype=queries.dtype, device=queries.device)


def attention(
    queries: Tensor,
    pages: Pages,
    plan: AttentionPlan,
    scale: float,
    window: int | None,
    softcap: float = 0.0,
    slopes: Tensor | None = None,
    sinks: Tensor | None = None,
    then: QuantizedWeight | None = None,
) -> Rows:
    """Attention of every token over its row's pages; for a product with `then`, if there is one."""
    tokens, heads, dim = queries.shape
    rows, kv_heads = len(plan.context_lens), pages.keys.shape[1]
    output = _room(queries, kv_heads, then)
    if not tokens:
        return output
    group_pad = power_of_two(heads // kv_heads)
    tile_tokens = max(1, _TILE_ROWS // group_pad)
    parts = triton.cdiv(plan.longest, SPLIT)
    if window is not None:
        parts = min(parts, triton.cdiv(window - 1, SPLIT) + 1)
    in_8_bits = pages.key_scales is not None
    tiles = rows if plan.one_token_rows else tokens // tile_tokens + rows
    sizes = {
        "HEADS": heads,
        "KV_HEADS": kv_heads,
        "GROUP": heads // kv_heads,
        "GROUP_PAD": group_pad,
        "DIM": dim,
        "DIM_PAD": power_of_two(dim, 16),
        "PAGE_SIZE": pages.page_size,
        "TILE_TOKENS": tile_tokens,
        "BLOCK_KEYS": _BLOCK_KEYS if dim <= 128 else _BLOCK_KEYS // (4 if in_8_bits else 2),
        "SPLIT": SPLIT,
    }
    into = (output.q, output.scales, output.shares) if isinstance(output, Activations) else (output, None, None)
    attention_kernel[(tiles, kv_heads, parts)](
        *(queries, pages.keys, pages.values, pages.key_scales, pages.value_scales),
        *(plan.page_table, plan.query_starts, plan.context_lens, slopes, sinks),
        *(*plan.workspace(parts, heads, kv_heads, dim), *into),
        *(float(scale), float(softcap), _NO_WINDOW if window is None else window),
        *(tokens, rows, plan.page_table.stride(0), queries.stride(0), parts),
        **sizes,
        ONE_TOKEN_ROWS=plan.one_token_rows,
        HAS_SOFTCAP=softcap != 0,
        HAS_SLOPES=slopes is not None,
        HAS_SINKS=sinks is not None,
        HAS_SCALES=in_8_bits,
        HAS_PARTS=parts > 1,
        THEN=output.recipe if isinstance(output, Activations) else FLOATS,
        num_warps=8,
        num_stages=2,
        # Without the limit, int8 spills on sm_100, bfloat16 that is quantized on sm_80.
        maxnreg=128,
        **OPTIONS,
    )
    return output
