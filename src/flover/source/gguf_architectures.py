"""The architectures of GGUF files that Flover runs, each with the family of Hugging Face that it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_NAMES = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
}
_GPT_NAMES = {
    "context_length": "n_positions",
    "embedding_length": "n_embd",
    "block_count": "n_layer",
    "feed_forward_length": "n_inner",
    "attention.head_count": "n_head",
    "attention.layer_norm_epsilon": "layer_norm_epsilon",
}
_LAYER_NORM_NAMES = {
    **{key: name for key, name in _NAMES.items() if name != "rms_norm_eps"},
    "attention.layer_norm_epsilon": "layer_norm_eps",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """What GGUF's name of an architecture stands for: `names` are the keys of a config.json by those of the metadata,
    `fixed` what the metadata leaves out, `flags` the fields that are true if a tensor is there (or have the first of
    two values), `ignored` keys that say nothing, and `expected` keys with the one value that is computed.
    `paired`: the rows of queries and keys are in pairs."""

    architecture: str
    model_type: str
    names: Mapping[str, str] = field(default_factory=lambda: _NAMES)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    flags: Mapping[str, str | tuple[str, Any, Any]] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    expected: Mapping[str, Any] = field(default_factory=dict)
    rotary: bool = True
    rotary_fixed: Mapping[str, Any] = field(default_factory=dict)  # of rope_parameters
    local_theta: float | None = None  # the rotary base of layers with a window, where they have one of their own
    large_scale: int | None = None  # with so many layers, queries are scaled by the hidden size divided by the heads
    paired: bool = False
    with_experts: Architecture | None = None  # what it stands for in a file with experts


_MIXTRAL = Architecture(
    architecture="MixtralForCausalLM",
    model_type="mixtral",
    names=_NAMES | {"expert_count": "num_local_experts", "expert_used_count": "num_experts_per_tok"},
    paired=True,
)
_GRANITE_SCALES = {
    "embedding_scale": "embedding_multiplier",
    "residual_scale": "residual_multiplier",
    "attention.scale": "attention_multiplier",
    "logit_scale": "logits_scaling",
}
_EXPERT_NAMES = {
    **_NAMES,
    "expert_count": "num_experts",
    "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
}
ARCHITECTURES: Mapping[str, Architecture] = {
    "llama": Architecture(
        architecture="LlamaForCausalLM",
        model_type="llama",
        paired=True,
        with_experts=_MIXTRAL,
        flags={"attention_bias": "blk.0.attn_q.bias", "mlp_bias": "blk.0.ffn_up.bias"},
    ),
    "qwen2": Architecture(architecture="Qwen2ForCausalLM", model_type="qwen2", ignored=("use_parallel_residual",)),
    "qwen3": Architecture(
        architecture="Qwen3ForCausalLM", model_type="qwen3", flags={"attention_bias": "blk.0.attn_q.bias"}
    ),
    "qwen2moe": Architecture(
        architecture="Qwen2MoeForCausalLM",
        model_type="qwen2_moe",
        names=_EXPERT_NAMES | {"expert_shared_feed_forward_length": "shared_expert_intermediate_size"},
        fixed={"norm_topk_prob": False},
        flags={"qkv_bias": "blk.0.attn_q.bias"},
    ),
    "qwen3moe": Architecture(
        architecture="Qwen3MoeForCausalLM",
        model_type="qwen3_moe",
        names=_EXPERT_NAMES,
        fixed={"norm_topk_prob": True},
        flags={"attention_bias": "blk.0.attn_q.bias"},
    ),
    "gpt-oss": Architecture(
        architecture="GptOssForCausalLM",
        model_type="gpt_oss",
        names=_NAMES
        | {
            "expert_count": "num_local_experts",
            "expert_used_count": "num_experts_per_tok",
            "expert_feed_forward_length": "intermediate_size",
            "attention.sliding_window": "sliding_window",
        },
        rotary_fixed={"truncate": False},
        flags={"attention_bias": "blk.0.attn_q.bias"},
    ),
    "olmoe": Architecture(
        architecture="OlmoeForCausalLM",
        model_type="olmoe",
        names=_NAMES | {"expert_count": "num_experts", "expert_used_count": "num_experts_per_tok"},
        fixed={"norm_topk_prob": False},
        flags={"attention_bias": "blk.0.attn_q.bias"},
    ),
    "granitemoe": Architecture(
        architecture="GraniteMoeSharedForCausalLM",
        model_type="granitemoeshared",
        names=_NAMES
        | _GRANITE_SCALES
        | {
            "expert_count": "num_local_experts",
            "expert_used_count": "num_experts_per_tok",
            "expert_shared_feed_forward_length": "shared_intermediate_size",
        },
        fixed={"shared_intermediate_size": 0},
        flags={"attention_bias": "blk.0.attn_q.bias"},
        paired=True,
    ),
    "gpt2": Architecture(architecture="GPT2LMHeadModel", model_type="gpt2", names=_GPT_NAMES, rotary=False),
    "gptneox": Architecture(
        architecture="GPTNeoXForCausalLM",
        model_type="gpt_neox",
        names={key: name for key, name in _LAYER_NORM_NAMES.items() if name != "num_key_value_heads"}
        | {"use_parallel_residual": "use_parallel_residual"},
        flags={"attention_bias": "blk.0.attn_qkv.bias"},
    ),
    "phi2": Architecture(architecture="PhiForCausalLM", model_type="phi", names=_LAYER_NORM_NAMES),
    "phi3": Architecture(
        architecture="Phi3ForCausalLM",
        model_type="phi3",
        names=_NAMES | {"attention.sliding_window": "sliding_window"},
    ),
    "stablelm": Architecture(
        architecture="StableLmForCausalLM",
        model_type="stablelm",
        names=_LAYER_NORM_NAMES | {"use_parallel_residual": "use_parallel_residual"},
        flags={"use_qkv_bias": "blk.0.attn_q.bias"},
    ),
    "starcoder2": Architecture(
        architecture="Starcoder2ForCausalLM",
        model_type="starcoder2",
        names=_NAMES | {"attention.layer_norm_epsilon": "norm_epsilon", "attention.sliding_window": "sliding_window"},
        flags={"use_bias": "blk.0.attn_q.bias"},
    ),
    "seed_oss": Architecture(
        architecture="SeedOssForCausalLM",
        model_type="seed_oss",
        flags={
            "attention_bias": "blk.0.attn_q.bias",
            "attention_out_bias": "blk.0.attn_output.bias",
            "mlp_bias": "blk.0.ffn_up.bias",
        },
    ),
    "smollm3": Architecture(
        architecture="SmolLM3ForCausalLM", model_type="smollm3", fixed={"no_rope_layer_interval": 4}, paired=True
    ),
    "arcee": Architecture(
        architecture="ArceeForCausalLM",
        model_type="arcee",
        paired=True,
        flags={"attention_bias": "blk.0.attn_q.bias", "mlp_bias": "blk.0.ffn_up.bias"},
    ),
    "nemotron": Architecture(
        architecture="NemotronForCausalLM",
        model_type="nemotron",
        names=_NAMES | {"attention.layer_norm_epsilon": "norm_eps"},
        flags={"attention_bias": "blk.0.attn_q.bias", "mlp_bias": "blk.0.ffn_up.bias"},
    ),
    "command-r": Architecture(
        architecture="CohereForCausalLM",
        model_type="cohere",
        names=_LAYER_NORM_NAMES | {"logit_scale": "logit_scale"},
        flags={"attention_bias": "blk.0.attn_q.bias"},
    ),
    "cohere2": Architecture(
        architecture="Cohere2ForCausalLM",
        model_type="cohere2",
        names=_LAYER_NORM_NAMES | {"logit_scale": "logit_scale", "attention.sliding_window": "sliding_window"},
        flags={"attention_bias": "blk.0.attn_q.bias"},
    ),
    "granite": Architecture(
        architecture="GraniteForCausalLM",
        model_type="granite",
        names=_NAMES | _GRANITE_SCALES,
        flags={"attention_bias": "blk.0.attn_q.bias", "mlp_bias": "blk.0.ffn_up.bias"},
        paired=True,
    ),
    "olmo": Architecture(
        architecture="OlmoForCausalLM",
        model_type="olmo",
        ignored=("attention.layer_norm_epsilon",),
        flags={"attention_bias": "blk.0.attn_q.bias"},
        paired=True,
    ),
    "olmo2": Architecture(
        architecture="Olmo2ForCausalLM", model_type="olmo2", flags={"attention_bias": "blk.0.attn_q.bias"}
    ),
    "gemma": Architecture(
        architecture="GemmaForCausalLM", model_type="gemma", flags={"attention_bias": "blk.0.attn_q.bias"}
    ),
    "glm4": Architecture(
        architecture="Glm4ForCausalLM", model_type="glm4", flags={"attention_bias": "blk.0.attn_q.bias"}
    ),
    "ernie4_5": Architecture(
        architecture="Ernie4_5ForCausalLM", model_type="ernie4_5", flags={"use_bias": "blk.0.attn_q.bias"}
    ),
    "exaone": Architecture(architecture="LlamaForCausalLM", model_type="exaone"),
    "exaone4": Architecture(
        architecture="Exaone4ForCausalLM",
        model_type="exaone4",
        names=_NAMES | {"attention.sliding_window": "sliding_window"},
    ),
    "internlm2": Architecture(
        architecture="LlamaForCausalLM",
        model_type="llama",
        paired=True,
        flags={"attention_bias": "blk.0.attn_q.bias"},
    ),
    "xverse": Architecture(architecture="LlamaForCausalLM", model_type="llama", paired=True),
    "hunyuan-dense": Architecture(
        architecture="HunYuanDenseV1ForCausalLM",
        model_type="hunyuan_v1_dense",
        flags={"attention_bias": "blk.0.attn_q.bias"},
    ),
    "gemma2": Architecture(
        architecture="Gemma2ForCausalLM",
        model_type="gemma2",
        names=_NAMES
        | {
            "attention.sliding_window": "sliding_window",
            "attn_logit_softcapping": "attn_logit_softcapping",
            "final_logit_softcapping": "final_logit_softcapping",
        },
        large_scale=46,
    ),
    "starcoder": Architecture(
        architecture="GPTBigCodeForCausalLM",
        model_type="gpt_bigcode",
        names=_GPT_NAMES,
        expected={"attention.head_count_kv": 1},
        rotary=False,
    ),
    "bloom": Architecture(
        architecture="BloomForCausalLM",
        model_type="bloom",
        names={
            "context_length": "seq_length",
            "embedding_length": "hidden_size",
            "block_count": "n_layer",
            "attention.head_count": "n_head",
            "attention.layer_norm_epsilon": "layer_norm_epsilon",
        },
        ignored=("feed_forward_length", "attention.head_count_kv"),
        rotary=False,
    ),
    "mpt": Architecture(
        architecture="MptForCausalLM",
        model_type="mpt",
        names={
            "context_length": "max_seq_len",
            "embedding_length": "d_model",
            "block_count": "n_layers",
            "attention.head_count": "n_heads",
            "attention.layer_norm_epsilon": "layer_norm_epsilon",
            "attention.max_alibi_bias": "alibi_bias_max",
        },
        ignored=("feed_forward_length", "attention.head_count_kv"),
        rotary=False,
    ),
    "falcon": Architecture(
        architecture="FalconForCausalLM",
        model_type="falcon",
        names={
            "context_length": "max_position_embeddings",
            "embedding_length": "hidden_size",
            "block_count": "num_hidden_layers",
            "feed_forward_length": "ffn_hidden_size",
            "attention.head_count": "num_attention_heads",
            "attention.head_count_kv": "num_kv_heads",
            "attention.layer_norm_epsilon": "layer_norm_epsilon",
        },
        fixed={"new_decoder_architecture": True},
        flags={"num_ln_in_parallel_attn": ("blk.0.attn_norm_2.weight", 2, 1)},
    ),
    "gemma3": Architecture(
        architecture="Gemma3ForCausalLM",
        model_type="gemma3_text",
        names=_NAMES | {"attention.sliding_window": "sliding_window"},
        local_theta=10_000.0,
        large_scale=62,
    ),
}
