"""What a tiny checkpoint of every family is: the class of transformers, and fields of its config."""

from __future__ import annotations

from typing import Any

VOCAB_SIZE = 300
MAX_LEN = 512

_COMMON = {"vocab_size": VOCAB_SIZE, "eos_token_id": None, "bos_token_id": None}
_LLAMA = {
    **_COMMON,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 80,
    "max_position_embeddings": MAX_LEN,
}
_EXPERTS = {"num_experts": 6, "num_experts_per_tok": 3, "pad_token_id": None}
_LOCAL_EXPERTS = {"num_local_experts": 6, "num_experts_per_tok": 3, "pad_token_id": None}
_GRANITE = {
    "embedding_multiplier": 3.0,
    "residual_multiplier": 0.3,
    "attention_multiplier": 0.5,
    "logits_scaling": 1.7,
    "pad_token_id": None,
}
_GPT = {**_COMMON, "n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": MAX_LEN}
_NEOX = {key: value for key, value in _LLAMA.items() if key != "num_key_value_heads"}

_MINISTRAL3 = {
    **_LLAMA,
    "head_dim": 16,
    "pad_token_id": None,
    "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 1e6,
        "factor": 16.0,
        "original_max_position_embeddings": 16,
        "max_position_embeddings": MAX_LEN,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "llama_4_scaling_beta": 0.25,
    },
}
_VISION = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}

RECIPES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", _LLAMA),
    "mistral": ("MistralForCausalLM", {**_LLAMA, "sliding_window": 16, "head_dim": 16}),
    "qwen2": ("Qwen2ForCausalLM", {**_LLAMA, "tie_word_embeddings": True}),
    "qwen3": ("Qwen3ForCausalLM", {**_LLAMA, "head_dim": 16}),
    "gpt2": ("GPT2LMHeadModel", _GPT),
    "gptj": ("GPTJForCausalLM", {**_GPT, "rotary_dim": 4}),
    "gpt_neox": ("GPTNeoXForCausalLM", {**_NEOX, "rotary_pct": 0.5}),
    "qwen2_moe": (
        "Qwen2MoeForCausalLM",
        {
            **_LLAMA,
            **_EXPERTS,
            "moe_intermediate_size": 48,
            "shared_expert_intermediate_size": 64,
            "mlp_only_layers": [1],
        },
    ),
}
FAMILIES = tuple(RECIPES)
"""One name for every wiring of the decoder but the last: a parameter for tests that must hold for all of them."""

RECIPES |= {
    "phi": ("PhiForCausalLM", {**_LLAMA, "partial_rotary_factor": 0.5, "head_dim": 12}),
    "phi3": ("Phi3ForCausalLM", {**_LLAMA, "pad_token_id": None, "sliding_window": 16}),
    "stablelm": ("StableLmForCausalLM", {**_LLAMA, "partial_rotary_factor": 0.5, "use_qkv_bias": True}),
    "starcoder2": ("Starcoder2ForCausalLM", {**_LLAMA, "sliding_window": 16}),
    "ministral3": ("Ministral3ForCausalLM", _MINISTRAL3),
    "mistral3": (
        "Mistral3ForConditionalGeneration",
        {
            "text_config": {**_MINISTRAL3, "model_type": "ministral3", "tie_word_embeddings": False},
            "vision_config": {**_VISION, "model_type": "pixtral", "head_dim": 16},
            "tie_word_embeddings": False,
        },
    ),
    "gemma3 with images": (
        "Gemma3ForConditionalGeneration",
        {
            "text_config": {
                **_LLAMA,
                "head_dim": 16,
                "num_hidden_layers": 3,
                "sliding_window": 16,
                "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            },
            "vision_config": {**_VISION, "model_type": "siglip_vision_model"},
            "mm_tokens_per_image": 4,
        },
    ),
    "seed_oss": ("SeedOssForCausalLM", {**_LLAMA, "head_dim": 16, "attention_out_bias": True, "mlp_bias": True}),
    "smollm3": ("SmolLM3ForCausalLM", {**_LLAMA, "num_hidden_layers": 4, "pad_token_id": None}),
    "glm": ("GlmForCausalLM", {**_LLAMA, "head_dim": 16, "pad_token_id": None}),
    "glm4": ("Glm4ForCausalLM", {**_LLAMA, "head_dim": 16, "pad_token_id": None, "eos_token_id": 0}),
    "hunyuan": (
        "HunYuanDenseV1ForCausalLM",
        {
            **_LLAMA,
            "head_dim": 12,
            "rope_parameters": {"rope_type": "dynamic", "alpha": 50.0, "factor": 1.0, "rope_theta": 10000.0},
        },
    ),
    "hunyuan_moe": ("HunYuanMoEV1ForCausalLM", {**_LLAMA, "head_dim": 12, "num_experts": 6, "moe_topk": 3}),
    "helium": ("HeliumForCausalLM", {**_LLAMA, "head_dim": 12, "pad_token_id": None}),
    "ernie4_5": ("Ernie4_5ForCausalLM", {**_LLAMA, "head_dim": 12, "use_bias": True, "pad_token_id": None}),
    "cohere": ("CohereForCausalLM", {**_LLAMA, "pad_token_id": None}),
    "cohere2": ("Cohere2ForCausalLM", {**_LLAMA, "num_hidden_layers": 4, "sliding_window": 16, "pad_token_id": None}),
    "exaone4": ("Exaone4ForCausalLM", {**_LLAMA, "num_hidden_layers": 4, "sliding_window": 16}),
    "granite": ("GraniteForCausalLM", {**_LLAMA, **_GRANITE}),
    "granitemoehybrid": (
        "GraniteMoeHybridForCausalLM",
        {
            **_LLAMA,
            **_GRANITE,
            "num_local_experts": 0,
            "shared_intermediate_size": 56,
            "layer_types": ["full_attention"] * 2,
            "position_embedding_type": "rope",
            "mamba_n_heads": 4,
        },
    ),
    "granitemoe": ("GraniteMoeForCausalLM", {**_LLAMA, **_LOCAL_EXPERTS, **_GRANITE}),
    "granitemoeshared": (
        "GraniteMoeSharedForCausalLM",
        {**_LLAMA, **_LOCAL_EXPERTS, **_GRANITE, "shared_intermediate_size": 56},
    ),
    "gpt_oss": (
        "GptOssForCausalLM",
        {
            **_LLAMA,
            **_LOCAL_EXPERTS,
            "head_dim": 16,
            "sliding_window": 16,
            "rope_parameters": {
                "rope_type": "yarn",
                "factor": 4.0,
                "rope_theta": 150000.0,
                "original_max_position_embeddings": 128,
                "truncate": False,
            },
        },
    ),
    "olmoe": ("OlmoeForCausalLM", {**_LLAMA, **_EXPERTS}),
    "flex_olmo": ("FlexOlmoForCausalLM", {**_LLAMA, **_EXPERTS}),
    "gemma": ("GemmaForCausalLM", {**_LLAMA, "head_dim": 16, "pad_token_id": None}),
    "gemma2": (
        "Gemma2ForCausalLM",
        {
            **_LLAMA,
            "head_dim": 16,
            "query_pre_attn_scalar": 24,
            "sliding_window": 16,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
            "pad_token_id": None,
        },
    ),
    "vaultgemma": (
        "VaultGemmaForCausalLM",
        {
            **_LLAMA,
            "head_dim": 16,
            "query_pre_attn_scalar": 24,
            "sliding_window": 16,
            "attn_logit_softcapping": 2.0,
            "pad_token_id": None,
        },
    ),
    "cwm": (
        "CwmForCausalLM",
        {**_LLAMA, "head_dim": 16, "num_hidden_layers": 4, "sliding_window": 16, "bos_token_id": 0},
    ),
    "gpt_bigcode": ("GPTBigCodeForCausalLM", _GPT),
    "gpt_neo": (
        "GPTNeoForCausalLM",
        {
            **_COMMON,
            "hidden_size": 48,
            "num_layers": 4,
            "num_heads": 4,
            "max_position_embeddings": MAX_LEN,
            "attention_types": [[["global", "local"], 2]],
            "window_size": 16,
        },
    ),
    "codegen": ("CodeGenForCausalLM", {**_GPT, "rotary_dim": 4}),
    "opt": ("OPTForCausalLM", {**_NEOX, "ffn_dim": 80, "word_embed_proj_dim": 48, "pad_token_id": None}),
    "bloom": ("BloomForCausalLM", {**_COMMON, "hidden_size": 48, "n_layer": 2, "n_head": 4}),
    "mpt": ("MptForCausalLM", {**_COMMON, "d_model": 48, "n_layers": 2, "n_heads": 4, "max_seq_len": MAX_LEN}),
    "falcon": ("FalconForCausalLM", {**_NEOX, "ffn_hidden_size": 80}),
    "olmo": ("OlmoForCausalLM", {**_LLAMA, "pad_token_id": None}),
    "olmo2": ("Olmo2ForCausalLM", {**_LLAMA, "pad_token_id": None}),
    "olmo3": (
        "Olmo3ForCausalLM",
        {
            **_LLAMA,
            "num_hidden_layers": 4,
            "sliding_window": 16,
            "rope_parameters": {
                "full_attention": {
                    "rope_type": "yarn",
                    "factor": 4.0,
                    "rope_theta": 5e5,
                    "original_max_position_embeddings": 128,
                },
                "sliding_attention": {"rope_type": "default", "rope_theta": 5e5},
            },
            "pad_token_id": None,
        },
    ),
    "arcee": ("ArceeForCausalLM", {**_LLAMA, "head_dim": 16, "mlp_bias": True, "attention_bias": True}),
    "nemotron": ("NemotronForCausalLM", {**_LLAMA, "partial_rotary_factor": 0.5, "mlp_bias": True}),
    "jais2": ("Jais2ForCausalLM", {**_LLAMA, "head_dim": 12}),
    "mixtral": ("MixtralForCausalLM", {**_LLAMA, **_LOCAL_EXPERTS}),
    "qwen3_moe": (
        "Qwen3MoeForCausalLM",
        {**_LLAMA, **_EXPERTS, "head_dim": 16, "moe_intermediate_size": 48, "norm_topk_prob": True},
    ),
    "gemma3": (
        "Gemma3ForCausalLM",
        {
            **_LLAMA,
            "head_dim": 16,
            "num_hidden_layers": 4,
            "query_pre_attn_scalar": 24,
            "sliding_window": 16,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            },
        },
    ),
}
