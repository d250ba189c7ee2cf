"""The table of operations that the decoder is written against, and the choice of who computes them.

An implementation is one `Ops` value: plain functions of tensors and numbers. `reference.py` says in plain torch what
each operation means; `spec.py` has inputs and tolerances to hold every other implementation against it. Nothing
here knows of models, rows or requests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from flover.errors import ConfigError


class PlanAttention(Protocol):
    """Once per forward: what `attention` needs of the batch in every layer. The result is the implementation's own.

    `page_table` int32 [R, P]; query and context lengths of the R rows on the host; `pages` are the keys of one layer
    (for their shape and type; all layers are alike); `windows` are the different sliding windows of the model's
    layers, None among them for layers that see everything. A plan is for one forward: it may hold work space.
    """

    def __call__(
        self,
        page_table: Tensor,
        query_lens: Sequence[int],
        context_lens: Sequence[int],
        pages: Tensor,
        windows: frozenset[int | None],
    ) -> Any: ...


class RotaryWrite(Protocol):
    """Turn queries and keys by their positions and write keys and values to the pages; returns the queries.

    `queries_keys` [T, num_heads + num_kv_heads, d], `values` [T, num_kv_heads, d]; `cos`, `sin` float32 [T, dim/2]
    turn the first dim dimensions of a head (None: nothing turns); `key_pages`, `value_pages`
    [num_pages, page_size, num_kv_heads, d]; `slots` int64 [T] = page * page_size + offset.
    """

    def __call__(
        self,
        queries_keys: Tensor,
        values: Tensor,
        cos: Tensor | None,
        sin: Tensor | None,
        interleaved: bool,
        key_pages: Tensor,
        value_pages: Tensor,
        slots: Tensor,
    ) -> Tensor: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Ops:
    """One implementation. T tokens, H the hidden size, d the size of a head.

    Norms take (x, residual, …): they add the residual first if there is one, and return the normed sum and the sum
    itself, which is the next residual. Results have x's dtype; sums and roots are taken in float32.
    """

    name: str
    embed: Callable[[Tensor, Tensor], Tensor]
    """(ids int64 [T], table [V, H]) -> [T, H]"""
    rms_norm: Callable[[Tensor, Tensor | None, Tensor, float], tuple[Tensor, Tensor]]
    """(x [T, H], residual [T, H] or None, weight [H], eps) -> (normed, sum)"""
    layer_norm: Callable[[Tensor, Tensor | None, Tensor, Tensor, float], tuple[Tensor, Tensor]]
    """(x [T, H], residual [T, H] or None, weight [H], bias [H], eps) -> (normed, sum)"""
    head_norm: Callable[[Tensor, int, Tensor, Tensor, float], Tensor]
    """(queries then keys [T, h + k, d], h, query weight [d], key weight [d], eps) -> RMS norm of every head"""
    pack: Callable[[Tensor], Tensor]
    """weight [O, I] -> the same weight in the layout that `linear` likes best; once per weight, when it is loaded"""
    linear: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    """(x [T, I], weight [O, I] packed or plain, bias [O] or None) -> [T, O]"""
    activation: Callable[[Tensor, str], Tensor]
    """(x [T, I], kind) -> kind(x); kinds are silu, gelu, gelu_tanh, relu"""
    gated_activation: Callable[[Tensor, str], Tensor]
    """(x [T, 2 I]: gate, then up; kind) -> kind(gate) * up [T, I]"""
    rotary_write: RotaryWrite
    plan_attention: PlanAttention
    attention: Callable[[Tensor, Tensor, Tensor, Any, float, int | None], Tensor]
    """(queries [T, h, d], key pages, value pages, plan, scale, window) -> [T, h * d]

    Token t of a row sees the keys of its row at positions max(0, p - window + 1) to p, p being its own.
    """


def select(name: str) -> Ops:
    """The implementation of that name. Raises `ConfigError` if there is none."""
    from flover.ops import onednn, reference  # here, because implementations import this table

    implementations = {ops.name: ops for ops in (reference.OPS, onednn.OPS)}
    if name not in implementations:
        raise ConfigError(f"unknown ops {name!r}; there are: {', '.join(implementations)}")
    return implementations[name]


def best_for(dtype: torch.dtype) -> str:
    """Name of the fastest implementation for weights of this type on this machine's CPU."""
    from flover.ops import onednn

    return "onednn" if dtype == torch.float32 and onednn.is_available() else "reference"


__all__ = ["Ops", "PlanAttention", "RotaryWrite", "best_for", "select"]
