"""The architectures of GGUF files that Flover runs, each with the family of Hugging Face that it is."""

from __future__ import annotations

from collections.abc import Mapping

from flover.source.gguf_architecture import NAMES, SLIDING_WINDOW, Architecture, Variant
from flover.source.gguf_layer_norm_architectures import LAYER_NORM_ARCHITECTURES

_BAICHUAN_2_VOCAB = 125696
_MIXTRAL = Architecture(
    architecture="MixtralForCausalLM",
    model_type="mixtral",
    names=NAMES | {"expert_count": "num_local_experts", "expert_used_count": "num_experts_per_tok"},
    paired=True,
)
_GRANITE_SCALES = {
    "embedding_scale": "embedding_multiplier",
    "residual_scale": "residual_multiplier",
    "attention.scale": "attention_multiplier",
    "logit_scale": "logits_scaling",
}
_EXPERT_NAMES = {
    **NAMES,
    "expert_count": "num_experts",
    "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
}
_OLMO3 = Architecture(
    architecture="Olmo3ForCausalLM",
    model_type="olmo3",
    names=NAMES | SLIDING_WINDOW,
    local_rotary=True,
    flags={"attention_bias": "blk.0.attn_q.bias"},
)
_MINISTRAL3 = Architecture(
    architecture="Ministral3ForCausalLM",
    model_type="ministral3",
    rotary_names={"attention.temperature_scale": "llama_4_scaling_beta"},
    paired=True,
)
_BAICHUAN_13B = Architecture(
    architecture="BaichuanForCausalLM",
    model_type="baichuan",
    names=NAMES | {"context_length": "model_max_length"},
    ignored=("attention.head_count_kv", "rope.dimension_count"),
    rotary=False,
    paired=True,
    other_vocab=_BAICHUAN_2_VOCAB,
)
ARCHITECTURES: Mapping[str, Architecture] = {
    "llama": Architecture(
        architecture="LlamaForCausalLM",
        model_type="llama",
        paired=True,
        variants=(Variant("expert_count", None, _MIXTRAL),),
        flags={"attention_bias": "blk.0.attn_q.bias", "mlp_bias": "blk.0.ffn_up.bias"},
    ),
    "mistral3": Architecture(
        architecture="MistralForCausalLM",
        model_type="mistral",
        fixed={"sliding_window": None},
        paired=True,
        variants=(Variant("attention.temperature_scale", None, _MINISTRAL3),),
    ),
    "qwen": Architecture(
        architecture="QWenLMHeadModel",
        model_type="qwen",
        names=NAMES | {"context_length": "seq_length", "attention.layer_norm_rms_epsilon": "layer_norm_epsilon"},
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
        names=NAMES
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
        names=NAMES | {"expert_count": "num_experts", "expert_used_count": "num_experts_per_tok"},
        fixed={"norm_topk_prob": False},
        flags={"attention_bias": "blk.0.attn_q.bias"},
    ),
    "granitemoe": Architecture(
        architecture="GraniteMoeSharedForCausalLM",
        model_type="granitemoeshared",
        names=NAMES
        | _GRANITE_SCALES
        | {
            "expert_count": "num_local_experts",
            "expert_used_count": "num_experts_per_tok",
            "expert_shared_feed_forward_length": "shared_intermediate_size",
        },
        fixed={"shared_intermediate_size": 0},
        expected={"rope.scaling.finetuned": True},
        flags={"attention_bias": "blk.0.attn_q.bias"},
        paired=True,
    ),
    "phi3": Architecture(
        architecture="Phi3ForCausalLM",
        model_type="phi3",
        names=NAMES | SLIDING_WINDOW,
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
    "granite": Architecture(
        architecture="GraniteForCausalLM",
        model_type="granite",
        names=NAMES | _GRANITE_SCALES,
        expected={"rope.scaling.finetuned": True},
        flags={"attention_bias": "blk.0.attn_q.bias", "mlp_bias": "blk.0.ffn_up.bias"},
        paired=True,
    ),
    "minicpm": Architecture(
        architecture="GraniteForCausalLM",
        model_type="granite",
        names=NAMES | _GRANITE_SCALES,
        needed=("embedding_scale", "residual_scale", "logit_scale"),
        paired=True,
    ),
    "olmo2": Architecture(
        architecture="Olmo2ForCausalLM",
        model_type="olmo2",
        flags={"attention_bias": "blk.0.attn_q.bias"},
        variants=(Variant("attention.sliding_window", None, _OLMO3),),
    ),
    "gemma": Architecture(
        architecture="GemmaForCausalLM", model_type="gemma", flags={"attention_bias": "blk.0.attn_q.bias"}
    ),
    "chatglm": Architecture(
        architecture="GlmForCausalLM", model_type="glm", flags={"attention_bias": "blk.0.attn_q.bias"}
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
        names=NAMES | SLIDING_WINDOW,
    ),
    "internlm2": Architecture(
        architecture="LlamaForCausalLM",
        model_type="llama",
        paired=True,
        flags={"attention_bias": "blk.0.attn_q.bias"},
    ),
    "baichuan": Architecture(
        architecture="LlamaForCausalLM",
        model_type="llama",
        paired=True,
        other_vocab=_BAICHUAN_2_VOCAB,
        variants=(Variant("block_count", 40, _BAICHUAN_13B),),
    ),
    "xverse": Architecture(architecture="LlamaForCausalLM", model_type="llama", paired=True),
    "hunyuan-dense": Architecture(
        architecture="HunYuanDenseV1ForCausalLM",
        model_type="hunyuan_v1_dense",
        flags={"attention_bias": "blk.0.attn_q.bias"},
    ),
    "hunyuan-moe": Architecture(
        architecture="HunYuanMoEV1ForCausalLM",
        model_type="hunyuan_v1_moe",
        names=_EXPERT_NAMES | {"expert_used_count": "moe_topk"},
        ignored=("expert_shared_feed_forward_length",),
        expected={"expert_shared_count": 1},
        flags={"attention_bias": "blk.0.attn_q.bias"},
    ),
    "gemma2": Architecture(
        architecture="Gemma2ForCausalLM",
        model_type="gemma2",
        names=NAMES
        | {
            "attention.sliding_window": "sliding_window",
            "attn_logit_softcapping": "attn_logit_softcapping",
            "final_logit_softcapping": "final_logit_softcapping",
        },
        large_scale=46,
    ),
    "gemma3": Architecture(
        architecture="Gemma3ForCausalLM",
        model_type="gemma3_text",
        names=NAMES | SLIDING_WINDOW,
        local_rotary=True,
        local_theta=10_000.0,
        large_scale=62,
    ),
    **LAYER_NORM_ARCHITECTURES,
}
