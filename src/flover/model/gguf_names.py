"""How the weights of every family are called in GGUF files (llama.cpp's tensor names)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from flover.model.families import Family
from flover.model.family_modules import Target

_MODULES = {
    "token_embd": Target("embed"),
    "token_embd_norm": Target("embedding_norm"),
    "position_embd": Target("positions"),
    "blk.{}.attn_norm": Target("layers.{}.attention_norm"),
    "blk.{}.attn_qkv": Target("layers.{}.qkv"),
    "blk.{}.attn_q": Target("layers.{}.qkv", "query"),
    "blk.{}.attn_k": Target("layers.{}.qkv", "key"),
    "blk.{}.attn_v": Target("layers.{}.qkv", "value"),
    "blk.{}.attn_q_norm": Target("layers.{}.query_norm"),
    "blk.{}.attn_k_norm": Target("layers.{}.key_norm"),
    "blk.{}.attn_output": Target("layers.{}.out"),
    "blk.{}.post_attention_norm": Target("layers.{}.attention_post_norm"),
    "blk.{}.post_ffw_norm": Target("layers.{}.mlp_post_norm"),
    "blk.{}.ffn_norm": Target("layers.{}.mlp_norm"),
    "blk.{}.ffn_gate": Target("layers.{}.up", "gate"),
    "blk.{}.ffn_up": Target("layers.{}.up", "up"),
    "blk.{}.ffn_down": Target("layers.{}.down"),
    "blk.{}.attn_sinks": Target("layers.{}.sinks"),
    "blk.{}.ffn_gate_inp": Target("layers.{}.router"),
    "blk.{}.ffn_gate_exps": Target("layers.{}.experts.{}.up", "gate"),
    "blk.{}.ffn_up_exps": Target("layers.{}.experts.{}.up", "up"),
    "blk.{}.ffn_down_exps": Target("layers.{}.experts.{}.down"),
    "blk.{}.ffn_gate_shexp": Target("layers.{}.shared.up", "gate"),
    "blk.{}.ffn_up_shexp": Target("layers.{}.shared.up", "up"),
    "blk.{}.ffn_down_shexp": Target("layers.{}.shared.down"),
    "blk.{}.ffn_gate_inp_shexp": Target("layers.{}.shared_gate"),
    "output_norm": Target("final_norm"),
}
_QKV, _PARTS = "blk.{}.attn_qkv", ("blk.{}.attn_q", "blk.{}.attn_k", "blk.{}.attn_v")
_GATE, _UP = "blk.{}.ffn_gate", "blk.{}.ffn_up"
_ATTN_NORM, _ATTN_NORM_2 = "blk.{}.attn_norm", "blk.{}.attn_norm_2"
_FFN_NORM, _POST_NORM = "blk.{}.ffn_norm", "blk.{}.post_attention_norm"
_DROPPED = ("rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight")


def in_gguf(family: Family, stored: Iterable[str]) -> Family:
    """The family's row with GGUF's names, for a file with these tensors: queries, keys and values may be one tensor or
    three, gate and values one or two."""
    names = set(stored)
    modules = dict(_MODULES)
    for name in _PARTS if f"{_QKV.format(0)}.weight" in names else (_QKV,):
        del modules[name]
    if not any(name.endswith(".ffn_gate.weight") for name in names):
        del modules[_GATE]
        modules[_UP] = Target(modules[_UP].module)
    if family.residual == "sequential" and f"{_FFN_NORM.format(0)}.weight" not in names:
        modules[_POST_NORM] = modules.pop(_FFN_NORM)  # Seed-OSS calls it by its place
    if f"{_ATTN_NORM_2.format(0)}.weight" in names:  # Falcon with two norms calls attention's the second
        modules |= {_ATTN_NORM_2: modules[_ATTN_NORM], _ATTN_NORM: modules.pop(_FFN_NORM)}
    return replace(family, prefix="", heads=("output",), modules=modules, dropped=_DROPPED)
