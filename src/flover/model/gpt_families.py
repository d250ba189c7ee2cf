"""Rows of GPT-2 and what followed it, up to OPT."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType

from flover.model.families import Family, FieldNames, Flag
from flover.model.family_modules import ROTARY_TABLES
from flover.model.gpt_modules import (
    CODEGEN_MODULES,
    GPT2_MODULES,
    GPT_BIGCODE_MODULES,
    GPT_NEO_MODULES,
    GPTJ_MODULES,
    NEOX_MODULES,
    OPT_MODULES,
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

_MASKS = ("h.{}.attn.bias", "h.{}.attn.masked_bias")

_GPTJ = Family(
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
    inner_factor=4,
    default_activation="gelu_new",
    default_norm_eps=1e-5,
    prefix="transformer.",
    modules=GPTJ_MODULES,
    dropped=(*_MASKS, "h.{}.attn.embed_positions"),
)

GPT_FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
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
            inner_factor=4,
            default_norm_eps=1e-5,
            default_max_len=1024,
            scale_switches=True,
            neutral=("rotary", "rotary_dim"),
            prefix="transformer.",
            modules=GPT2_MODULES,
            dropped=_MASKS,
        ),
        "GPTJForCausalLM": _GPTJ,
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
            modules=NEOX_MODULES,
            dropped=(
                "layers.{}.attention.bias",
                "layers.{}.attention.masked_bias",
                *ROTARY_TABLES,
            ),
        ),
        "GPTBigCodeForCausalLM": Family(
            model_types=("gpt_bigcode",),
            aliases=("GPTBigCodeModel",),
            other_names=_GPT_OTHER_NAMES,
            names=_GPT_NAMES,
            norm="layer",
            gated=False,
            positions="learned",
            multi_query=Flag("multi_query", True),
            qkv_bias=True,
            attention_out_bias=True,
            mlp_bias=True,
            required={"scale_attn_weights": True},
            default_tied=True,
            default_activation="gelu_pytorch_tanh",
            inner_factor=4,
            default_norm_eps=1e-5,
            default_max_len=1024,
            prefix="transformer.",
            modules=GPT_BIGCODE_MODULES,
            dropped=_MASKS,
        ),
        "GPTNeoForCausalLM": Family(
            model_types=("gpt_neo",),
            aliases=("GPTNeoModel",),
            other_names={"num_hidden_layers": "num_layers", "num_attention_heads": "num_heads"},
            names=FieldNames(
                num_layers="num_layers",
                num_heads="num_heads",
                num_kv_heads=None,
                head_dim=None,
                norm_eps="layer_norm_epsilon",
                activation="activation_function",
            ),
            norm="layer",
            gated=False,
            positions="learned",
            window="attention_types",
            fixed_scale=1.0,
            attention_out_bias=True,
            mlp_bias=True,
            default_tied=True,
            default_activation="gelu_new",
            inner_factor=4,
            default_norm_eps=1e-5,
            prefix="transformer.",
            modules=GPT_NEO_MODULES,
            dropped=("h.{}.attn.attention.bias", "h.{}.attn.attention.masked_bias"),
        ),
        "CodeGenForCausalLM": dataclasses.replace(
            _GPTJ,
            model_types=("codegen",),
            aliases=("CodeGenModel",),
            modules=CODEGEN_MODULES,
            dropped=("h.{}.attn.causal_mask", *_MASKS),
        ),
        "OPTForCausalLM": Family(
            model_types=("opt",),
            aliases=("OPTModel",),
            names=FieldNames(
                num_kv_heads=None,
                head_dim=None,
                intermediate_size="ffn_dim",
                norm_eps=None,
                activation="activation_function",
            ),
            norm="layer",
            gated=False,
            positions="learned",
            qkv_bias=Flag("enable_bias", True),
            attention_out_bias=Flag("enable_bias", True),
            mlp_bias=Flag("enable_bias", True),
            required={"_remove_final_layer_norm": False, "layer_norm_elementwise_affine": True},
            same_as={"word_embed_proj_dim": "hidden_size"},
            default_tied=True,
            default_activation="relu",
            default_norm_eps=1e-5,
            modules=OPT_MODULES,
        ),
    }
)
