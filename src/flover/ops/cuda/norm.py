"""Norms of rows and of heads: sums and roots in float32, one rounding at the end."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from flover.ops.cuda.launch import OPTIONS, power_of_two, warps_for
from flover.ops.cuda.quantize import FLOATS, Rows, is_whole, keep_blocks, new_activations, recipe_of
from flover.ops.cuda.quantized import QuantizedWeight
from flover.ops.cuda.rotated import keep_row, magnitude_bits, rotated


@triton.jit(do_not_specialize=["rows"])  # one kernel for any batch
def norm_kernel(
    x,
    residual,
    weight,
    bias,
    total,
    normed,
    order,
    q,
    scales,
    shares,
    rows,
    size,
    eps,
    HAS_RESIDUAL: tl.constexpr,
    IS_LAYER_NORM: tl.constexpr,
    HAS_ORDER: tl.constexpr,
    THEN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One row: x + residual, as it is stored, then its norm, and this in 8 bits where THEN says how."""
    token = tl.program_id(0).to(tl.int64)
    row = token * size
    column = tl.arange(0, BLOCK)
    inside = column < size
    value = total_of(x + row, residual + row if HAS_RESIDUAL else residual, column, inside, HAS_RESIDUAL)
    if HAS_RESIDUAL:
        tl.store(total + row + column, value, inside)
    wide = value.to(tl.float32)
    if IS_LAYER_NORM:
        mean = tl.sum(wide) / size
        wide = tl.where(inside, wide - mean, 0.0)
    root = tl.sqrt_rn(tl.sum(wide * wide) / size + eps)
    y = scaled(wide, root, weight, bias, column, inside, IS_LAYER_NORM)
    tl.store(normed + row + column, y, inside)
    if THEN.way != "floats":
        if HAS_ORDER:
            column = tl.load(order + column, inside, other=0)
            wide = total_of(x + row, residual + row if HAS_RESIDUAL else residual, column, inside, HAS_RESIDUAL)
            wide = wide.to(tl.float32)
            if IS_LAYER_NORM:
                wide -= mean
            y = scaled(wide, root, weight, bias, column, inside, IS_LAYER_NORM)
        y = tl.where(inside, y.to(x.dtype.element_ty).to(tl.float32), 0.0)
        if THEN.way == "blocks":
            block = tl.arange(0, BLOCK // 32)
            y, real = tl.reshape(y, [BLOCK // 32, 32]), block * 32 < size
            keep_blocks(y, token + block * 0, block, real, rows, size, q, scales, shares, THEN)
        else:
            y = rotated(y, BLOCK, THEN.rounds)
            keep_row(y, tl.max(magnitude_bits(y)), token, 0, rows, size, q, scales, shares, BLOCK, THEN)


@triton.jit
def total_of(x, residual, column, inside, HAS_RESIDUAL: tl.constexpr):
    """These columns of x + residual, rounded as they are stored."""
    value = tl.load(x + column, inside, other=0.0)
    if HAS_RESIDUAL:
        value = (value.to(tl.float32) + tl.load(residual + column, inside, other=0.0).to(tl.float32)).to(value.dtype)
    return value


@triton.jit
def scaled(wide, root, weight, bias, column, inside, IS_LAYER_NORM: tl.constexpr):
    """Numbers over their root, with the norm's weights."""
    y = tl.div_rn(wide, root) * tl.load(weight + column, inside, other=0.0).to(tl.float32)
    if IS_LAYER_NORM:
        y += tl.load(bias + column, inside, other=0.0).to(tl.float32)
    return y


def rms_norm(
    x: Tensor, residual: Tensor | None, weight: Tensor, eps: float, then: QuantizedWeight | None = None
) -> tuple[Rows, Tensor]:
    """Root mean square norm, after adding the residual; for a product with `then`, if there is one."""
    return _norm(x, residual, weight, None, eps, then)


def layer_norm(
    x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor, eps: float, then: QuantizedWeight | None = None
) -> tuple[Rows, Tensor]:
    """Layer norm, after adding the residual; for a product with `then`, if there is one."""
    return _norm(x, residual, weight, bias, eps, then)


def _norm(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    eps: float,
    then: QuantizedWeight | None,
) -> tuple[Rows, Tensor]:
    rows, size = x.shape
    normed = torch.empty_like(x)
    total = x if residual is None else torch.empty_like(x)
    made = None
    if then is not None and is_whole(then, size) and recipe_of(then) != FLOATS:
        made = new_activations(normed, x, (rows, size), then)
    if rows:
        block = power_of_two(size)
        into = (None,) * 4 if made is None else (made.order, made.q, made.scales, made.shares)
        norm_kernel[(rows,)](
            *(x, residual, weight, bias, total, normed, *into, rows, size, eps),
            HAS_RESIDUAL=residual is not None,
            IS_LAYER_NORM=bias is not None,
            HAS_ORDER=made is not None and made.order is not None,
            THEN=FLOATS if made is None else made.recipe,
            BLOCK=block,
            num_warps=warps_for(block),
            **OPTIONS,
        )
    return made or normed, total


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
