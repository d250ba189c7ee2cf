"""Rows of families that are LLaMA under other names, and whose code is in their own repositories."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from flover.model.families import Family, FieldNames, Flag, ScaleNames, Variant
from flover.model.family_modules import BAICHUAN_MODULES, EXAONE_MODULES, INTERNLM2_MODULES, QWEN_MODULES

_BAICHUAN_13B = {
    "positions": "alibi",
    "names": FieldNames(max_len="model_max_length"),
    "head_normalized": False,
    "required": {"tie_word_embeddings": False, "vocab_size": 64000},
}
_BAICHUAN_2 = {"head_normalized": True, "required": {"tie_word_embeddings": False}}

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
        "BaichuanForCausalLM": Family(  # both sizes of Baichuan 2, and the larger of the first
            model_types=("baichuan",),
            by_architecture=True,
            head_normalized=True,
            required={"tie_word_embeddings": False},
            variants=(
                Variant("max_position_embeddings", None, _BAICHUAN_13B),
                Variant("vocab_size", 125696, _BAICHUAN_2),
            ),
            modules=BAICHUAN_MODULES,
        ),
        "QWenLMHeadModel": Family(  # beyond seq_length it would change its angles and scale its queries
            model_types=("qwen",),
            names=FieldNames(
                num_kv_heads=None,
                head_dim="kv_channels",
                max_len="seq_length",
                norm_eps="layer_norm_epsilon",
                activation=None,
            ),
            rotary_names=("rotary_emb_base", "rotary_pct"),
            qkv_bias=True,
            required={"no_bias": True, "scale_attn_weights": True},
            inner_divisor=2,
            prefix="transformer.",
            modules=QWEN_MODULES,
            dropped=("rotary_emb.inv_freq", "h.{}.attn.masked_bias"),
        ),
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
