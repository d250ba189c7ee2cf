"""What an implementation of the op table is held to: for every operation, inputs and how near it must come.

A test runs `spec.run(ops, inputs)` with the implementation and with the reference (or, for the reference itself, with
a naive formula) on the same inputs. Tolerances are relative to the largest result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flover.ops import Ops

Inputs = dict[str, Any]

_EXACT = {torch.float32: 0.0, torch.bfloat16: 0.0}
_ROUNDING = {torch.float32: 1e-6, torch.bfloat16: 2e-2}
_SUMS = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


@dataclass(frozen=True, slots=True, kw_only=True)
class OpSpec:
    """`make` draws inputs of a dtype; `run` gives every result of the operation as one list of tensors."""

    make: Callable[[torch.Generator, torch.dtype], Inputs]
    run: Callable[[Ops, Inputs], list[Tensor]]
    tolerance: Mapping[torch.dtype, float]
    reason: str


def _normal(generator: torch.Generator, dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator).to(dtype)


def _make_embed(generator: torch.Generator, dtype: torch.dtype) -> Inputs:
    return {
        "ids": torch.randint(0, 50, (17,), generator=generator),
        "table": _normal(generator, dtype, 50, 24),
    }


def _make_norm(generator: torch.Generator, dtype: torch.dtype) -> Inputs:
    return {
        "x": _normal(generator, dtype, 9, 40),
        "residual": 3 * _normal(generator, dtype, 9, 40) + 1,
        "weight": _normal(generator, dtype, 40),
        "bias": _normal(generator, dtype, 40),
        "eps": 1e-5,
    }


def _make_head_norm(generator: torch.Generator, dtype: torch.dtype) -> Inputs:
    return {
        "queries_keys": _normal(generator, dtype, 7, 6, 16),
        "num_heads": 4,
        "query_weight": _normal(generator, dtype, 16),
        "key_weight": _normal(generator, dtype, 16),
        "eps": 1e-6,
    }


def _make_linear(generator: torch.Generator, dtype: torch.dtype) -> Inputs:
    return {
        "x": _normal(generator, dtype, 13, 48),
        "weight": _normal(generator, dtype, 72, 48),
        "bias": _normal(generator, dtype, 72),
    }


def _run_linear(ops: Ops, inputs: Inputs) -> list[Tensor]:
    packed = ops.pack(inputs["weight"])
    plain = ops.linear(inputs["x"], inputs["weight"], None)
    return [ops.linear(inputs["x"], packed, None), ops.linear(inputs["x"], packed, inputs["bias"]), plain]


def _make_activation(generator: torch.Generator, dtype: torch.dtype) -> Inputs:
    return {"x": 3 * _normal(generator, dtype, 5, 32), "kinds": ("silu", "gelu", "gelu_tanh", "relu")}


def _make_rotary(generator: torch.Generator, dtype: torch.dtype) -> Inputs:
    angles = 10 * torch.rand((6, 4), generator=generator)  # 8 of 12 dimensions turn
    return {
        "queries_keys": _normal(generator, dtype, 6, 5, 12),
        "values": _normal(generator, dtype, 6, 2, 12),
        "cos": angles.cos(),
        "sin": angles.sin(),
        "pages": _normal(generator, dtype, 4, 3, 2, 12),
        "slots": torch.tensor([9, 10, 11, 3, 4, 7]),
    }


def _run_rotary(ops: Ops, inputs: Inputs) -> list[Tensor]:
    results = []
    for interleaved, turns in ((False, True), (True, True), (False, False)):
        keys, values = inputs["pages"].clone(), inputs["pages"].clone()
        cos, sin = (inputs["cos"], inputs["sin"]) if turns else (None, None)
        queries = ops.rotary_write(
            inputs["queries_keys"], inputs["values"], cos, sin, interleaved, keys, values, inputs["slots"]
        )
        results += [queries, keys, values]
    return results


def _make_attention(generator: torch.Generator, dtype: torch.dtype) -> Inputs:
    """Rows that generate, at very different contexts, among chunks; other rows' pages hold NaN."""
    query_lens, context_lens, page_size = (1, 6, 1, 3, 1, 5, 1), (1, 6, 37, 20, 9, 23, 34), 4
    num_pages = [-(-length // page_size) for length in context_lens]
    order = torch.randperm(sum(num_pages), generator=generator) + 1
    pages = torch.full((2, len(order) + 1, page_size, 2, 16), torch.nan, dtype=dtype)
    table = torch.zeros(len(context_lens), max(num_pages), dtype=torch.int32)
    for row, mine in enumerate(torch.split(order, num_pages)):
        table[row, : len(mine)] = mine
        for position in range(context_lens[row]):
            slot = (int(mine[position // page_size]), position % page_size)
            pages[:, *slot] = _normal(generator, dtype, 2, 2, 16)
    return {
        "queries": _normal(generator, dtype, sum(query_lens), 6, 16),
        "key_pages": pages[0],
        "value_pages": pages[1],
        "page_table": table,
        "query_lens": query_lens,
        "context_lens": context_lens,
        "scale": 0.3,
        "windows": (None, 1, 5, 8, 100),
    }


def _run_attention(ops: Ops, inputs: Inputs) -> list[Tensor]:
    keys, values, windows = inputs["key_pages"], inputs["value_pages"], inputs["windows"]
    lens = inputs["query_lens"], inputs["context_lens"]
    plan = ops.plan_attention(inputs["page_table"], *lens, keys, frozenset(windows))
    return [ops.attention(inputs["queries"], keys, values, plan, inputs["scale"], window) for window in windows]


SPECS: Mapping[str, OpSpec] = {
    "embed": OpSpec(
        make=_make_embed,
        run=lambda ops, i: [ops.embed(i["ids"], i["table"])],
        tolerance=_EXACT,
        reason="it copies",
    ),
    "rms_norm": OpSpec(
        make=_make_norm,
        run=lambda ops, i: [
            *ops.rms_norm(i["x"], None, i["weight"], i["eps"]),
            *ops.rms_norm(i["x"], i["residual"], i["weight"], i["eps"]),
        ],
        tolerance=_SUMS,
        reason="sums of a row in another order; one rounding of the result, two in bfloat16",
    ),
    "layer_norm": OpSpec(
        make=_make_norm,
        run=lambda ops, i: [
            *ops.layer_norm(i["x"], None, i["weight"], i["bias"], i["eps"]),
            *ops.layer_norm(i["x"], i["residual"], i["weight"], i["bias"], i["eps"]),
        ],
        tolerance=_SUMS,
        reason="sums of a row in another order; one rounding of the result",
    ),
    "head_norm": OpSpec(
        make=_make_head_norm,
        run=lambda ops, i: [
            ops.head_norm(i["queries_keys"], i["num_heads"], i["query_weight"], i["key_weight"], i["eps"])
        ],
        tolerance=_SUMS,
        reason="sums of a head in another order; one rounding of the result, two in bfloat16",
    ),
    "linear": OpSpec(
        make=_make_linear,
        run=_run_linear,
        tolerance=_SUMS,
        reason="sums over the input in another order, accumulated in float32",
    ),
    "activation": OpSpec(
        make=_make_activation,
        run=lambda ops, i: [ops.activation(i["x"], kind) for kind in i["kinds"]],
        tolerance=_ROUNDING,
        reason="exponentials differ in the last bits",
    ),
    "gated_activation": OpSpec(
        make=_make_activation,
        run=lambda ops, i: [ops.gated_activation(i["x"], kind) for kind in i["kinds"]],
        tolerance=_ROUNDING,
        reason="exponentials differ in the last bits; in bfloat16 the factor may be rounded before the product",
    ),
    "rotary_write": OpSpec(
        make=_make_rotary,
        run=_run_rotary,
        tolerance=_ROUNDING,
        reason="two products and a sum, fused or not, and one rounding",
    ),
    "attention": OpSpec(
        make=_make_attention,
        run=_run_attention,
        tolerance=_SUMS,
        reason="softmax and weighted sum in another order; in bfloat16 the weights are rounded before the sum",
    ),
}
