"""What every operation means, in plain torch; sampling in plain numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from flover.errors import ConfigError, InvariantError
from flover.ops import Experts, Ops, Pages, Part, Routing, WeightFormat
from flover.ops.adapters import AdapterPart
from flover.ops.group import tree_sum
from flover.ops.order import argmax, logsumexp
from flover.ops.paged_attention import attention, plan_attention, tensor_pages
from flover.ops.sampling import sample
from flover.source.numbers import widen
from flover.weight_formats import segments_of

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class PlainWeight:
    """A matrix as it is."""

    data: Tensor  # [out, in]
    gated: bool = False
    part: Part | None = None
    segments: int = 1  # of equally many inputs, each summed by itself

    @property
    def shape(self) -> tuple[int, int]:
        return self.data.shape[0], self.data.shape[1]

    @property
    def num_bytes(self) -> int:
        return self.data.nbytes

    def store(self, first: int, rows: npt.NDArray[np.float32]) -> None:
        """Copy."""
        start = self.part.start if self.part else 0
        self.data[first : first + len(rows)] = torch.from_numpy(rows[:, start : start + self.shape[1]])

    def store_blocks(self, first: int, rows: npt.NDArray[np.uint8], order: npt.NDArray[np.int32] | None = None) -> None:
        """There are no blocks here. Raises `InvariantError`."""
        raise InvariantError("the reference operations have no weights in blocks")


def new_weight(
    shape: tuple[int, int], weight_format: WeightFormat, gated: bool, part: Part | None = None
) -> PlainWeight:
    """Room for a float matrix. Raises `ConfigError` for quantized formats, which plain torch has no meaning for."""
    if weight_format not in _DTYPES:
        raise ConfigError(f"the reference operations have no {weight_format} weights")
    segments = segments_of(weight_format, part.whole, shape[1]) if part else 1
    return PlainWeight(torch.zeros(shape, dtype=_DTYPES[weight_format]), gated, part, segments)


def page_shapes(
    num_pages: int, page_size: int, num_kv_heads: int, head_dim: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Token by token, keys as values."""
    shape = (num_pages, page_size, num_kv_heads, head_dim)
    return shape, shape


def embed(ids: Tensor, table: PlainWeight, factor: float) -> Tensor:
    """Rows of the table, times the factor."""
    return F.embedding(ids, table.data) * factor


def rms_norm(x: Tensor, residual: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Root mean square norm (Zhang and Sennrich, 2019), after adding the residual."""
    total = x if residual is None else x + residual
    return _rms(total, eps) * weight, total


def layer_norm(x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Layer norm (Ba, Kiros and Hinton, 2016), after adding the residual."""
    total = x if residual is None else x + residual
    return F.layer_norm(total, weight.shape, weight, bias, eps), total


def head_norm(
    qkv: Tensor, num_heads: int, num_kv_heads: int, query_weight: Tensor, key_weight: Tensor, eps: float
) -> Tensor:
    """RMS norm of every len(weight) numbers: one head by itself, or all of them."""
    queries, keys, values = torch.split(qkv, [num_heads, num_kv_heads, num_kv_heads], dim=1)
    normed = [
        (_rms(part.reshape(len(qkv), -1, len(weight)), eps) * weight).view(part.shape)
        for part, weight in ((queries, query_weight), (keys, key_weight))
    ]
    return torch.cat((*normed, values), dim=1)


def _rms(x: Tensor, eps: float) -> Tensor:
    wide = x.float()
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype)


def linear(x: Tensor, weight: PlainWeight, bias: Tensor | None, kind: str | None) -> Tensor:
    """x times the weight's transpose, plus the bias, activated; gated: the first half, activated, times the second
    half (Shazeer, 2020)."""
    return _activated(_product(x, weight, bias), weight, kind)


def _activated(y: Tensor, weight: PlainWeight, kind: str | None) -> Tensor:
    if weight.gated:
        gate, up = y.chunk(2, dim=-1)
        if kind == "swiglu_oai":
            return (up.clamp(-7, 7) + 1) * activation(gate.clamp(max=7), "quick_gelu")
        return activation(gate, kind) * up
    return activation(y, kind)


@dataclass(frozen=True, slots=True)
class PlainTable:
    """The parts of every slot as they are."""

    slots: list[Sequence[AdapterPart]]

    def put(self, slot: int, parts: Sequence[AdapterPart]) -> None:
        """Keep them."""
        self.slots[slot] = parts


class Adapters:
    """Linears with adapters (Hu et al., arXiv:2106.09685), row by row."""

    def new_table(self, num_slots: int, num_parts: int, shape: tuple[int, int]) -> PlainTable:
        """Empty slots."""
        return PlainTable([()] * num_slots)

    def linear(
        self, x: Tensor, weight: PlainWeight, bias: Tensor | None, kind: str | None, table: PlainTable, slots: Tensor
    ) -> Tensor:
        """up · (down · x) is added before the activation."""
        y = _product(x, weight, bias)
        for row, slot in enumerate(slots.tolist()):
            for part in table.slots[slot] if slot >= 0 else ():
                down, up = torch.from_numpy(widen(part.down)), part.scale * torch.from_numpy(widen(part.up))
                y[row, part.first : part.first + len(up)] += (up @ (down @ x[row].float())).to(y.dtype)
        return _activated(y, weight, kind)


def _product(x: Tensor, weight: PlainWeight, bias: Tensor | None) -> Tensor:
    """Of inputs that ranks share it is a tree over segments, as they compute it. Beside bfloat16, float32 is rounded to
    it; sums stay float32."""
    data = weight.data
    if data.dtype == torch.bfloat16 and x.dtype == torch.float32:
        x, data = x.bfloat16().float(), data.float()
    if weight.segments == 1:
        return F.linear(x, data, bias)
    pieces = zip(*(matrix.float().chunk(weight.segments, -1) for matrix in (x, data)), strict=True)
    y: Tensor = tree_sum([F.linear(*piece) for piece in pieces])
    return (y if bias is None else y + bias).to(x.dtype)


def experts(x: Tensor, scores: Tensor, mixture: Experts, routing: Routing, kind: str) -> Tensor:
    """Each token's chosen experts, one after another, weighted."""
    ranked = scores.float().sort(dim=-1, descending=True, stable=True)
    ids, chosen = ranked.indices[:, : routing.top_k], ranked.values[:, : routing.top_k]
    weights = chosen.softmax(-1) if routing.normalized else ranked.values.softmax(-1)[:, : routing.top_k]
    y = torch.zeros_like(x, dtype=torch.float32)
    for place in range(routing.top_k):
        for expert in sorted(set(ids[:, place].tolist())):
            rows = ids[:, place] == expert
            biases = [bias[expert] if bias else None for bias in (mixture.up_bias, mixture.down_bias)]
            inner = linear(x[rows], cast(PlainWeight, mixture.up[expert]), biases[0], kind)
            out = linear(inner, cast(PlainWeight, mixture.down[expert]), biases[1], None)
            y[rows] += weights[rows, place, None] * out
    return y.to(x.dtype)


def add_gated(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    """The second term through a gate of its own for each token."""
    return x + torch.sigmoid(gate) * y


def scale_queries(queries: Tensor, gate: Tensor) -> Tensor:
    """Every query times a number of its token."""
    return (queries * (1 + torch.sigmoid(gate.float()))[:, :, None]).to(queries.dtype)


def activation(x: Tensor, kind: str | None) -> Tensor:
    """The named function, entry by entry."""
    match kind:
        case None:
            return x
        case "silu":
            return F.silu(x)
        case "gelu":
            return F.gelu(x)
        case "gelu_tanh":
            return F.gelu(x, approximate="tanh")
        case "relu":
            return F.relu(x)
        case "relu2":
            return F.relu(x).square()
        case "quick_gelu":
            return x * torch.sigmoid(1.702 * x)
        case _:
            raise ValueError(f"unknown activation {kind!r}")


def angles(positions: Tensor, frequencies: Tensor, factor: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines of position times frequency."""
    turned = positions[:, None].float() * frequencies
    return turned.cos() * factor, turned.sin() * factor


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
    """Rotary position embedding (Su et al., 2021), then one scatter of keys and one of values."""
    pages = tensor_pages(pages)
    num_kv_heads = (qkv.shape[1] - num_heads) // 2
    queries_keys, values = qkv[:, :-num_kv_heads], qkv[:, -num_kv_heads:]
    if cos is not None and sin is not None:
        queries_keys = _rotate(queries_keys, cos[:, None, :], sin[:, None, :], interleaved)
    if query_norm is not None and key_norm is not None:
        weights = torch.cat((query_norm.expand(num_heads, -1), key_norm.expand(num_kv_heads, -1)))
        queries_keys = (_rms(queries_keys, eps) * weights).to(qkv.dtype)
    pages.keys.flatten(0, 1)[slots] = queries_keys[:, num_heads:]
    pages.values.flatten(0, 1)[slots] = values
    return queries_keys[:, :num_heads]


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    dim = 2 * cos.shape[-1]
    turning = x[..., :dim]
    first, second = (turning[..., ::2], turning[..., 1::2]) if interleaved else turning.chunk(2, dim=-1)
    turned = (first * cos - second * sin, second * cos + first * sin)
    both = torch.stack(turned, dim=-1).flatten(-2) if interleaved else torch.cat(turned, dim=-1)
    return torch.cat((both.to(x.dtype), x[..., dim:]), dim=-1) if dim < x.shape[-1] else both.to(x.dtype)


def softcap(x: Tensor, cap: float) -> Tensor:
    """Numbers bent towards -cap and cap."""
    return x.div_(cap).tanh_().mul_(cap)


OPS = Ops(
    name="reference",
    array=torch.from_numpy,
    page_shapes=page_shapes,
    new_weight=new_weight,
    embed=embed,  # type: ignore[arg-type]  # weights are this module's own
    rms_norm=rms_norm,
    layer_norm=layer_norm,
    head_norm=head_norm,
    linear=linear,  # type: ignore[arg-type]
    experts=experts,
    add_gated=add_gated,
    angles=angles,
    rotary_write=rotary_write,
    scale_queries=scale_queries,
    plan_attention=plan_attention,
    attention=attention,
    add=torch.add,
    softcap=softcap,
    argmax=argmax,
    logsumexp=logsumexp,
    sample=sample,
    adapters=Adapters(),
)
