"""What every operation means, in plain torch. It is also what runs where no faster implementation does."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from flover.ops import Ops
from flover.ops.paged_attention import attention, plan_attention


def embed(ids: Tensor, table: Tensor) -> Tensor:
    """Rows of the table."""
    return F.embedding(ids, table)


def rms_norm(x: Tensor, residual: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Root mean square norm (Zhang and Sennrich, 2019), after adding the residual."""
    total = x if residual is None else x + residual
    return _rms(total, eps) * weight, total


def layer_norm(x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Layer norm (Ba, Kiros and Hinton, 2016), after adding the residual."""
    total = x if residual is None else x + residual
    return F.layer_norm(total, weight.shape, weight, bias, eps), total


def head_norm(queries_keys: Tensor, num_heads: int, query_weight: Tensor, key_weight: Tensor, eps: float) -> Tensor:
    """RMS norm over each head by itself, with one weight for all query heads and one for all key heads."""
    normed = _rms(queries_keys, eps)
    return torch.cat((normed[:, :num_heads] * query_weight, normed[:, num_heads:] * key_weight), dim=1)


def _rms(x: Tensor, eps: float) -> Tensor:
    wide = x.float()
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype)


def pack(weight: Tensor) -> Tensor:
    """Plain weights stay as they are."""
    return weight


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x times the weight's transpose, plus the bias."""
    return F.linear(x, weight, bias)


def activation(x: Tensor, kind: str) -> Tensor:
    """The named function, entry by entry."""
    match kind:
        case "silu":
            return F.silu(x)
        case "gelu":
            return F.gelu(x)
        case "gelu_tanh":
            return F.gelu(x, approximate="tanh")
        case "relu":
            return F.relu(x)
        case _:
            raise ValueError(f"unknown activation {kind!r}")


def gated_activation(x: Tensor, kind: str) -> Tensor:
    """The first half, activated, times the second half (Shazeer, 2020)."""
    gate, up = x.chunk(2, dim=-1)
    return activation(gate, kind) * up


def rotary_write(
    queries_keys: Tensor,
    values: Tensor,
    cos: Tensor | None,
    sin: Tensor | None,
    interleaved: bool,
    key_pages: Tensor,
    value_pages: Tensor,
    slots: Tensor,
) -> Tensor:
    """Rotary position embedding (Su et al., 2021), then one scatter of keys and one of values."""
    if cos is not None and sin is not None:
        queries_keys = _rotate(queries_keys, cos[:, None, :], sin[:, None, :], interleaved)
    num_heads = queries_keys.shape[1] - values.shape[1]
    key_pages.flatten(0, 1)[slots] = queries_keys[:, num_heads:]
    value_pages.flatten(0, 1)[slots] = values
    return queries_keys[:, :num_heads]


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    dim = 2 * cos.shape[-1]
    turning = x[..., :dim]
    first, second = (turning[..., ::2], turning[..., 1::2]) if interleaved else turning.chunk(2, dim=-1)
    turned = (first * cos - second * sin, second * cos + first * sin)
    both = torch.stack(turned, dim=-1).flatten(-2) if interleaved else torch.cat(turned, dim=-1)
    return torch.cat((both.to(x.dtype), x[..., dim:]), dim=-1) if dim < x.shape[-1] else both.to(x.dtype)


OPS = Ops(
    name="reference",
    embed=embed,
    rms_norm=rms_norm,
    layer_norm=layer_norm,
    head_norm=head_norm,
    pack=pack,
    linear=linear,
    activation=activation,
    gated_activation=gated_activation,
    rotary_write=rotary_write,
    plan_attention=plan_attention,
    attention=attention,
)
