"""Norms of rows and of heads: sums and roots in float32, one rounding at the end."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from flover.ops.cuda.launch import OPTIONS, power_of_two, warps_for


@triton.jit
def norm_kernel(
    x,
    residual,
    weight,
    bias,
    total,
    normed,
    size,
    eps,
    HAS_RESIDUAL: tl.constexpr,
    IS_LAYER_NORM: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One row: x + residual, as it is stored, then its norm."""
    row = tl.program_id(0).to(tl.int64) * size
    column = tl.arange(0, BLOCK)
    inside = column < size
    value = tl.load(x + row + column, inside, other=0.0)
    if HAS_RESIDUAL:
        value = (value.to(tl.float32) + tl.load(residual + row + column, inside, other=0.0).to(tl.float32)).to(
            value.dtype
        )
        tl.store(total + row + column, value, inside)
    wide = value.to(tl.float32)
    if IS_LAYER_NORM:
        wide = tl.where(inside, wide - tl.sum(wide) / size, 0.0)
    root = tl.sqrt_rn(tl.sum(wide * wide) / size + eps)
    scale = tl.load(weight + column, inside, other=0.0).to(tl.float32)
    y = tl.div_rn(wide, root) * scale
    if IS_LAYER_NORM:
        y += tl.load(bias + column, inside, other=0.0).to(tl.float32)
    tl.store(normed + row + column, y, inside)


def rms_norm(x: Tensor, residual: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Root mean square norm, after adding the residual."""
    return _norm(x, residual, weight, None, eps)


def layer_norm(x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Layer norm, after adding the residual."""
    return _norm(x, residual, weight, bias, eps)


def _norm(x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    rows, size = x.shape
    normed = torch.empty_like(x)
    total = x if residual is None else torch.empty_like(x)
    if rows:
        block = power_of_two(size)
        flags = {"HAS_RESIDUAL": residual is not None, "IS_LAYER_NORM": bias is not None, "BLOCK": block}
        launch = norm_kernel[(rows,)]
        launch(x, residual, weight, bias, total, normed, size, eps, **flags, num_warps=warps_for(block), **OPTIONS)
    return normed, total


@triton.jit
def head_norm_kernel(
    qkv,
    query_weight,
    key_weight,
    eps,
    stride,
    query_parts,
    QUERY_SIZE: tl.constexpr,
    KEY_SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One part of a token: a head or all of them, of its queries or of its keys."""
    part = tl.program_id(1)
    column = tl.arange(0, BLOCK)
    token = qkv + tl.program_id(0).to(tl.int64) * stride
    is_query = part < query_parts
    size = tl.where(is_query, QUERY_SIZE, KEY_SIZE)
    inside = column < size
    start = tl.where(is_query, part * QUERY_SIZE, query_parts * QUERY_SIZE + (part - query_parts) * KEY_SIZE)
    wide = tl.load(token + start + column, inside, other=0.0).to(tl.float32)
    if is_query:
        scale = tl.load(query_weight + column, inside, other=0.0).to(tl.float32)
    else:
        scale = tl.load(key_weight + column, inside, other=0.0).to(tl.float32)
    root = tl.sqrt_rn(tl.sum(wide * wide) / size + eps)
    tl.store(token + start + column, tl.div_rn(wide, root) * scale, inside)


def head_norm(
    qkv: Tensor, num_heads: int, num_kv_heads: int, query_weight: Tensor, key_weight: Tensor, eps: float
) -> Tensor:
    """RMS norm of queries and keys, in place."""
    rows, heads, dim = qkv.shape
    sizes = len(query_weight), len(key_weight)
    parts = num_heads * dim // sizes[0], num_kv_heads * dim // sizes[1]
    if rows:
        block = power_of_two(max(sizes))
        launch = head_norm_kernel[(rows, sum(parts))]
        launch(
            qkv,
            query_weight,
            key_weight,
            eps,
            heads * dim,
            parts[0],
            *sizes,
            block,
            num_warps=warps_for(block),
            **OPTIONS,
        )
    return qkv
