"""Rows of families that are LLaMA under other names, and whose code is in their own repositories."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from flover.model.families import Family, FieldNames, Flag, ScaleNames
from flover.model.family_modules import BAICHUAN_MODULES, EXAONE_MODULES, INTERNLM2_MODULES

LLAMA_FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "InternLMForCausalLM": Family(
            model_types=("internlm",),
            qkv_bias=Flag("bias", True),
            attention_out_bias=Flag("bias", True),
        ),
        "InternLM2ForCausalLM": Family(
            model_types=("internlm2",),
            qkv_bias=Flag("bias", True),
            attention_out_bias=Flag("bias", True),
            heads=("output",),
            modules=INTERNLM2_MODULES,
        ),
        "XverseForCausalLM": Family(model_types=("xverse",)),
        "AquilaForCausalLM": Family(model_types=("aquila",)),
        "InternLM3ForCausalLM": Family(
            model_types=("internlm3",),
            qkv_bias=Flag("qkv_bias", False),
            attention_out_bias=Flag("bias", False),
            mlp_bias=Flag("bias", False),
            default_max_len=32768,
        ),
        "BaiChuanForCausalLM": Family(model_types=("baichuan",), by_architecture=True, modules=BAICHUAN_MODULES),
        "ExaoneForCausalLM": Family(
            model_types=("exaone",),
            names=FieldNames(num_layers="num_layers", norm_eps="layer_norm_epsilon", activation="activation_function"),
            other_names={"num_hidden_layers": "num_layers"},
            default_norm_eps=1e-5,
            prefix="transformer.",
            modules=EXAONE_MODULES,
            dropped=("rotary.inv_freq",),
        ),
        "MiniCPMForCausalLM": Family(
            model_types=("minicpm",),
            scales=ScaleNames(embedding="scale_emb", depth="scale_depth", logits_width="dim_model_base"),
            default_tied=True,
        ),
    }
)
