"""The reference operations mean what naive float64 formulas say, on the inputs of the spec."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields

import pytest
import torch
from torch import Tensor

from flover.errors import ConfigError
from flover.ops import Ops, select
from flover.ops.spec import SPECS, Inputs

REFERENCE = select("reference")


def naive_rms(x: Tensor, eps: float) -> Tensor:
    return x / ((x**2).sum(-1, keepdim=True) / x.shape[-1] + eps) ** 0.5


def naive_rms_norm(x: Tensor, residual: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    total = x if residual is None else x + residual
    return naive_rms(total, eps) * weight, total


def naive_layer_norm(
    x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    total = x if residual is None else x + residual
    centred = total - total.sum(-1, keepdim=True) / total.shape[-1]
    return naive_rms(centred, eps) * weight + bias, total


def naive_head_norm(x: Tensor, num_heads: int, query_weight: Tensor, key_weight: Tensor, eps: float) -> Tensor:
    weights = [query_weight if head < num_heads else key_weight for head in range(x.shape[1])]
    return naive_rms(x, eps) * torch.stack(weights)


def naive_activation(x: Tensor, kind: str) -> Tensor:
    formulas = {
        "silu": lambda v: v / (1 + math.exp(-v)),
        "gelu": lambda v: v * (1 + math.erf(v / math.sqrt(2))) / 2,
        "gelu_tanh": lambda v: v * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))) / 2,
        "relu": lambda v: max(v, 0.0),
    }
    return torch.tensor([formulas[kind](value) for value in x.flatten().tolist()], dtype=x.dtype).view(x.shape)


def naive_gated(x: Tensor, kind: str) -> Tensor:
    half = x.shape[-1] // 2
    return naive_activation(x[..., :half], kind) * x[..., half:]


def naive_rotary_write(
    queries_keys: Tensor,
    values: Tensor,
    cos: Tensor | None,
    sin: Tensor | None,
    interleaved: bool,
    key_pages: Tensor,
    value_pages: Tensor,
    slots: Tensor,
) -> Tensor:
    turned = queries_keys.clone()
    pairs = 0 if cos is None else cos.shape[1]
    for pair in range(pairs):
        i, j = (2 * pair, 2 * pair + 1) if interleaved else (pair, pair + pairs)
        a, b = queries_keys[:, :, i], queries_keys[:, :, j]
        c, s = cos[:, pair, None], sin[:, pair, None]
        turned[:, :, i], turned[:, :, j] = a * c - b * s, b * c + a * s
    num_heads = turned.shape[1] - values.shape[1]
    for token, slot in enumerate(slots.tolist()):
        page, offset = divmod(slot, key_pages.shape[1])
        key_pages[page, offset] = turned[token, num_heads:]
        value_pages[page, offset] = values[token]
    return turned[:, :num_heads]


def naive_plan(
    page_table: Tensor,
    query_lens: Sequence[int],
    context_lens: Sequence[int],
    pages: Tensor,
    windows: frozenset[int | None],
) -> list[tuple[int, list[tuple[int, int]]]]:
    """For every token its position and, position by position, the (page, offset) of its row."""
    plan = []
    for row, (query_len, context_len) in enumerate(zip(query_lens, context_lens, strict=True)):
        size = pages.shape[1]
        slots = [(int(page_table[row, position // size]), position % size) for position in range(context_len)]
        plan += [(context_len - query_len + i, slots) for i in range(query_len)]
    return plan


def naive_attention(
    queries: Tensor,
    key_pages: Tensor,
    value_pages: Tensor,
    plan: list[tuple[int, list[tuple[int, int]]]],
    scale: float,
    window: int | None,
) -> Tensor:
    num_heads, share = queries.shape[1], queries.shape[1] // key_pages.shape[2]
    output = torch.zeros_like(queries)
    for token, (position, slots) in enumerate(plan):
        first = 0 if window is None else max(0, position - window + 1)
        for head in range(num_heads):
            seen = slots[first : position + 1]
            keys = torch.stack([key_pages[page, offset, head // share] for page, offset in seen])
            values = torch.stack([value_pages[page, offset, head // share] for page, offset in seen])
            weights = torch.softmax(keys @ queries[token, head] * scale, dim=0)
            output[token, head] = weights @ values
    return output.flatten(1)


NAIVE = Ops(
    name="naive",
    embed=lambda ids, table: torch.stack([table[token] for token in ids.tolist()]),
    rms_norm=naive_rms_norm,
    layer_norm=naive_layer_norm,
    head_norm=naive_head_norm,
    pack=lambda weight: weight,
    linear=lambda x, weight, bias: torch.einsum("ti,oi->to", x, weight) + (0 if bias is None else bias),
    activation=naive_activation,
    gated_activation=naive_gated,
    rotary_write=naive_rotary_write,
    plan_attention=naive_plan,
    attention=naive_attention,
)


def in_float64(inputs: Inputs) -> Inputs:
    return {
        name: value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in inputs.items()
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", SPECS)
def test_reference_agrees_with_the_naive_formula(name: str, dtype: torch.dtype) -> None:
    spec = SPECS[name]
    inputs = spec.make(torch.Generator().manual_seed(1), dtype)
    got = spec.run(REFERENCE, inputs)
    wanted = spec.run(NAIVE, in_float64(inputs))
    assert len(got) == len(wanted)
    for ours, exact in zip(got, wanted, strict=True):
        assert ours.dtype == dtype
        assert ours.shape == exact.shape
        difference = (ours.double() - exact).abs().nan_to_num(0)  # NaN marks slots nobody wrote
        assert (ours.isnan() == exact.isnan()).all()
        assert difference.max() <= spec.tolerance[dtype] * exact.abs().nan_to_num(0).max()


def test_every_operation_has_a_spec() -> None:
    """Planning is part of attention's spec, and packing of linear's."""
    operations = {field.name for field in fields(Ops)} - {"name", "plan_attention", "pack"}
    assert operations == set(SPECS)


def test_a_strangers_nan_does_not_reach_a_row() -> None:
    spec = SPECS["attention"]
    inputs = spec.make(torch.Generator().manual_seed(2), torch.float32)
    assert inputs["key_pages"].isnan().any()
    assert not any(output.isnan().any() for output in spec.run(REFERENCE, inputs))


def test_unknown_activation_is_an_error() -> None:
    with pytest.raises(ValueError, match="quick_gelu"):
        REFERENCE.activation(torch.zeros(1), "quick_gelu")


def test_unknown_implementation_is_named() -> None:
    with pytest.raises(ConfigError, match=r"'abacus'.*reference"):
        select("abacus")
