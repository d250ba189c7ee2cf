"""Rotary embedding of queries and keys, and the write of keys and values to their pages, in one launch."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from flover.ops import Pages
from flover.ops.cuda.launch import OPTIONS, power_of_two
from flover.ops.cuda.quantize import nearest
from flover.ops.cuda.rotated import magnitude_bits


@triton.jit
def in_8_bits(x):
    """Rows as integers times a scale of each [rows, 1], as csrc/attention.h has them; what is not finite makes the
    scale not a number."""
    top = tl.max(magnitude_bits(x), axis=1, keep_dims=True)
    finite = top < 0x7F800000
    reach = tl.where(finite, top, 0).to(tl.float32, bitcast=True)
    inverse = tl.where(reach > 0.0, tl.div_rn(127.0, reach), 0.0)
    integer = tl.where(finite, x, 0.0) * inverse
    integer = nearest(tl.minimum(tl.maximum(integer, -127.0), 127.0)).to(tl.int8)
    return integer, tl.where(finite, tl.div_rn(reach, 127.0), float("nan"))


@triton.jit
def rotary_write_kernel(
    qkv, cos, sin, slots, query_norm, key_norm, queries, keys, values, key_scales, value_scales, eps,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, DIM: tl.constexpr, TURNED: tl.constexpr, INTERLEAVED: tl.constexpr,
    HAS_NORM: tl.constexpr, HAS_SCALES: tl.constexpr, PAGE_SIZE: tl.constexpr, BLOCK_HEADS: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
):  # fmt: skip
    """A few heads of one token. Nothing is changed in place: a turned number needs its partner as it was."""
    token = tl.program_id(0).to(tl.int64)
    head = (tl.program_id(1) * BLOCK_HEADS + tl.arange(0, BLOCK_HEADS))[:, None]
    dim = tl.arange(0, BLOCK_DIM)[None, :]
    row = qkv + (token * (HEADS + 2 * KV_HEADS) + head) * DIM
    inside = (head < HEADS + 2 * KV_HEADS) & (dim < DIM)
    stored = tl.load(row + dim, inside, other=0.0)
    x = stored.to(tl.float32)
    if TURNED > 0:
        if INTERLEAVED:
            partner, angle, is_first = dim ^ 1, dim // 2, dim % 2 == 0
        else:
            is_first = dim < TURNED // 2
            partner = tl.where(is_first, dim + TURNED // 2, dim - TURNED // 2)
            angle = tl.where(is_first, dim, partner)
        turns = dim < TURNED
        other = tl.load(row + partner, inside & turns, other=0.0).to(tl.float32)
        c = tl.load(cos + token * (TURNED // 2) + angle, turns, other=1.0)
        s = tl.load(sin + token * (TURNED // 2) + angle, turns, other=0.0)
        turned = tl.where(is_first, x * c - other * s, x * c + other * s)
        x = tl.where(turns & (head < HEADS + KV_HEADS), turned, x)
    if HAS_NORM:
        root = tl.sqrt_rn(tl.sum(x * x, axis=1, keep_dims=True) / DIM + eps)
        scale = tl.where(
            head < HEADS,
            tl.load(query_norm + dim, dim < DIM, other=0.0).to(tl.float32),
            tl.load(key_norm + dim, dim < DIM, other=0.0).to(tl.float32),
        )
        x = tl.where(head < HEADS + KV_HEADS, tl.div_rn(x, root) * scale, x)
    tl.store(queries + (token * HEADS + head) * DIM + dim, x, inside & (head < HEADS))
    slot = tl.load(slots + token)
    page, offset = slot // PAGE_SIZE, slot % PAGE_SIZE
    key = head - HEADS
    value = key - KV_HEADS
    is_key, is_value = (key >= 0) & (key < KV_HEADS), (value >= 0) & (value < KV_HEADS)
    key_place = (page * KV_HEADS + key) * PAGE_SIZE + offset
    value_place = (page * KV_HEADS + value) * PAGE_SIZE + offset
    if HAS_SCALES:
        x, scale = in_8_bits(x)
        tl.store(key_scales + key_place, scale, is_key)
        tl.store(value_scales + value_place, scale, is_value)
    tl.store(keys + key_place * DIM + dim, x, inside & is_key)
    tl.store(values + value_place * DIM + dim, x, inside & is_value)


def rotary_write(
    qkv: Tensor,
    num_heads: int,
    cos: Tensor | None,
    sin: Tensor | None,
    interleaved: bool,
    pages: Pages,
    slots: Tensor,
    query_norm: Tensor | None = None,
    key_norm: Tensor | None = None,
    eps: float = 0.0,
) -> Tensor:
    """Rotate queries and keys, write keys and values; the queries are a tensor of their own."""
    tokens, heads, dim = qkv.shape
    queries = torch.empty((tokens, num_heads, dim), dtype=qkv.dtype, device=qkv.device)
    if not tokens:
        return queries
    block_dim = power_of_two(dim)
    block_heads = max(1, 1024 // block_dim)
    rotary_write_kernel[(tokens, triton.cdiv(heads, block_heads))](
        qkv,
        cos,
        sin,
        slots,
        query_norm,
        key_norm,
        queries,
        pages.keys,
        pages.values,
        pages.key_scales,
        pages.value_scales,
        eps,
        HEADS=num_heads,
        KV_HEADS=(heads - num_heads) // 2,
        DIM=dim,
        TURNED=0 if cos is None else 2 * cos.shape[1],
        INTERLEAVED=interleaved,
        HAS_NORM=query_norm is not None,
        HAS_SCALES=pages.key_scales is not None,
        PAGE_SIZE=pages.page_size,
        BLOCK_HEADS=block_heads,
        BLOCK_DIM=block_dim,
        num_warps=4,
        **OPTIONS,
    )
    return queries
