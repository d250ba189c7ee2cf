"""Activations that are quantized by the operation before a product: the bits of a launch of its own for that."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from support.gpu import DEVICE, on_device
from torch import Tensor

from flover.errors import InvariantError
from flover.ops import ONE_SCALE, Ops, WeightFormat
from flover.ops.cuda.quantize import Activations
from flover.ops.cuda.table import cuda_ops
from ops.spec import pages_of
from ops.test_cuda_quantized import activations, filled, rows_of

pytestmark = pytest.mark.gpu


def matrix(ops: Ops, weight_format: WeightFormat, outputs: int, inputs: int, gated: bool = False, **order: Any) -> Any:
    return filled(ops.new_weight((outputs, inputs), weight_format, gated), rows_of(weight_format, outputs, inputs),
                  **order)  # fmt: skip


def table(dtype: torch.dtype, weight: Any) -> tuple[Ops, Ops]:
    """The operations, and those that prepare what they give for that weight."""
    ops = cuda_ops(DEVICE, activations=dtype)
    assert ops.prepare is not None
    return ops, ops.prepare(ops, weight)


def check(weight: Any, plain: Any, prepared: Any, way: str, kind: str | None = None) -> Any:
    """Products of both have the same bits; the second has no numbers but integers or what becomes them."""
    assert isinstance(plain, Tensor)
    assert (prepared.recipe.way if isinstance(prepared, Activations) else "tensor") == way
    found = [cuda_ops(DEVICE).linear(each, weight, None, kind) for each in (plain, prepared)]
    assert torch.equal(*(each.nan_to_num(7.0) for each in found))
    return found[0]


@pytest.mark.parametrize("weight_format", ["int8", "int4", "q8_0", "q2_k", "int4_g32"])
def test_norms_and_products_quantize_for_the_next_product(weight_format: WeightFormat) -> None:
    one_scale, size = weight_format in ONE_SCALE, 256 if weight_format == "q2_k" else 128
    dtype = torch.float32 if weight_format in ("int8", "q8_0") else torch.bfloat16
    gated = weight_format != "q2_k"
    ops = cuda_ops(DEVICE, activations=dtype)
    up = matrix(ops, weight_format, size * (1 + gated), size, gated=gated)
    down = matrix(ops, weight_format, 20, size)
    (_, before_up), (_, before_down) = table(dtype, up), table(dtype, down)
    scale, bias = (torch.randn(size, generator=torch.Generator().manual_seed(seed)).to(DEVICE) for seed in (1, 2))
    # Tiles of few rows and of many; of more than 64 rows, what is rotated becomes integers by a launch of its own.
    for rows in (1, 66) if weight_format == "int8" else (20,):
        x, residual = (each.to(DEVICE, dtype) for each in (activations(rows, size), activations(rows, size)))
        if rows > 1:
            x[rows // 3, 7] = torch.inf
        (normed, total), (prepared, same) = (one.rms_norm(x, residual, scale, 1e-5) for one in (ops, before_up))
        assert torch.equal(total, same) and torch.equal(normed.nan_to_num(), prepared.x.nan_to_num())
        inner = check(up, normed, prepared, "row" if one_scale else "blocks", "silu")
        way = "blocks" if not one_scale else "rotated" if rows <= 64 else "tensor"
        check(down, inner, before_down.linear(prepared, up, None, "silu"), way)
    both = [one.layer_norm(x[:2], None, scale, bias, 1e-5)[0] for one in (ops, before_down)]
    check(down, *both, "row" if one_scale else "blocks")


@pytest.mark.parametrize("weight_format", ["int8", "int4", "q4_0"])
def test_attention_quantizes_for_the_product_behind_it(weight_format: WeightFormat) -> None:
    """Heads of which several are rotated together, and one of several blocks; single tokens, with contexts of several
    parts, and chunks."""
    for heads, kv_heads, dim in ((4, 1, 32), (1, 1, 128), (6, 2, 64)):
        out = matrix(cuda_ops(DEVICE), weight_format, 24, heads * dim)
        ops, before = table(torch.float32, out)
        generator = torch.Generator().manual_seed(dim)
        stored = torch.randn((40, 16, kv_heads, dim), generator=generator)
        pages = pages_of(ops, *on_device((stored, stored.flip(0))))
        page_table = torch.arange(1, 39).view(2, 19).int()
        for lens, contexts in (([1, 1], [300, 20]), ([9, 1], [70, 20])):
            starts = torch.tensor(np.cumsum([0, *lens])).int()
            on_gpu = on_device((page_table, starts, torch.tensor(contexts).int()))
            plan = ops.plan_attention(*on_gpu, lens, contexts, pages, frozenset({None}))
            queries = torch.randn((sum(lens), heads, dim), generator=generator).to(DEVICE)
            way = "blocks" if weight_format == "q4_0" else "rotated" if heads != 6 else "tensor"
            check(out, *(one.attention(queries, pages, plan, 0.2, None) for one in (ops, before)), way)


def test_what_is_not_quantized_on_the_way() -> None:
    """Rows with blocks that are not there; inputs in another order, unless a norm has the whole row; matrices that are
    not quantized, or whose activations are not."""
    x, scale = on_device((activations(3, 96), torch.ones(96)))
    ops, before = table(torch.float32, matrix(cuda_ops(DEVICE), "q4_0", 20, 96))
    assert isinstance(before.rms_norm(x, None, scale, 1e-5)[0], Tensor)
    order = np.random.default_rng(4).permutation(128).astype(np.int32)
    ordered = matrix(ops, "int4_g32", 20, 128, order=order)
    ops, before = table(torch.float32, ordered)
    x, scale = on_device((activations(3, 128), torch.linspace(0.5, 2, 128)))
    prepared = before.rms_norm(x, x.flip(0), scale, 1e-5)[0]
    check(ordered, ops.rms_norm(x, x.flip(0), scale, 1e-5)[0], prepared, "blocks")
    wide = matrix(ops, "q8_0", 128, 128)
    assert isinstance(before.linear(x, wide, None, None), Tensor)
    for one in (ops.new_weight((20, 128), "float32", False), matrix(ops, "fp8_e4m3", 20, 128)):
        assert isinstance(table(torch.float32, one)[1].rms_norm(x, None, scale, 1e-5)[0], Tensor)
        found = [ops.linear(each, one, None, None) for each in (prepared, prepared.x)]
        assert torch.equal(found[0], found[1])
    behind = table(torch.float32, wide)[1].linear(x, wide, None, None)
    with pytest.raises(InvariantError, match="quantized for one weight are multiplied with another"):
        ops.linear(behind, ordered, None, None)
