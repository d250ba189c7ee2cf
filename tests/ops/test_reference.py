"""The reference operations mean what naive float64 formulas say, on the inputs of the spec."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from flover.errors import ConfigError
from flover.ops import Experts, Ops, Pages, Routing, reference
from ops.spec import SPECS, Inputs

REFERENCE = reference.OPS


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


def naive_head_norm(
    qkv: Tensor, num_heads: int, num_kv_heads: int, query_weight: Tensor, key_weight: Tensor, eps: float
) -> Tensor:
    dim, normed = qkv.shape[2], qkv.clone()
    for row in normed:
        for first, count, weight in ((0, num_heads, query_weight), (num_heads, num_kv_heads, key_weight)):
            step = len(weight) // dim
            for head in range(first, first + count, step):
                row[head : head + step] = (naive_rms(row[head : head + step].flatten(), eps) * weight).view(step, dim)
    return normed


def naive_activation(x: Tensor, kind: str | None) -> Tensor:
    formulas = {
        None: lambda v: v,
        "silu": lambda v: v / (1 + math.exp(-v)),
        "gelu": lambda v: v * (1 + math.erf(v / math.sqrt(2))) / 2,
        "gelu_tanh": lambda v: v * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))) / 2,
        "relu": lambda v: max(v, 0.0),
        "relu2": lambda v: max(v, 0.0) ** 2,
        "quick_gelu": lambda v: v / (1 + math.exp(-1.702 * v)),
    }
    return torch.tensor([formulas[kind](value) for value in x.flatten().tolist()], dtype=x.dtype).view(x.shape)


class NaiveWeight:
    def __init__(self, shape: tuple[int, int], weight_format: str, gated: bool) -> None:
        self.data = torch.zeros(shape, dtype=torch.float64)
        self.gated = gated

    def store(self, first: int, rows: npt.NDArray[np.float32]) -> None:
        self.data[first : first + len(rows)] = torch.from_numpy(rows)


def naive_linear(x: Tensor, weight: NaiveWeight, bias: Tensor | None, kind: str | None) -> Tensor:
    y = torch.einsum("ti,oi->to", x, weight.data) + (0 if bias is None else bias)
    if not weight.gated:
        return naive_activation(y, kind)
    half = y.shape[-1] // 2
    if kind == "swiglu_oai":
        return (y[:, half:].clamp(-7, 7) + 1) * naive_activation(y[:, :half].clamp(max=7), "quick_gelu")
    return naive_activation(y[:, :half], kind) * y[:, half:]


def naive_experts(x: Tensor, scores: Tensor, experts: Experts, routing: Routing, kind: str) -> Tensor:
    rows, up, down = [], experts.up, experts.down
    biases = [list(one) or [None] * len(up) for one in (experts.up_bias, experts.down_bias)]
    for token, own in zip(x, scores.tolist(), strict=True):
        chosen = sorted(range(len(own)), key=lambda expert: (-own[expert], expert))[: routing.top_k]
        total = sum(math.exp(own[expert]) for expert in (chosen if routing.normalized else range(len(own))))
        inner = [naive_linear(token[None], up[e], biases[0][e], kind) for e in chosen]
        results = [naive_linear(one, down[e], biases[1][e], None) for e, one in zip(chosen, inner, strict=True)]
        rows.append(sum(math.exp(own[e]) / total * result[0] for e, result in zip(chosen, results, strict=True)))
    return torch.stack(rows)  # type: ignore[arg-type]


def naive_angles(positions: Tensor, frequencies: Tensor, factor: float) -> tuple[Tensor, Tensor]:
    turned = [[position * frequency for frequency in frequencies.tolist()] for position in positions.tolist()]
    cos = [[factor * math.cos(angle) for angle in row] for row in turned]
    sin = [[factor * math.sin(angle) for angle in row] for row in turned]
    return torch.tensor(cos, dtype=torch.float64), torch.tensor(sin, dtype=torch.float64)


def naive_rotary_write(
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
    num_kv_heads = (qkv.shape[1] - num_heads) // 2
    before, values = qkv[:, :-num_kv_heads], qkv[:, -num_kv_heads:]
    turned = before.clone()
    pairs = 0 if cos is None else cos.shape[1]
    for pair in range(pairs):
        i, j = (2 * pair, 2 * pair + 1) if interleaved else (pair, pair + pairs)
        a, b = before[:, :, i], before[:, :, j]
        c, s = cos[:, pair, None], sin[:, pair, None]
        turned[:, :, i], turned[:, :, j] = a * c - b * s, b * c + a * s
    if query_norm is not None and key_norm is not None:
        turned[:, :num_heads] = naive_rms(turned[:, :num_heads], eps) * query_norm
        turned[:, num_heads:] = naive_rms(turned[:, num_heads:], eps) * key_norm
    for token, slot in enumerate(slots.tolist()):
        page, offset = divmod(slot, pages.page_size)
        pages.keys[page, offset] = turned[token, num_heads:]
        pages.values[page, offset] = values[token]
    return turned[:, :num_heads]


def naive_plan(
    page_table: Tensor,
    query_starts: Tensor,
    context_lens: Tensor,
    query_lens_host: Sequence[int],
    context_lens_host: Sequence[int],
    pages: Pages,
    windows: frozenset[int | None],
) -> list[tuple[int, list[tuple[int, int]]]]:
    """For every token its position and, position by position, the (page, offset) of its row."""
    plan = []
    for row, (query_len, context_len) in enumerate(zip(query_lens_host, context_lens_host, strict=True)):
        size = pages.page_size
        slots = [(int(page_table[row, position // size]), position % size) for position in range(context_len)]
        plan += [(context_len - query_len + i, slots) for i in range(query_len)]
    return plan


def naive_attention(
    queries: Tensor,
    pages: Pages,
    plan: list[tuple[int, list[tuple[int, int]]]],
    scale: float,
    window: int | None,
    softcap: float = 0.0,
    slopes: Tensor | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    num_heads, share = queries.shape[1], queries.shape[1] // pages.keys.shape[2]
    output = torch.zeros_like(queries)
    for token, (position, slots) in enumerate(plan):
        first = 0 if window is None else max(0, position - window + 1)
        for head in range(num_heads):
            seen = slots[first : position + 1]
            keys = torch.stack([pages.keys[page, offset, head // share] for page, offset in seen])
            values = torch.stack([pages.values[page, offset, head // share] for page, offset in seen])
            scores = keys @ queries[token, head] * scale
            if softcap:
                scores = softcap * torch.tanh(scores / softcap)
            if slopes is not None:
                scores = scores - slopes[head] * (position - torch.arange(first, position + 1))
            weights = scores.exp()
            output[token, head] = weights @ values / (weights.sum() + (0 if sinks is None else sinks[head].exp()))
    return output.flatten(1)


NAIVE = Ops(
    name="naive",
    array=REFERENCE.array,
    page_shapes=reference.page_shapes,
    new_weight=NaiveWeight,  # type: ignore[arg-type]
    embed=lambda ids, table, factor: factor * torch.stack([table.data[token] for token in ids.tolist()]),
    rms_norm=naive_rms_norm,
    layer_norm=naive_layer_norm,
    head_norm=naive_head_norm,
    linear=naive_linear,
    experts=naive_experts,
    add_gated=lambda x, y, gate: x + y / (1 + (-gate).exp()),
    scale_queries=lambda queries, gate: queries + queries / (1 + (-gate[..., None]).exp()),
    angles=naive_angles,
    rotary_write=naive_rotary_write,
    plan_attention=naive_plan,
    attention=naive_attention,
    add=lambda x, y: x + y,
    softcap=lambda x, cap: cap * torch.tanh(x / cap),
    argmax=REFERENCE.argmax,
    logsumexp=REFERENCE.logsumexp,
    sample=REFERENCE.sample,
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
        assert ours.dtype == (torch.float32 if name == "angles" else dtype)
        assert ours.shape == exact.shape
        difference = (ours.double() - exact).abs().nan_to_num(0)  # NaN marks slots nobody wrote
        assert (ours.isnan() == exact.isnan()).all()
        assert difference.max() <= spec.tolerance[dtype] * exact.abs().nan_to_num(0).max()


def test_every_operation_has_a_spec() -> None:
    """Planning and pages are part of attention's spec, packing of linear's, joining of the block formats' tests; draws
    are held to plain Python by `tests/model/test_sampling.py`."""
    others = {"name", "array", "page_shapes", "new_weight", "join", "plan_attention", "capture", "captures_one_shape"}
    others |= {"argmax", "logsumexp", "sample"}
    others |= {"adapters", "prepare"}  # `test_cpu_adapters.py`, `test_cuda_prepared.py`
    others |= {"kernel_seconds", "group", "all_reduce"}  # the last two: `tests/parallel`
    operations = {field.name for field in fields(Ops)} - others
    assert operations == set(SPECS)


def test_a_strangers_nan_does_not_reach_a_row() -> None:
    spec = SPECS["attention"]
    inputs = spec.make(torch.Generator().manual_seed(2), torch.float32)
    assert inputs["key_pages"].isnan().any()
    assert not any(output.isnan().any() for output in spec.run(REFERENCE, inputs))


def test_unknown_activation_is_an_error() -> None:
    weight = REFERENCE.new_weight((2, 2), "float32", False)
    with pytest.raises(ValueError, match="laplace"):
        REFERENCE.linear(torch.zeros(1, 2), weight, None, "laplace")


def test_the_reference_has_no_quantized_weights() -> None:
    with pytest.raises(ConfigError, match="int8"):
        REFERENCE.new_weight((2, 2), "int8", False)
