"""The one decoder: every family is this code with other switches (`config.py`) and other weights.

It is written against the op table and knows neither rows nor requests, only a ragged batch and the pages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from flover.memory.kvcache import PageCache
from flover.model.batch import Batch, one_token_batch
from flover.model.config import ModelConfig, RopeConfig
from flover.model.rotary import Rotary
from flover.model.shard import WHOLE, Shard
from flover.ops import Array, Experts, Ops, Pages, RaggedBatch, Weight
from flover.ops.adapters import AdapterTable


@dataclass(frozen=True, slots=True)
class _ForwardInputs:
    """What all layers of one forward share. `angles` has cosines and sines, float32 [T, rotary dim / 2], of every
    rotary embedding of the model, `gates` what it scales queries by."""

    angles: Mapping[RopeConfig | None, tuple[Array | None, Array | None]]
    gates: Mapping[RopeConfig | None, Array | None]
    slots: Array
    attention: Any  # the op table's plan
    adapters: Array | None  # slots of the tokens' adapters
    slopes: Array | None  # float32 [heads]


@dataclass(frozen=True, slots=True)
class Weights:
    """All weights by name (`parameter_shapes`): matrices as the operations keep them, norms and biases as arrays."""

    matrices: Mapping[str, Weight]
    vectors: Mapping[str, Array]

    def under(self, prefix: str) -> Weights:
        """Those whose name begins so, without the beginning."""
        return Weights(
            {name.removeprefix(prefix): w for name, w in self.matrices.items() if name.startswith(prefix)},
            {name.removeprefix(prefix): w for name, w in self.vectors.items() if name.startswith(prefix)},
        )


class Decoder:
    """Weights and the forward through them.

    `weights` holds every name of `parameter_shapes(config)`; `max_len` is the longest context that will be served,
    which some rotary scalings depend on (`rope.py`): with one of these, the positions of a short request's tokens begin
    at `max_len`. A rank of several has the `shard` of a model with `vocab_size`
    tokens, and `config` is its share. `adapters` has tables by the names of the weights that adapters change.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: Weights,
        ops: Ops,
        max_len: int,
        shard: Shard = WHOLE,
        vocab_size: int | None = None,
        adapters: Mapping[str, AdapterTable] | None = None,
    ) -> None:
        self.config = config
        self.ops = ops
        self.max_len = max_len
        self.weights = weights
        self.shard = shard
        self.vocab_size = vocab_size or config.vocab_size
        self.adapters = adapters or {}
        self._layers = tuple(_Layer(config, layer, weights, ops, self.adapters) for layer in range(config.num_layers))
        self._windows = frozenset(layer.window for layer in config.layers)
        self._slopes = ops.array(np.array(config.alibi_slopes, dtype=np.float32)) if config.alibi_slopes else None
        self._captured: Callable[[RaggedBatch], Array] | None = None
        self._captured_for: PageCache | None = None
        switch_len = config.switch_len(max_len)
        self._rotary = {rope: Rotary(rope, ops, max_len, switch_len) for rope in config.ropes}

    def forward(self, batch: Batch, kv: PageCache) -> Array:
        """Compute all tokens of the batch and write their keys and values to `kv`.

        Returns the hidden states [T, hidden] after the final norm; they are valid until the next forward.
        """
        if self.adapters and batch.adapters is None:
            batch = replace(batch, adapters=np.full(batch.num_tokens, -1, dtype=np.int32))
        if self.ops.capture is None or self.ops.captures_one_shape:
            return self._compute(self._own_tokens(batch), kv)
        if self._captured is None or self._captured_for is not kv:
            self._captured = self.capture(one_token_batch(), kv)
            self._captured_for = kv
        return self._captured(self._own_tokens(batch))

    def _own_tokens(self, batch: Batch) -> Batch:
        """With the ids of this rank's part of the embedding; its last row, zero, stands for the ids of other ranks."""
        if self.shard.size == 1:
            return batch
        first, end = self.shard.tokens(self.vocab_size)
        ids = batch.token_ids
        here = (ids >= first) & (ids < end)
        return replace(batch, token_ids=(ids - first) * here + (self.config.vocab_size - 1) * ~here)

    def capture(self, example: Batch, kv: PageCache) -> Callable[[RaggedBatch], Array]:
        """Record the forward of `example`, for operations that can. On a device the ids of each run are in its arrays
        before this rank's part of them is taken."""
        assert self.ops.capture is not None
        own = self._own_tokens if self.ops.captures_one_shape else lambda batch: batch
        constants = [*self.weights.vectors.values(), *(rotary.frequencies for rotary in self._rotary.values())]
        constants += [] if self._slopes is None else [self._slopes]
        return self.ops.capture(lambda: self._compute(own(example), kv), example, constants)

    def _compute(self, batch: Batch, kv: PageCache) -> Array:
        ops, matrices, config = self.ops, self.weights.matrices, self.config
        factor = config.embedding_scale / config.residual_scale
        hidden = ops.all_reduce(ops.embed(batch.token_ids, matrices["embed.weight"], factor))
        if config.learned_positions:
            hidden = ops.add(
                hidden, ops.embed(batch.positions, matrices["positions.weight"], 1 / config.residual_scale)
            )
        if config.embedding_norm:
            hidden, _ = _norm(ops, config, self.weights.vectors, "embedding_norm", None, hidden)
        step = self._prepare(batch, kv.layers[0])
        update: Array | None = None
        for layer, pages in zip(self._layers, kv.layers, strict=True):
            update, hidden = layer.forward(update, hidden, step, pages)
        normed, _ = _norm(ops, config, self.weights.vectors, "final_norm", update, hidden)
        return normed

    def logits(self, hidden: Array) -> Array | None:
        """Scores of the vocabulary, float32 [S, vocab], of hidden states [S, hidden] after the final norm; None on all
        ranks but the first."""
        head = "embed.weight" if self.config.tied_embeddings else "head.weight"
        bias = self.weights.vectors.get("head.bias")
        own = self.ops.linear(hidden, self.weights.matrices[head], bias, None)
        if self.config.final_logit_softcap:
            own = self.ops.softcap(own, self.config.final_logit_softcap)
        if self.shard.size == 1:
            return own
        spans = (Shard(rank, self.shard.size).tokens(self.vocab_size) for rank in range(self.shard.size))
        return self.ops.group.gather(own, [end - first for first, end in spans])

    def _prepare(self, batch: Batch, pages: Pages) -> _ForwardInputs:
        angles: dict[RopeConfig | None, tuple[Array | None, Array | None]] = {None: (None, None)}
        angles |= {rope: rotary.angles(batch.positions) for rope, rotary in self._rotary.items()}
        plan = self.ops.plan_attention(
            batch.page_table,
            batch.query_starts,
            batch.context_lens,
            batch.query_lens_host,
            batch.context_lens_host,
            pages,
            self._windows,
        )
        gates: dict[RopeConfig | None, Array | None] = {
            rope: rotary.gates(batch.positions) for rope, rotary in self._rotary.items()
        }
        return _ForwardInputs(angles, gates, batch.slots, plan, batch.adapters, self._slopes)


def _experts_of(weights: Weights, count: int) -> Experts:
    names = [[f"experts.{expert}.{part}" for expert in range(count)] for part in ("up", "down")]
    matrices = ([weights.matrices[f"{name}.weight"] for name in own] for own in names)
    biases = ([weights.vectors[f"{name}.bias"] for name in own if f"{name}.bias" in weights.vectors] for own in names)
    return Experts(*matrices, *biases)


class _Layer:
    """One block: attention and feed-forward around the residual stream."""

    def __init__(
        self, config: ModelConfig, layer: int, weights: Weights, ops: Ops, adapters: Mapping[str, AdapterTable]
    ) -> None:
        self.config = config
        prefix = f"layers.{layer}."
        self._adapters = {name.removeprefix(prefix): one for name, one in adapters.items() if name.startswith(prefix)}
        self.ops = ops
        self.layer = config.layers[layer]
        self.weights = own = weights.under(prefix)
        self._experts = _experts_of(own, self.layer.experts.count) if self.layer.experts else None
        up = self._experts.up[0] if self._experts else own.matrices["up.weight"]
        readers = {"attention_norm": "qkv", "attention": "out", "shared.up": "shared.down", "up": "down"}
        self._before = {name: _before(ops, own.matrices.get(f"{reader}.weight")) for name, reader in readers.items()}
        self._before["mlp_norm"] = _before(ops, up)

    def forward(self, update: Array | None, hidden: Array, step: _ForwardInputs, pages: Pages) -> tuple[Array, Array]:
        """From the residual stream `hidden`, and the update that is still to be added to it, to the next two."""
        ops = self.ops
        if self.config.residual == "post_norm":
            return self._forward_post_norm(hidden if update is None else ops.add(hidden, update), step, pages)
        normed, hidden = self._norm("attention_norm", update, hidden)
        attended = self._attention(normed, step, pages)
        match self.config.residual:
            case "sequential":
                normed, hidden = self._norm("mlp_norm", attended, hidden)
                return self._feed_forward(normed, step), hidden
            case "sandwich":
                attended = self._post_norm("attention_post_norm", attended)
                normed, hidden = self._norm("mlp_norm", attended, hidden)
                return self._post_norm("mlp_post_norm", self._feed_forward(normed, step)), hidden
            case "parallel":
                normed, hidden = self._norm("mlp_norm", None, hidden)
                return ops.add(self._feed_forward(normed, step), attended), hidden
            case _:  # parallel_shared_norm
                return ops.add(self._feed_forward(normed, step), attended), hidden

    def _forward_post_norm(self, hidden: Array, step: _ForwardInputs, pages: Pages) -> tuple[Array, Array]:
        """The same where the residual stream itself is read."""
        ops = self.ops
        attended = self._attention(hidden, step, pages)
        hidden = ops.add(hidden, self._post_norm("attention_post_norm", attended))
        return self._post_norm("mlp_post_norm", self._feed_forward(hidden, step)), hidden

    def _attention(self, x: Array, step: _ForwardInputs, pages: Pages) -> Array:
        config, ops, vectors = self.config, self.ops, self.weights.vectors
        qkv = self._linear("qkv", x, step)
        qkv = qkv.reshape(qkv.shape[0], -1, config.head_dim)
        layer, norms = self.layer, (vectors.get("query_norm.weight"), vectors.get("key_norm.weight"))
        if config.qk_norm in ("head", "all_heads"):
            qkv = ops.head_norm(qkv, config.num_heads, config.num_kv_heads, *norms, config.norm_eps)
            norms = None, None
        cos, sin = step.angles[layer.rope]
        interleaved = layer.rope is not None and layer.rope.interleaved
        queries = ops.rotary_write(
            qkv, config.num_heads, cos, sin, interleaved, pages, step.slots, *norms, config.norm_eps
        )
        gate = step.gates.get(layer.rope)
        if gate is not None:
            queries = ops.scale_queries(queries, gate)
        scores = config.attn_logit_softcap, step.slopes, vectors.get("sinks.weight")
        attention = self._before["attention"].attention
        seen = attention(queries, pages, step.attention, layer.attention_scale, layer.window, *scores)
        return self._linear("out", seen, step)

    def _feed_forward(self, x: Array, step: _ForwardInputs) -> Array:
        experts, kind = self.layer.experts, self.config.activation
        if experts is None or self._experts is None:
            return self._linear("down", self._linear("up", x, step, kind), step)
        mixed = self.ops.experts(x, self._linear("router", x, step), self._experts, experts.routing, kind)
        if not experts.shared_intermediate_size:
            return mixed
        shared = self._linear("shared.down", self._linear("shared.up", x, step, kind), step)
        if not experts.shared_gate:
            return self.ops.add(mixed, shared)
        return self.ops.add_gated(mixed, shared, self._linear("shared_gate", x, step))

    def _linear(self, name: str, x: Array, step: _ForwardInputs, activation: str | None = None) -> Array:
        weight, bias = self.weights.matrices[f"{name}.weight"], self.weights.vectors.get(f"{name}.bias")
        table, ops = self._adapters.get(f"{name}.weight"), self._before.get(name, self.ops)
        if table is None or ops.adapters is None:
            return ops.linear(x, weight, bias, activation)
        return ops.adapters.linear(x, weight, bias, activation, table, step.adapters)

    def _norm(self, name: str, update: Array | None, hidden: Array) -> tuple[Array, Array]:
        return _norm(self._before[name], self.config, self.weights.vectors, name, update, hidden)

    def _post_norm(self, name: str, x: Array) -> Array:
        """Norm of what is going to be added to the residual stream."""
        return self.ops.rms_norm(x, None, self.weights.vectors[f"{name}.weight"], self.config.norm_eps)[0]


def _before(ops: Ops, weight: Weight | None) -> Ops:
    """The operations whose results are multiplied with that weight next."""
    return ops if ops.prepare is None or weight is None else ops.prepare(ops, weight)


def _norm(
    ops: Ops, config: ModelConfig, vectors: Mapping[str, Array], name: str, update: Array | None, hidden: Array
) -> tuple[Array, Array]:
    """Norm of hidden + update, the residual stream, and that sum."""
    weight, eps = vectors[f"{name}.weight"], config.norm_eps / config.residual_scale**2
    if config.norm == "rms":
        return ops.rms_norm(hidden, update, weight, eps)
    return ops.layer_norm(hidden, update, weight, vectors[f"{name}.bias"], eps)
