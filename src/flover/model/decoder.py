"""The one decoder: every family is this code with other switches (`config.py`) and other weights.

It is written against the op table and knows neither rows nor requests, only a ragged batch and the pages.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flover.memory.kvcache import KVCache
from flover.model.batch import Batch
from flover.model.config import ModelConfig
from flover.model.rope import inverse_frequencies
from flover.ops import Ops


@dataclass(frozen=True, slots=True)
class _Step:
    """What all layers of one forward share."""

    cos: Tensor | None  # float32 [T, rotary dim / 2]
    sin: Tensor | None
    slots: Tensor
    attention: Any  # the op table's plan


class Decoder:
    """Weights and the forward through them.

    `weights` holds every name of `parameter_shapes(config)`; `max_len` is the longest context that will be served,
    which some rotary scalings depend on (`rope.py`).
    """

    def __init__(self, config: ModelConfig, weights: Mapping[str, Tensor], ops: Ops, max_len: int) -> None:
        self.config = config
        self.ops = ops
        self.max_len = max_len
        self.weights = weights
        self._layers = tuple(_Layer(config, layer, weights, ops) for layer in range(config.num_layers))
        self._windows = frozenset(config.sliding_window)
        self._frequencies: Tensor | None = None
        self._rotary_scale = 1.0
        if config.rope is not None:
            self._frequencies, self._rotary_scale = inverse_frequencies(config.rope, max_len)
            self._frequencies = self._frequencies.to(weights["embed.weight"].device)

    @torch.inference_mode()
    def forward(self, batch: Batch, kv: KVCache) -> Tensor:
        """Compute all tokens of the batch and write their keys and values to `kv`.

        Returns the hidden states [T, hidden] after the final norm, in the dtype of the weights.
        """
        ops, weights = self.ops, self.weights
        hidden = ops.embed(batch.token_ids, weights["embed.weight"])
        if self.config.learned_positions:
            hidden = hidden + ops.embed(batch.positions, weights["positions.weight"])
        step = self._prepare(batch, kv.keys[0])
        update: Tensor | None = None
        for layer, keys, values in zip(self._layers, kv.keys, kv.values, strict=True):
            update, hidden = layer.forward(update, hidden, step, keys, values)
        normed, _ = _norm(ops, self.config, weights, "final_norm", update, hidden)
        return normed

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of the vocabulary, float32 [S, vocab], of hidden states [S, hidden] after the final norm."""
        head = "embed.weight" if self.config.tied_embeddings else "head.weight"
        return self.ops.linear(hidden, self.weights[head], self.weights.get("head.bias")).float()

    def _prepare(self, batch: Batch, pages: Tensor) -> _Step:
        cos = sin = None
        if self._frequencies is not None:
            angles = batch.positions[:, None].float() * self._frequencies
            cos, sin = angles.cos() * self._rotary_scale, angles.sin() * self._rotary_scale
        plan = self.ops.plan_attention(
            batch.page_table, batch.query_lens_host, batch.context_lens_host, pages, self._windows
        )
        return _Step(cos, sin, batch.slots, plan)


class _Layer:
    """One block: attention and feed-forward around the residual stream."""

    def __init__(self, config: ModelConfig, layer: int, weights: Mapping[str, Tensor], ops: Ops) -> None:
        prefix = f"layers.{layer}."
        self.config = config
        self.ops = ops
        self.scale = config.attention_scale[layer]
        self.window = config.sliding_window[layer]
        self.weights = {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}

    def forward(
        self, update: Tensor | None, hidden: Tensor, step: _Step, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor]:
        """From the residual stream `hidden`, and the update that is still to be added to it, to the next two."""
        normed, hidden = self._norm("attention_norm", update, hidden)
        attended = self._attention(normed, step, keys, values)
        match self.config.residual:
            case "sequential":
                normed, hidden = self._norm("mlp_norm", attended, hidden)
                return self._feed_forward(normed), hidden
            case "parallel":
                normed, hidden = self._norm("mlp_norm", None, hidden)
                return self._feed_forward(normed) + attended, hidden
            case "parallel_shared_norm":
                return self._feed_forward(normed) + attended, hidden

    def _attention(self, x: Tensor, step: _Step, keys: Tensor, values: Tensor) -> Tensor:
        config, ops = self.config, self.ops
        packed = self._linear("qkv", x).view(x.shape[0], -1, config.head_dim)
        num_turning = config.num_heads + config.num_kv_heads
        queries_keys, new_values = packed[:, :num_turning], packed[:, num_turning:]
        if config.qk_norm:
            query_weight, key_weight = self.weights["query_norm.weight"], self.weights["key_norm.weight"]
            queries_keys = ops.head_norm(queries_keys, config.num_heads, query_weight, key_weight, config.norm_eps)
        interleaved = config.rope is not None and config.rope.interleaved
        queries = ops.rotary_write(queries_keys, new_values, step.cos, step.sin, interleaved, keys, values, step.slots)
        return self._linear("out", ops.attention(queries, keys, values, step.attention, self.scale, self.window))

    def _feed_forward(self, x: Tensor) -> Tensor:
        activate = self.ops.gated_activation if self.config.gated else self.ops.activation
        return self._linear("down", activate(self._linear("up", x), self.config.activation))

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return self.ops.linear(x, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"))

    def _norm(self, name: str, update: Tensor | None, hidden: Tensor) -> tuple[Tensor, Tensor]:
        return _norm(self.ops, self.config, self.weights, name, update, hidden)


def _norm(
    ops: Ops, config: ModelConfig, weights: Mapping[str, Tensor], name: str, update: Tensor | None, hidden: Tensor
) -> tuple[Tensor, Tensor]:
    """Norm of hidden + update, and that sum."""
    weight = weights[f"{name}.weight"]
    if config.norm == "rms":
        return ops.rms_norm(hidden, update, weight, config.norm_eps)
    return ops.layer_norm(hidden, update, weight, weights[f"{name}.bias"], config.norm_eps)
