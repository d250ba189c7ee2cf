"""What a row of `family_rows.py` can say of a family: which switches of the decoder it sets, under which names its
config file keeps the numbers, and which module of a checkpoint becomes which weight of ours. `hf_config.py` reads
configs with it, `placement.py` maps tensors with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from flover.model.config import Activation, NormKind, QKNorm, Residual
from flover.model.family_modules import LLAMA_MODULES, ROTARY_TABLES, Target


@dataclass(frozen=True, slots=True)
class Flag:
    """A switch that the config file decides: the field's name, and its value where the file has none."""

    name: str
    default: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldNames:
    """What config.json calls a number; None where the family has no such field."""

    hidden_size: str = "hidden_size"
    num_layers: str = "num_hidden_layers"
    num_heads: str = "num_attention_heads"
    num_kv_heads: str | None = "num_key_value_heads"
    head_dim: str | None = "head_dim"
    intermediate_size: str | None = "intermediate_size"
    max_len: str = "max_position_embeddings"
    norm_eps: str | None = "rms_norm_eps"
    activation: str | None = "hidden_act"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleNames:
    """What config.json calls factors that are one where it has none; None where the family has no such factor."""

    embedding: str | None = None  # on embeddings
    residual: str | None = None  # on what attention and feed-forward add to the residual stream
    depth: str | None = None  # the same times the root of the number of layers
    attention: str | None = None  # on query · key, in the place of one by the root of the head size
    logits: str | None = None  # on logits
    logits_divisor: str | None = None  # what logits are divided by
    logits_width: str | None = None  # what logits are divided by, as the hidden size divided by this

    @property
    def all(self) -> frozenset[str]:
        """Those that there are."""
        return frozenset(name for name in dataclasses.astuple(self) if name is not None)


@dataclass(frozen=True, slots=True)
class Variant:
    """What is otherwise in a family where config.json's field `name` has this value (None: is missing): fields of
    `Family`."""

    name: str
    value: bool | int | None
    changes: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertNames:
    """What config.json calls the numbers of a mixture of experts, and what a family does with them. `normalized`: their
    weights are the softmax over the chosen ones, else over all; `some_layers`: decoder_sparse_step and mlp_only_layers
    say which layers have experts."""

    count: str = "num_experts"
    top_k: str = "num_experts_per_tok"
    intermediate_size: str = "moe_intermediate_size"
    normalized: bool | Flag = True
    some_layers: bool = False
    shared_intermediate_size: str | None = None
    shared_gate: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One row. Defaults (`default_…`) are transformers' own for fields that a file leaves out.

    `model_types` are the values of `model_type` that this row computes; the first is the family's own, others are
    checkpoints that are saved under its architecture. `aliases` are further names of the architecture.
    """

    model_types: tuple[str, ...]
    aliases: tuple[str, ...] = ()
    by_architecture: bool = False  # other computations have this model_type too
    names: FieldNames = FieldNames()
    other_names: Mapping[str, str] = field(default_factory=dict)  # what transformers reads as well, and its own name
    norm: NormKind = "rms"
    gated: bool = True
    experts: ExpertNames | None = None
    activation: Activation | None = None  # whatever the file says
    sinks: bool = False
    residual: Residual | Flag = "sequential"  # a flag chooses `parallel` or "sequential"
    parallel: Residual = "parallel"
    norm_weight: bool = True  # of norms; else it is one
    norm_bias: bool = True  # of layer norms; else it is zero
    scales: ScaleNames = ScaleNames()
    norm_offset: bool = False  # Hugging Face's files have the weights of norms less one
    scaled_embeddings: bool = False  # by the root of the hidden size
    embedding_norm: bool = False
    softcaps: tuple[float, float] | None = None  # defaults of attn_logit_softcapping and final_logit_softcapping
    positions: Literal["rotary", "rotary_interleaved", "learned", "alibi"] = "rotary"
    rotary_share: float | None = None  # part of a head that turns by default; None: whole heads only
    rotary_names: tuple[str, str] = ("rope_theta", "partial_rotary_factor")  # v4 names of base and share
    rotary_stated: bool = False  # the file must say how angles are stretched
    query_scaled: bool = False  # by their position, as the rotary parameters say
    rotary_kinds: Mapping[str, str] = field(default_factory=dict)  # other names that kinds of scaling have here
    ntk_alpha: bool = False  # "dynamic" scaling may have an alpha
    interleaved: bool = False  # neighbouring dimensions turn together
    # Layers that turn: all, those that no_rope_layers says, or those with a window ("or_all": all if none has one).
    rotary_layers: Literal["all", "listed", "windowed", "windowed_or_all"] = "all"
    default_theta: float = 10_000.0
    local_theta: tuple[str, float] | None = None  # v4 name and default of the base of layers with a window
    # "all": unless layer_types says which layers; "attention_types": GPT-Neo's list of global and local layers
    window: Literal["none", "all", "by_layer", "pattern", "listed", "attention_types"] = "none"
    pattern: int = 6  # every so many layers one has no window
    scale_name: str | None = None  # the factor on query · key is one by the root of this number
    fixed_scale: float | None = None  # on query · key
    scale_switches: bool = False  # the file may switch the factor on query · key off, or divide it by the layer
    alibi_is_scaled: bool = False  # the factor on query · key is one on ALiBi's slopes too
    multi_query: bool | Flag = False  # one key/value head
    qk_norm: QKNorm | None = None
    qkv_bias: bool | Flag = False
    attention_out_bias: bool | Flag = False
    mlp_bias: bool | Flag = False
    head_bias: bool = False
    head_normalized: bool = False  # rows of the output projection have a length of one, whatever the file says
    inner_divisor: int = 1  # of the feed-forward width that the file says
    inner_factor: int | None = None  # the feed-forward width by the hidden size, where the file has none
    default_tied: bool = False
    activations: Mapping[str, str] = field(default_factory=dict)  # other names that activations have here
    default_activation: str = "silu"
    default_norm_eps: float = 1e-6
    default_max_len: int = 2048
    default_head_dim: int | None = None  # None: hidden size divided by heads
    default_window: int | None = None
    required: Mapping[str, Any] = field(default_factory=dict)  # keys, and the one value that is computed
    same_as: Mapping[str, str] = field(default_factory=dict)  # keys, and others whose value they must have
    per_layer: tuple[str, ...] = ()  # keys that may have a list of the same value for every layer
    needed: tuple[str, ...] = ()  # keys without which another computation is meant
    section: str | None = None  # an object of config.json whose keys are read as if they were outside
    variants: tuple[Variant, ...] = ()
    neutral: tuple[str, ...] = ()  # keys of `config_keys.py` that say here what is computed anyway
    prefix: str = "model."  # most tensors have it; checkpoints of the bare model do not
    other_prefixes: tuple[str, ...] = ()  # that they may have instead
    other_parts: tuple[str, ...] = ()  # how tensors of a larger model begin that are left alone
    heads: tuple[str, ...] = ("lm_head",)  # names the output projection goes by
    modules: Mapping[str, Target] = field(default_factory=lambda: LLAMA_MODULES)  # under the prefix
    dropped: tuple[str, ...] = ROTARY_TABLES  # tensors under the prefix that hold no weights


ACTIVATIONS: Mapping[str, Activation] = MappingProxyType(
    {
        "silu": "silu",
        "swish": "silu",
        "gelu": "gelu",
        "gelu_python": "gelu",
        "gelu_new": "gelu_tanh",
        "gelu_fast": "gelu_tanh",
        "gelu_pytorch_tanh": "gelu_tanh",
        "gelu_python_tanh": "gelu_tanh",
        "gelu_accurate": "gelu_tanh",
        "relu": "relu",
        "relu2": "relu2",
        "quick_gelu": "quick_gelu",
    }
)
