"""What an implementation of the op table is held to: for every operation, inputs and how near it must come.

A test runs `spec.run(ops, inputs)` with the implementation and with the reference (or, for the reference itself, with
a naive formula) on the same inputs. Matrices and pages are handed over in each implementation's own layout. Tolerances
are relative to the largest result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flover.ops import DType, Experts, Ops, Pages, Routing, Weight, WeightFormat
from ops.bridge import store

Inputs = dict[str, Any]

_EXACT = {torch.float32: 0.0, torch.bfloat16: 0.0}
_ROUNDING = {torch.float32: 1e-6, torch.bfloat16: 2e-2}
_SUMS = {torch.float32: 1e-5, torch.bfloat16: 2e-2}

DTYPES: dict[torch.dtype, DType] = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.int8: "int8"}
_FORMATS: dict[torch.dtype, WeightFormat] = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


@dataclass(frozen=True, slots=True, kw_only=True)
class OpSpec:
    """`make` draws inputs of a dtype; `run` gives every result of the operation as one list of tensors."""

    make: Callable[[torch.Generator, torch.dtype], Inputs]
    run: Callable[[Ops, Inputs], list[Tensor]]
    tolerance: Mapping[torch.dtype, float]
    reason: str


def weight_of(ops: Ops, plain: Tensor, gated: bool = False, weight_format: WeightFormat | None = None) -> Weight:
    """The matrix in the layout of `ops`, by default in its own type."""
    chosen = weight_format or _FORMATS.get(plain.dtype, "float32")
    weight = ops.new_weight((plain.shape[0], plain.shape[1]), chosen, gated)
    store(weight, 0, plain)
    return weight


def pages_of(ops: Ops, keys: Tensor, values: Tensor) -> Pages:
    """Pages [num_pages, page_size, num_kv_heads, d] in the layout of `ops`."""
    num_pages, page_size, heads, dim = keys.shape
    key_shape, value_shape = ops.page_shapes(num_pages, page_size, heads, dim)
    pages = Pages(
        keys.new_empty(key_shape), values.new_empty(value_shape), page_size, DTYPES.get(keys.dtype, "float32")
    )
    _fitting(pages.keys, keys.shape).copy_(keys)
    _fitting(pages.values, values.shape).copy_(values)
    return pages


def plain_pages(pages: Pages, shape: torch.Size) -> list[Tensor]:
    """Keys and values of `pages` as [num_pages, page_size, num_kv_heads, d]."""
    return [_fitting(pages.keys, shape).contiguous(), _fitting(pages.values, shape).contiguous()]


def _fitting(tensor: Tensor, shape: torch.Size) -> Tensor:
    """The view of `tensor` with its dimensions in the order of `shape`; all of different size but the first."""
    _, page_size, heads, dim = shape
    order = [list(tensor.shape).index(size, 1) for size in (page_size, heads, dim)]
    return tensor.permute(0, *order)


def _normal(generator: torch.Generator, dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator).to(dtype)


def _make_embed(generator: torch.Generator, dtype: torch.dtype) -> Inputs:
    return {
        "ids": torch.randint(0, 50, (17,), generator=generator),
        "table": _normal(generator, dtype, 50, 24),
        "factors": (1.0, 4.0),
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
        "qkv": _normal(generator, dtype, 7, 8, 16),
        "num_heads": 4,
        "num_kv_heads": 2,
        "query_weight": _normal(generator, dtype, 16),
        "key_weight": _normal(generator, dtype, 16),
        "all_queries_weight": _normal(generator, dtype, 64),
        "all_keys_weight": _normal(generator, dtype, 32),
        "eps": 1e-6,
    }


def _run_head_norm(ops: Ops, inputs: Inputs) -> list[Tensor]:
    heads = inputs["num_heads"], inputs["num_kv_heads"]
    weights = (inputs["query_weight"], inputs["key_weight"]), (inputs["all_queries_weight"], inputs["all_keys_weight"])
    return [ops.head_norm(inputs["qkv"].clone(), *heads, *pair, inputs["eps"]) for pair in weights]


def _make_linear(generator: torch.Generator, dtype: torch.dtype) -> Inputs:
    return {
        "x": _normal(generator, dtype, 13, 48),
        "weight": _normal(generator, dtype, 72, 48) / 7,
        "bias": _normal(generator, dtype, 72),
        "kinds": ("silu", "gelu", "gelu_tanh", "relu", "relu2", "quick_gelu"),
    }


def _run_linear(ops: Ops, inputs: Inputs) -> list[Tensor]:
    x, bias = inputs["x"], inputs["bias"]
    plain, gated = weight_of(ops, inputs["weight"]), weight_of(ops, inputs["weight"], gated=True)
    results = [ops.linear(x, plain, None, None), ops.linear(x, plain, bias, None)]
    for kind in inputs["kinds"]:
        results += [
            ops.linear(x, plain, bias, kind),
            ops.linear(x, gated, None, kind),
            ops.linear(x, gated, bias, kind),
        ]
    return results


def _make_experts(generator: torch.Generator, dtype: torch.dtype) -> Inputs:
    scores = _normal(generator, dtype, 13, 5)
    scores[3] = scores[3, 0]  # all equal
    scores[4, 2] = scores[4, 4]
    return {
        "x": _normal(generator, dtype, 13, 48),
        "scores": scores,
        "up": _normal(generator, dtype, 5, 80, 48) / 7,
        "down": _normal(generator, dtype, 5, 48, 40) / 6,
        "biases": (_normal(generator, dtype, 5, 80), _normal(generator, dtype, 5, 48)),
        "routings": tuple(Routing(top_k, normalized) for top_k in (1, 2, 5) for normalized in (False, True)),
    }


def _run_experts(ops: Ops, inputs: Inputs) -> list[Tensor]:
    up = [weight_of(ops, plain, gated=True) for plain in inputs["up"]]
    down = [weight_of(ops, plain) for plain in inputs["down"]]
    biased = Experts(up, down, *([bias.to(inputs["x"].dtype) for bias in one] for one in inputs["biases"]))
    return [
        ops.experts(inputs["x"], inputs["scores"], experts, routing, kind)
        for routing in inputs["routings"]
        for experts, kind in ((Experts(up, down), "silu"), (biased, "silu"), (biased, "swiglu_oai"))
    ]


def _make_scale_queries(generator: torch.Generator, dtype: torch.dtype) -> Inputs:
    gate = torch.randn((7, 1), generator=generator)
    gate[2] = -80
    return {"qkv": _normal(generator, dtype, 7, 8, 16), "num_heads": 4, "gate": gate}


def _make_add_gated(generator: torch.Generator, dtype: torch.dtype) -> Inputs:
    return {
        "x": _normal(generator, dtype, 9, 40),
        "y": _normal(generator, dtype, 9, 40),
        "gate": 3 * _normal(generator, dtype, 9, 1),
    }


def _make_angles(generator: torch.Generator, dtype: torch.dtype) -> Inputs:
    return {
        "positions": torch.tensor([0, 1, 7, 100, 4095]),
        "frequencies": torch.tensor([1.0, 0.3, 0.01]),
        "factor": 1.2,
    }


def _make_rotary(generator: torch.Generator, dtype: torch.dtype) -> Inputs:
    angles = 10 * torch.rand((6, 4), generator=generator)  # 8 of 12 dimensions turn
    return {
        "qkv": _normal(generator, dtype, 6, 7, 12),
        "num_heads": 3,
        "cos": angles.cos(),
        "sin": angles.sin(),
        "pages": _normal(generator, dtype, 4, 3, 2, 12),
        "norms": (_normal(generator, torch.float32, 12), _normal(generator, torch.float32, 12), 1e-5),
        "slots": torch.tensor([9, 10, 11, 3, 4, 7]),
    }


def _run_rotary(ops: Ops, inputs: Inputs) -> list[Tensor]:
    results = []
    for interleaved, turns, norms in (
        (False, True, ()),
        (True, True, ()),
        (False, False, ()),
        (False, True, inputs["norms"]),
        (False, False, inputs["norms"]),
    ):
        pages = pages_of(ops, inputs["pages"], inputs["pages"])
        cos, sin = (inputs["cos"], inputs["sin"]) if turns else (None, None)
        queries = ops.rotary_write(
            inputs["qkv"].clone(), inputs["num_heads"], cos, sin, interleaved, pages, inputs["slots"], *norms
        )
        results += [queries, *plain_pages(pages, inputs["pages"].shape)]
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
        "slopes": torch.tensor([0.5, 0.25, 0.125, 1.0, 2.0, 0.0]),
        "sinks": torch.tensor([-1.0, 0.5, 2.0, 0.0, -3.0, 1.0]),
    }


def _run_attention(ops: Ops, inputs: Inputs) -> list[Tensor]:
    return attend(ops, inputs, pages_of(ops, inputs["key_pages"], inputs["value_pages"]))


def attend(ops: Ops, inputs: Inputs, pages: Pages) -> list[Tensor]:
    """Attention over these pages with every window, and with everything that changes scores."""
    query_lens, context_lens, windows = inputs["query_lens"], inputs["context_lens"], inputs["windows"]
    table = inputs["page_table"]
    starts = torch.tensor([0, *query_lens], device=table.device).cumsum(0).int()
    lens = torch.tensor(context_lens, dtype=torch.int32, device=table.device)
    plan = ops.plan_attention(table, starts, lens, query_lens, context_lens, pages, frozenset(windows))
    slopes, sinks = inputs["slopes"], inputs["sinks"]
    shapes = (0.0, None, None), (1.5, None, None), (0.0, slopes, None), (0.0, None, sinks), (1.5, slopes, sinks)
    return [
        ops.attention(inputs["queries"], pages, plan, inputs["scale"], window, *shape)
        for window in windows
        for shape in shapes
    ]


SPECS: Mapping[str, OpSpec] = {
    "embed": OpSpec(
        make=_make_embed,
        run=lambda ops, i: [ops.embed(i["ids"], weight_of(ops, i["table"]), factor) for factor in i["factors"]],
        tolerance=_EXACT,
        reason="it copies; these factors are powers of two",
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
        run=_run_head_norm,
        tolerance=_SUMS,
        reason="sums of a head in another order; one rounding of the result, two in bfloat16",
    ),
    "linear": OpSpec(
        make=_make_linear,
        run=_run_linear,
        tolerance=_SUMS,
        reason="sums over the input in another order, accumulated in float32; in bfloat16 rounded before the gate",
    ),
    "experts": OpSpec(
        make=_make_experts,
        run=_run_experts,
        tolerance={torch.float32: 1e-5, torch.bfloat16: 4e-2},
        reason="two linears and a weighted sum; in bfloat16 rounded between them",
    ),
    "scale_queries": OpSpec(
        make=_make_scale_queries,
        run=lambda ops, i: [ops.scale_queries(i["qkv"][:, : i["num_heads"]], i["gate"])],
        tolerance=_ROUNDING,
        reason="one exponential, one rounding of the result",
    ),
    "add_gated": OpSpec(
        make=_make_add_gated,
        run=lambda ops, i: [ops.add_gated(i["x"], i["y"], i["gate"])],
        tolerance=_ROUNDING,
        reason="an exponential to 2 units in the last place, a product and a sum",
    ),
    "angles": OpSpec(
        make=_make_angles,
        run=lambda ops, i: list(ops.angles(i["positions"], i["frequencies"], i["factor"])),
        tolerance={torch.float32: 1e-3, torch.bfloat16: 1e-3},
        reason="the angle is rounded to float32: at position 4095 by up to 2e-4",
    ),
    "add": OpSpec(
        make=_make_norm,
        run=lambda ops, i: [ops.add(i["x"], i["residual"])],
        tolerance={torch.float32: 1e-7, torch.bfloat16: 4e-3},
        reason="one rounding",
    ),
    "softcap": OpSpec(
        make=_make_norm,
        run=lambda ops, i: [ops.softcap(i["residual"].clone(), cap) for cap in (0.5, 4.0, 30.0)],
        tolerance=_ROUNDING,
        reason="a quotient, tanh by an exponential, and a product",
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
