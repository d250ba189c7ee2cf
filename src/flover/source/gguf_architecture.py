"""What a row of `gguf_architectures.py` can say of an architecture of GGUF files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

NAMES = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
}
LAYER_NORM_NAMES = {
    **{key: name for key, name in NAMES.items() if name != "rms_norm_eps"},
    "attention.layer_norm_epsilon": "layer_norm_eps",
}
SLIDING_WINDOW = {"attention.sliding_window": "sliding_window"}


@dataclass(frozen=True, slots=True)
class Variant:
    """What an architecture stands for in files whose metadata have this `value` under `key`; None: any but 0."""

    key: str
    value: Any
    architecture: Architecture


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """What GGUF's name of an architecture stands for: `names` are the keys of a config.json by those of the metadata,
    `fixed` what the metadata leaves out, `flags` the fields that are true if a tensor is there (or have the first of
    two values), `ignored` keys that say nothing, `expected` keys with the one value that is computed, and `needed` keys
    that must be there. `paired`: the rows of queries and keys are in pairs."""

    architecture: str
    model_type: str
    names: Mapping[str, str] = field(default_factory=lambda: NAMES)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    flags: Mapping[str, str | tuple[str, Any, Any]] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    expected: Mapping[str, Any] = field(default_factory=dict)
    needed: tuple[str, ...] = ()
    rotary: bool = True
    rotary_fixed: Mapping[str, Any] = field(default_factory=dict)  # of rope_parameters
    rotary_names: Mapping[str, str] = field(default_factory=dict)  # of rope_parameters, by the keys of the metadata
    local_rotary: bool = False  # layers with a window turn by a base of their own, without scaling
    local_theta: float | None = None  # that base where the file has none; None: that of the other layers
    large_scale: int | None = None  # with so many layers, queries are scaled by the hidden size divided by the heads
    paired: bool = False
    other_vocab: int | None = None  # a vocabulary of this size is that of a model which is not computed
    variants: tuple[Variant, ...] = ()
