"""Keys of a config.json that change what a model computes: those that a family does not read must be neutral.

A config file may hold anything, and most of it is information (dropout, initialisation, versions). What is listed here
steers the computation of some model in use; read as a family that knows nothing of it, its checkpoint would be
answered wrongly without a word. Null is neutral for nearly every key.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from flover.files import shown
from flover.model.fields import Fields

NEUTRAL: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {
        # Factors on the residual stream, scores and logits
        "attention_multiplier": (),
        "attn_logit_softcapping": (0,),
        "dim_model_base": (),
        "embedding_multiplier": (1,),
        "final_logit_softcapping": (0,),
        "logit_cap": (0,),
        "logit_scale": (1,),
        "logits_scaling": (1,),
        "normalize_embedding": (False,),
        "query_pre_attn_scalar": (),
        "residual_multiplier": (1,),
        "residual_scale": (1,),
        "scale_depth": (),
        "scale_emb": (1,),
        "scale_embedding": (False,),
        # Norms elsewhere, or of another kind
        "apply_residual_connection_post_layernorm": (False,),
        "clip_qkv": (0,),
        "do_layer_norm_before": (True,),
        "qk_ln": (False,),
        "post_norm": (False,),
        "qk_layernorm": (False,),
        "qk_norm": (False,),
        "use_post_norm": (False,),
        "use_qk_norm": (False,),
        # Blocks wired in another way
        "moe_num_experts": (0, 1),
        "n_routed_experts": (0, 1),
        "new_decoder_architecture": (False,),
        "num_experts": (0, 1),
        "num_local_experts": (0, 1),
        "parallel_attn": (False,),
        "parallel_residual": (False,),
        "use_parallel_residual": (False,),
        "decoder_sparse_step": (1,),
        "first_k_dense_replace": (0,),
        "mlp_only_layers": ([],),
        "moe_layer_freq": (1,),
        "n_group": (1,),
        "n_shared_experts": (0,),
        "num_shared_experts": (0,),
        "routed_scaling_factor": (1,),
        "scoring_func": ("softmax",),
        "shared_expert_intermediate_size": (0,),
        "shared_intermediate_size": (0,),
        "swiglu_alpha": (1.702,),
        "swiglu_limit": (7,),
        "kv_lora_rank": (),
        "q_lora_rank": (),
        # What a token sees
        "add_cross_attention": (False,),
        "alibi": (False,),
        "attention_chunk_size": (0,),
        "attention_sinks": (False, 0),
        "is_causal": (True,),
        "prefix_lm": (False,),
        "attn_uses_sequence_id": (False,),
        "softmax_scale": (),
        "is_encoder_decoder": (False,),
        "sliding_window_pattern": (),
        "use_alibi": (False,),
        "use_bidirectional_attention": (False,),
        # Positions
        "attn_temperature_tuning": (False, 0),
        "global_rope_theta": (),
        "local_rope_theta": (),
        "no_rope_layer_interval": (0,),
        "rope_interleave": (False,),
        "rope_interleaved": (False,),
        "rope_local_base_freq": (),
        "rotary": (True,),
        "rotary_dim": (),
        "rotary_pct": (1,),
        "use_mrope": (False,),
    }
)
"""Key, and the values that change nothing."""

_NULL_COUNTS = frozenset({"is_causal"})  # transformers takes null for false

OTHER_NAMES: tuple[frozenset[str], ...] = tuple(
    frozenset(names.split())
    for names in (
        "rms_norm_eps layer_norm_eps layer_norm_epsilon norm_epsilon norm_eps",
        "hidden_act activation_function hidden_activation",
        "max_position_embeddings n_positions max_seq_len seq_length",
        "num_key_value_heads num_kv_heads n_kv_heads n_head_kv multi_query_group_num",
        "head_dim kv_channels attention_head_size",
    )
)
"""What families call the same number: a config that has it under another family's name alone is another family's."""


def check_keys(fields: Fields, read: frozenset[str], num_layers: int, *, guest: bool) -> None:
    """Refuse what would change the computation and is not `read` by the config's family. Raises `ModelError`.

    A `guest` is a model type that is saved as another's architecture; its own code may read other names.
    """
    for name, neutral in NEUTRAL.items():
        there = name in fields.data if name in _NULL_COUNTS else fields.has(name)
        if name in read or not there:
            continue
        if not any(_same(fields.data[name], value) for value in neutral):
            raise fields.error(name, f"is {shown(fields.data[name])}: this architecture is not computed with it")
    for names in OTHER_NAMES if guest else ():
        own = names & read
        others = sorted(name for name in names - read if fields.has(name))
        if others and own and not any(fields.has(name) for name in own):
            raise fields.error(others[0], f"is there, but this architecture keeps that number as {min(own)}")
    turning = None if "no_rope_layers" in read else fields.data.get("no_rope_layers")
    if turning is not None and turning not in ([], [1] * num_layers):
        raise fields.error("no_rope_layers", "leaves layers without rotary embedding, which is not supported")
    kinds = fields.data.get("layer_types")
    alike = [[kind] * num_layers for kind in ("full_attention", "attention")]
    if "layer_types" not in read and kinds is not None and kinds not in alike:
        raise fields.error("layer_types", f"must be {num_layers} × full_attention, got {shown(kinds)}")


def _same(value: Any, neutral: Any) -> bool:
    """Equal, and both or neither true or false."""
    return value == neutral and isinstance(value, bool) == isinstance(neutral, bool)
