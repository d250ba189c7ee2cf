"""The families Flover runs, as data: one row per architecture name of a config.json.

A row says which switches of the decoder a family sets, under which names its config file keeps the numbers, and
which module of a checkpoint becomes which weight of ours. `hf_config.py` reads configs with it, `placement.py`
maps tensors with it. A new family is a new row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from flover.model.config import Activation, NormKind, Residual
from flover.source import Layout

Part = Literal["all", "query", "key", "value", "gate", "up"]


@dataclass(frozen=True, slots=True)
class Flag:
    """A switch that the config file decides: the field's name, and its value where the file has none."""

    name: str
    default: bool


@dataclass(frozen=True, slots=True)
class Target:
    """Where a module of a checkpoint goes: `part` of our `module`, its weight in this `layout`. `{}` is the number of
    the layer."""

    module: str
    part: Part = "all"
    layout: Layout = "plain"


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldNames:
    """What config.json calls a number; None where the family has no such field."""

    hidden_size: str = "hidden_size"
    num_layers: str = "num_hidden_layers"
    num_heads: str = "num_attention_heads"
    num_kv_heads: str | None = "num_key_value_heads"
    head_dim: str | None = "head_dim"
    intermediate_size: str = "intermediate_size"
    max_len: str = "max_position_embeddings"
    norm_eps: str = "rms_norm_eps"
    activation: str = "hidden_act"


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One row. Defaults (`default_…`) are transformers' own for fields that a file leaves out.

    `model_types` are the values of `model_type` that this row computes; the first is the family's own, others are
    checkpoints that are saved under its architecture. `aliases` are further names of the architecture.
    """

    model_types: tuple[str, ...]
    aliases: tuple[str, ...] = ()
    names: FieldNames = FieldNames()
    other_names: Mapping[str, str] = field(default_factory=dict)  # what transformers reads as well, and its own name
    norm: NormKind = "rms"
    gated: bool = True
    residual: Residual | Flag = "sequential"  # a flag chooses "parallel" or "sequential"
    positions: Literal["rotary", "rotary_interleaved", "learned"] = "rotary"
    rotary_share: float | None = None  # part of a head that turns by default; None: whole heads only
    rotary_names: tuple[str, str] = ("rope_theta", "partial_rotary_factor")  # v4 names of base and share
    window: Literal["none", "all", "by_layer"] = "none"  # "all": unless layer_types says which layers have it
    scale_switches: bool = False  # the file may switch the factor on query · key off, or divide it by the layer
    qk_norm: bool = False
    qkv_bias: bool | Flag = False
    attention_out_bias: bool | Flag = False
    mlp_bias: bool | Flag = False
    head_bias: bool = False
    default_tied: bool = False
    default_activation: str = "silu"
    default_norm_eps: float = 1e-6
    default_max_len: int = 2048
    default_head_dim: int | None = None  # None: hidden size divided by heads
    default_window: int | None = None
    neutral: tuple[str, ...] = ()  # keys of `config_keys.py` that say here what is computed anyway
    prefix: str = "model."  # most tensors have it; checkpoints of the bare model do not
    heads: tuple[str, ...] = ("lm_head",)  # names the output projection goes by
    modules: Mapping[str, Target] = field(default_factory=dict)  # under the prefix
    dropped: tuple[str, ...] = ()  # tensors under the prefix that hold no weights


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
    }
)

_LLAMA_MODULES = {
    "embed_tokens": Target("embed"),
    "layers.{}.input_layernorm": Target("layers.{}.attention_norm"),
    "layers.{}.self_attn.q_proj": Target("layers.{}.qkv", "query"),
    "layers.{}.self_attn.k_proj": Target("layers.{}.qkv", "key"),
    "layers.{}.self_attn.v_proj": Target("layers.{}.qkv", "value"),
    "layers.{}.self_attn.q_norm": Target("layers.{}.query_norm"),
    "layers.{}.self_attn.k_norm": Target("layers.{}.key_norm"),
    "layers.{}.self_attn.o_proj": Target("layers.{}.out"),
    "layers.{}.post_attention_layernorm": Target("layers.{}.mlp_norm"),
    "layers.{}.mlp.gate_proj": Target("layers.{}.up", "gate"),
    "layers.{}.mlp.up_proj": Target("layers.{}.up", "up"),
    "layers.{}.mlp.down_proj": Target("layers.{}.down"),
    "norm": Target("final_norm"),
}
_ROTARY_TABLES = tuple(
    f"{module}rotary_emb.{table}"
    for module in ("", "layers.{}.self_attn.", "layers.{}.attention.")
    for table in ("inv_freq", "cos_cached", "sin_cached")
)

_GPT_NAMES = FieldNames(
    hidden_size="n_embd",
    num_layers="n_layer",
    num_heads="n_head",
    num_kv_heads=None,
    head_dim=None,
    intermediate_size="n_inner",
    max_len="n_positions",
    norm_eps="layer_norm_epsilon",
    activation="activation_function",
)

_GPT_OTHER_NAMES = MappingProxyType(
    {
        "hidden_size": "n_embd",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "max_position_embeddings": "n_positions",
    }
)

_GPT2_MODULES = {
    "wte": Target("embed"),
    "wpe": Target("positions"),
    "h.{}.ln_1": Target("layers.{}.attention_norm"),
    "h.{}.attn.c_attn": Target("layers.{}.qkv", layout="transposed"),
    "h.{}.attn.c_proj": Target("layers.{}.out", layout="transposed"),
    "h.{}.ln_2": Target("layers.{}.mlp_norm"),
    "h.{}.mlp.c_fc": Target("layers.{}.up", layout="transposed"),
    "h.{}.mlp.c_proj": Target("layers.{}.down", layout="transposed"),
    "ln_f": Target("final_norm"),
}

_GPTJ_MODULES = {
    "wte": Target("embed"),
    "h.{}.ln_1": Target("layers.{}.attention_norm"),
    "h.{}.attn.q_proj": Target("layers.{}.qkv", "query"),
    "h.{}.attn.k_proj": Target("layers.{}.qkv", "key"),
    "h.{}.attn.v_proj": Target("layers.{}.qkv", "value"),
    "h.{}.attn.out_proj": Target("layers.{}.out"),
    "h.{}.mlp.fc_in": Target("layers.{}.up"),
    "h.{}.mlp.fc_out": Target("layers.{}.down"),
    "ln_f": Target("final_norm"),
}

_NEOX_MODULES = {
    "embed_in": Target("embed"),
    "layers.{}.input_layernorm": Target("layers.{}.attention_norm"),
    "layers.{}.attention.query_key_value": Target("layers.{}.qkv", layout="by_head"),
    "layers.{}.attention.dense": Target("layers.{}.out"),
    "layers.{}.post_attention_layernorm": Target("layers.{}.mlp_norm"),
    "layers.{}.mlp.dense_h_to_4h": Target("layers.{}.up"),
    "layers.{}.mlp.dense_4h_to_h": Target("layers.{}.down"),
    "final_layer_norm": Target("final_norm"),
}

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "LlamaForCausalLM": Family(
            model_types=("llama", "internlm3", "iquestcoder", "exaone"),
            aliases=("LLaMAForCausalLM", "LlamaModel"),
            qkv_bias=Flag("attention_bias", False),
            attention_out_bias=Flag("attention_bias", False),
            mlp_bias=Flag("mlp_bias", False),
            modules=_LLAMA_MODULES,
            dropped=_ROTARY_TABLES,
        ),
        "MistralForCausalLM": Family(
            model_types=("mistral", "ministral"),
            aliases=("MistralModel", "MinistralForCausalLM", "MinistralModel"),
            window="all",
            default_window=4096,
            default_max_len=4096 * 32,
            modules=_LLAMA_MODULES,
            dropped=_ROTARY_TABLES,
        ),
        "Qwen2ForCausalLM": Family(
            model_types=("qwen2",),
            aliases=("Qwen2Model",),
            qkv_bias=True,
            window="by_layer",
            default_window=4096,
            default_max_len=32768,
            modules=_LLAMA_MODULES,
            dropped=_ROTARY_TABLES,
        ),
        "Qwen3ForCausalLM": Family(
            neutral=("qk_norm", "use_qk_norm"),
            model_types=("qwen3",),
            aliases=("Qwen3Model",),
            qk_norm=True,
            qkv_bias=Flag("attention_bias", False),
            attention_out_bias=Flag("attention_bias", False),
            window="by_layer",
            default_window=4096,
            default_max_len=32768,
            default_head_dim=128,
            modules=_LLAMA_MODULES,
            dropped=_ROTARY_TABLES,
        ),
        "GPT2LMHeadModel": Family(
            model_types=("gpt2",),
            aliases=("GPT2Model",),
            other_names=_GPT_OTHER_NAMES,
            names=_GPT_NAMES,
            norm="layer",
            gated=False,
            positions="learned",
            qkv_bias=True,
            attention_out_bias=True,
            mlp_bias=True,
            default_tied=True,
            default_activation="gelu_new",
            default_norm_eps=1e-5,
            default_max_len=1024,
            scale_switches=True,
            neutral=("rotary", "rotary_dim"),
            prefix="transformer.",
            modules=_GPT2_MODULES,
            dropped=("h.{}.attn.bias", "h.{}.attn.masked_bias"),
        ),
        "GPTJForCausalLM": Family(
            model_types=("gptj",),
            aliases=("GPTJModel",),
            other_names=_GPT_OTHER_NAMES,
            names=_GPT_NAMES,
            norm="layer",
            gated=False,
            residual="parallel_shared_norm",
            positions="rotary_interleaved",
            mlp_bias=True,
            head_bias=True,
            default_activation="gelu_new",
            default_norm_eps=1e-5,
            prefix="transformer.",
            modules=_GPTJ_MODULES,
            dropped=("h.{}.attn.bias", "h.{}.attn.masked_bias", "h.{}.attn.embed_positions"),
        ),
        "GPTNeoXForCausalLM": Family(
            model_types=("gpt_neox",),
            aliases=("GPTNeoXModel",),
            names=FieldNames(num_kv_heads=None, head_dim=None, norm_eps="layer_norm_eps"),
            norm="layer",
            gated=False,
            residual=Flag("use_parallel_residual", True),
            rotary_share=0.25,
            rotary_names=("rotary_emb_base", "rotary_pct"),
            qkv_bias=Flag("attention_bias", True),
            attention_out_bias=Flag("attention_bias", True),
            mlp_bias=True,
            default_activation="gelu",
            default_norm_eps=1e-5,
            prefix="gpt_neox.",
            heads=("embed_out", "lm_head"),
            modules=_NEOX_MODULES,
            dropped=(
                "layers.{}.attention.bias",
                "layers.{}.attention.masked_bias",
                *_ROTARY_TABLES,
            ),
        ),
    }
)
