"""Rows of BLOOM and MPT, which have ALiBi, and of Falcon, one size of which has it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType

from flover.model.families import Family, FieldNames, Flag, Variant
from flover.model.gpt_modules import BLOOM_MODULES, FALCON_TWO_NORMS_MODULES, MPT_MODULES

_FALCON_NAMES = FieldNames(
    num_kv_heads=None,
    head_dim=None,
    intermediate_size="ffn_hidden_size",
    norm_eps="layer_norm_epsilon",
    activation="activation",
)
_FALCON_ROTARY = ("rotary_emb", "h.{}.self_attention.rotary_emb", "h.{}.self_attention.maybe_rotary")

BLOOM_FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "BloomForCausalLM": Family(
            model_types=("bloom",),
            aliases=("BloomModel",),
            other_names={"num_hidden_layers": "n_layer", "num_attention_heads": "n_head", "n_embed": "hidden_size"},
            names=FieldNames(
                num_layers="n_layer",
                num_heads="n_head",
                num_kv_heads=None,
                head_dim=None,
                intermediate_size=None,
                max_len="seq_length",
                norm_eps="layer_norm_epsilon",
                activation=None,
            ),
            norm="layer",
            gated=False,
            embedding_norm=True,
            positions="alibi",
            qkv_bias=True,
            attention_out_bias=True,
            mlp_bias=True,
            default_tied=True,
            default_activation="gelu_pytorch_tanh",
            inner_factor=4,
            default_norm_eps=1e-5,
            prefix="transformer.",
            modules=BLOOM_MODULES,
        ),
        "MptForCausalLM": Family(
            model_types=("mpt",),
            aliases=("MPTForCausalLM", "MptModel"),
            other_names={"num_hidden_layers": "n_layers", "num_attention_heads": "n_heads", "hidden_size": "d_model"},
            names=FieldNames(
                hidden_size="d_model",
                num_layers="n_layers",
                num_heads="n_heads",
                num_kv_heads=None,
                head_dim=None,
                intermediate_size=None,
                max_len="max_seq_len",
                norm_eps="layer_norm_epsilon",
                activation=None,
            ),
            norm="layer",
            norm_bias=False,
            gated=False,
            positions="alibi",
            section="attn_config",
            required={"alibi": True, "no_bias": True, "attn_type": "multihead_attention", "expansion_ratio": 4},
            default_tied=True,
            default_activation="gelu",
            inner_factor=4,
            default_norm_eps=1e-5,
            prefix="transformer.",
            modules=MPT_MODULES,
        ),
        "FalconForCausalLM": Family(
            model_types=("falcon",),
            aliases=("FalconModel",),
            other_names={"n_embed": "hidden_size"},
            names=_FALCON_NAMES,
            norm="layer",
            gated=False,
            residual=Flag("parallel_attn", True),
            parallel="parallel_shared_norm",
            multi_query=Flag("multi_query", True),
            qkv_bias=Flag("bias", False),
            attention_out_bias=Flag("bias", False),
            mlp_bias=Flag("bias", False),
            variants=(
                Variant("alibi", True, {"positions": "alibi", "alibi_is_scaled": True}),
                Variant(
                    "new_decoder_architecture",
                    True,
                    {
                        "parallel": "parallel",
                        "multi_query": False,
                        "names": dataclasses.replace(_FALCON_NAMES, num_kv_heads="num_kv_heads"),
                        "modules": FALCON_TWO_NORMS_MODULES,
                    },
                ),
                Variant("num_ln_in_parallel_attn", 1, {"parallel": "parallel_shared_norm", "modules": BLOOM_MODULES}),
            ),
            default_tied=True,
            default_activation="gelu",
            inner_factor=4,
            default_norm_eps=1e-5,
            prefix="transformer.",
            modules=BLOOM_MODULES,
            dropped=tuple(f"{module}.inv_freq" for module in _FALCON_ROTARY),
        ),
    }
)
