"""Rows of families with mixtures of experts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType

from flover.model.families import ExpertNames, Family, Flag
from flover.model.family_modules import (
    FLEX_OLMO_MODULES,
    GPT_OSS_MODULES,
    GRANITE_MOE_MODULES,
    HUNYUAN_MOE_MODULES,
    MIXTRAL_MODULES,
    QWEN_MOE_MODULES,
)
from flover.model.rms_families import GRANITE_SCALES

_OLMOE = Family(
    model_types=("olmoe",),
    aliases=("OlmoeModel",),
    other_names={"num_local_experts": "num_experts"},
    experts=ExpertNames(intermediate_size="intermediate_size", normalized=Flag("norm_topk_prob", False)),
    qk_norm="all_heads",
    qkv_bias=Flag("attention_bias", False),
    attention_out_bias=Flag("attention_bias", False),
    default_norm_eps=1e-5,
    default_max_len=4096,
    modules=QWEN_MOE_MODULES,
)

EXPERT_FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "MixtralForCausalLM": Family(
            model_types=("mixtral",),
            aliases=("MixtralModel",),
            other_names={"num_experts": "num_local_experts"},
            experts=ExpertNames(count="num_local_experts", intermediate_size="intermediate_size"),
            window="all",
            default_theta=1e6,
            default_norm_eps=1e-5,
            default_max_len=4096 * 32,
            modules=MIXTRAL_MODULES,
        ),
        "Qwen2MoeForCausalLM": Family(
            model_types=("qwen2_moe",),
            aliases=("Qwen2MoeModel",),
            experts=ExpertNames(
                normalized=Flag("norm_topk_prob", False),
                some_layers=True,
                shared_intermediate_size="shared_expert_intermediate_size",
                shared_gate=True,
            ),
            qkv_bias=Flag("qkv_bias", True),
            default_max_len=32768,
            modules=QWEN_MOE_MODULES,
        ),
        "Qwen3MoeForCausalLM": Family(
            model_types=("qwen3_moe",),
            aliases=("Qwen3MoeModel",),
            other_names={"num_local_experts": "num_experts"},
            experts=ExpertNames(normalized=Flag("norm_topk_prob", False), some_layers=True),
            neutral=("qk_norm", "use_qk_norm"),
            qk_norm="head",
            qkv_bias=Flag("attention_bias", False),
            attention_out_bias=Flag("attention_bias", False),
            default_max_len=32768,
            modules=QWEN_MOE_MODULES,
        ),
        "GptOssForCausalLM": Family(
            model_types=("gpt_oss",),
            aliases=("GptOssModel",),
            other_names={"experts_per_token": "num_experts_per_tok"},
            experts=ExpertNames(count="num_local_experts", intermediate_size="intermediate_size"),
            activation="swiglu_oai",
            sinks=True,
            rotary_stated=True,
            window="pattern",
            pattern=2,
            default_theta=150_000.0,
            qkv_bias=Flag("attention_bias", True),
            attention_out_bias=Flag("attention_bias", True),
            mlp_bias=True,
            default_norm_eps=1e-5,
            default_max_len=131072,
            default_head_dim=64,
            default_window=128,
            modules=GPT_OSS_MODULES,
        ),
        "OlmoeForCausalLM": _OLMOE,
        "FlexOlmoForCausalLM": dataclasses.replace(
            _OLMOE,
            model_types=("flex_olmo",),
            aliases=("FlexOlmoModel",),
            residual="post_norm",
            default_norm_eps=1e-6,
            modules=FLEX_OLMO_MODULES,
        ),
        "HunYuanMoEV1ForCausalLM": Family(
            model_types=("hunyuan_v1_moe",),
            aliases=("HunYuanMoEV1Model",),
            other_names={"num_local_experts": "num_experts", "num_experts_per_tok": "moe_topk"},
            per_layer=("moe_topk", "moe_intermediate_size", "num_shared_expert"),
            required={"num_shared_expert": 1, "use_cla": False, "use_mixed_mlp_moe": True, "moe_layer_num_skipped": 0},
            same_as={"moe_intermediate_size": "intermediate_size"},
            experts=ExpertNames(
                top_k="moe_topk", intermediate_size="intermediate_size", shared_intermediate_size="intermediate_size"
            ),
            qk_norm="turned_head",
            ntk_alpha=True,
            qkv_bias=Flag("attention_bias", False),
            attention_out_bias=Flag("attention_bias", False),
            neutral=("use_qk_norm",),
            default_norm_eps=1e-5,
            modules=HUNYUAN_MOE_MODULES,
        ),
        "GraniteMoeForCausalLM": Family(
            model_types=("granitemoe",),
            aliases=("GraniteMoeModel",),
            experts=ExpertNames(count="num_local_experts", intermediate_size="intermediate_size"),
            scales=GRANITE_SCALES,
            qkv_bias=Flag("attention_bias", False),
            attention_out_bias=Flag("attention_bias", False),
            modules=GRANITE_MOE_MODULES,
        ),
        "GraniteMoeSharedForCausalLM": Family(
            model_types=("granitemoeshared",),
            aliases=("GraniteMoeSharedModel",),
            experts=ExpertNames(
                count="num_local_experts",
                intermediate_size="intermediate_size",
                shared_intermediate_size="shared_intermediate_size",
            ),
            scales=GRANITE_SCALES,
            qkv_bias=Flag("attention_bias", False),
            attention_out_bias=Flag("attention_bias", False),
            modules=GRANITE_MOE_MODULES,
        ),
    }
)
