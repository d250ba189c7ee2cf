"""Which module of a Hugging Face checkpoint becomes which weight of the decoder, family by family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from flover.source import Layout

Part = Literal["all", "query", "key", "value", "gate", "up"]


@dataclass(frozen=True, slots=True)
class Target:
    """Where a module of a checkpoint goes: `part` of our `module`, its weight in this `layout`. The first `{}` is the
    number of the layer, a second one that of the expert; a checkpoint's module without a second has all, stacked."""

    module: str
    part: Part = "all"
    layout: Layout = "plain"
    skipped: int = 0  # rows at the start of the tensor that are no part of it
    bare: bool = False  # tensors are called as the module, without ".weight", and with "_bias"


LLAMA_MODULES = {
    "embed_tokens": Target("embed"),
    "layers.{}.input_layernorm": Target("layers.{}.attention_norm"),
    "layers.{}.self_attn.q_proj": Target("layers.{}.qkv", "query"),
    "layers.{}.self_attn.k_proj": Target("layers.{}.qkv", "key"),
    "layers.{}.self_attn.v_proj": Target("layers.{}.qkv", "value"),
    "layers.{}.self_attn.q_norm": Target("layers.{}.query_norm"),
    "layers.{}.self_attn.k_norm": Target("layers.{}.key_norm"),
    "layers.{}.self_attn.o_proj": Target("layers.{}.out"),
    "layers.{}.post_attention_layernorm": Target("layers.{}.mlp_norm"),
    "layers.{}.mlp.gate_proj": Target("layers.{}.up", "gate"),
    "layers.{}.mlp.up_proj": Target("layers.{}.up", "up"),
    "layers.{}.mlp.down_proj": Target("layers.{}.down"),
    "norm": Target("final_norm"),
}
_LLAMA_BUT_MLP = {name: target for name, target in LLAMA_MODULES.items() if ".mlp." not in name}
ROTARY_TABLES = tuple(
    f"{module}rotary_emb.{table}"
    for module in ("", "layers.{}.self_attn.", "layers.{}.attention.")
    for table in ("inv_freq", "cos_cached", "sin_cached")
)

PHI_MODULES = {
    "embed_tokens": Target("embed"),
    "layers.{}.input_layernorm": Target("layers.{}.attention_norm"),
    "layers.{}.self_attn.q_proj": Target("layers.{}.qkv", "query"),
    "layers.{}.self_attn.k_proj": Target("layers.{}.qkv", "key"),
    "layers.{}.self_attn.v_proj": Target("layers.{}.qkv", "value"),
    "layers.{}.self_attn.dense": Target("layers.{}.out"),
    "layers.{}.mlp.fc1": Target("layers.{}.up"),
    "layers.{}.mlp.fc2": Target("layers.{}.down"),
    "final_layernorm": Target("final_norm"),
}

PHI3_MODULES = {
    "embed_tokens": Target("embed"),
    "layers.{}.input_layernorm": Target("layers.{}.attention_norm"),
    "layers.{}.self_attn.qkv_proj": Target("layers.{}.qkv"),
    "layers.{}.self_attn.o_proj": Target("layers.{}.out"),
    "layers.{}.post_attention_layernorm": Target("layers.{}.mlp_norm"),
    "layers.{}.mlp.gate_up_proj": Target("layers.{}.up"),
    "layers.{}.mlp.down_proj": Target("layers.{}.down"),
    "norm": Target("final_norm"),
}

BAICHUAN_MODULES = {
    **{name: target for name, target in LLAMA_MODULES.items() if not name.endswith(("q_proj", "k_proj", "v_proj"))},
    "layers.{}.self_attn.W_pack": Target("layers.{}.qkv"),
}

QWEN_MODULES = {
    "wte": Target("embed"),
    "h.{}.ln_1": Target("layers.{}.attention_norm"),
    "h.{}.attn.c_attn": Target("layers.{}.qkv"),
    "h.{}.attn.c_proj": Target("layers.{}.out"),
    "h.{}.ln_2": Target("layers.{}.mlp_norm"),
    "h.{}.mlp.w2": Target("layers.{}.up", "gate"),
    "h.{}.mlp.w1": Target("layers.{}.up", "up"),
    "h.{}.mlp.c_proj": Target("layers.{}.down"),
    "ln_f": Target("final_norm"),
}

STARCODER2_MODULES = {
    **_LLAMA_BUT_MLP,
    "layers.{}.mlp.c_fc": Target("layers.{}.up"),
    "layers.{}.mlp.c_proj": Target("layers.{}.down"),
}

EXAONE_MODULES = {
    "wte": Target("embed"),
    "h.{}.ln_1": Target("layers.{}.attention_norm"),
    "h.{}.attn.attention.q_proj": Target("layers.{}.qkv", "query"),
    "h.{}.attn.attention.k_proj": Target("layers.{}.qkv", "key"),
    "h.{}.attn.attention.v_proj": Target("layers.{}.qkv", "value"),
    "h.{}.attn.attention.out_proj": Target("layers.{}.out"),
    "h.{}.ln_2": Target("layers.{}.mlp_norm"),
    "h.{}.mlp.c_fc_0": Target("layers.{}.up", "gate"),
    "h.{}.mlp.c_fc_1": Target("layers.{}.up", "up"),
    "h.{}.mlp.c_proj": Target("layers.{}.down"),
    "ln_f": Target("final_norm"),
}

GEMMA3_MODULES = {
    **LLAMA_MODULES,
    "layers.{}.post_attention_layernorm": Target("layers.{}.attention_post_norm"),
    "layers.{}.pre_feedforward_layernorm": Target("layers.{}.mlp_norm"),
    "layers.{}.post_feedforward_layernorm": Target("layers.{}.mlp_post_norm"),
}

HUNYUAN_MODULES = {
    **{name: target for name, target in LLAMA_MODULES.items() if "_norm" not in name},
    "layers.{}.self_attn.query_layernorm": Target("layers.{}.query_norm"),
    "layers.{}.self_attn.key_layernorm": Target("layers.{}.key_norm"),
}

HUNYUAN_MOE_MODULES = {
    **{name: target for name, target in HUNYUAN_MODULES.items() if ".mlp." not in name},
    "layers.{}.mlp.gate.wg": Target("layers.{}.router"),
    "layers.{}.mlp.experts.{}.gate_proj": Target("layers.{}.experts.{}.up", "gate"),
    "layers.{}.mlp.experts.{}.up_proj": Target("layers.{}.experts.{}.up", "up"),
    "layers.{}.mlp.experts.{}.down_proj": Target("layers.{}.experts.{}.down"),
    "layers.{}.mlp.shared_mlp.gate_proj": Target("layers.{}.shared.up", "gate"),
    "layers.{}.mlp.shared_mlp.up_proj": Target("layers.{}.shared.up", "up"),
    "layers.{}.mlp.shared_mlp.down_proj": Target("layers.{}.shared.down"),
}

INTERNLM2_MODULES = {
    "tok_embeddings": Target("embed"),
    "layers.{}.attention_norm": Target("layers.{}.attention_norm"),
    "layers.{}.attention.wqkv": Target("layers.{}.qkv", layout="by_group"),
    "layers.{}.attention.wo": Target("layers.{}.out"),
    "layers.{}.ffn_norm": Target("layers.{}.mlp_norm"),
    "layers.{}.feed_forward.w1": Target("layers.{}.up", "gate"),
    "layers.{}.feed_forward.w3": Target("layers.{}.up", "up"),
    "layers.{}.feed_forward.w2": Target("layers.{}.down"),
    "norm": Target("final_norm"),
}

GLM_MODULES = {
    **_LLAMA_BUT_MLP,
    "layers.{}.mlp.gate_up_proj": Target("layers.{}.up"),
    "layers.{}.mlp.down_proj": Target("layers.{}.down"),
}
GLM4_MODULES = {
    **GLM_MODULES,
    "layers.{}.post_self_attn_layernorm": Target("layers.{}.attention_post_norm"),
    "layers.{}.post_mlp_layernorm": Target("layers.{}.mlp_post_norm"),
}

POST_NORM_MODULES = {
    **{name: target for name, target in LLAMA_MODULES.items() if "input_layernorm" not in name},
    "layers.{}.post_attention_layernorm": Target("layers.{}.attention_post_norm"),
    "layers.{}.post_feedforward_layernorm": Target("layers.{}.mlp_post_norm"),
}

VAULT_GEMMA_MODULES = {
    **{name: target for name, target in LLAMA_MODULES.items() if "post_attention" not in name},
    "layers.{}.pre_feedforward_layernorm": Target("layers.{}.mlp_norm"),
}

MIXTRAL_MODULES = {
    **_LLAMA_BUT_MLP,
    "layers.{}.block_sparse_moe.gate": Target("layers.{}.router"),
    "layers.{}.block_sparse_moe.experts.{}.w1": Target("layers.{}.experts.{}.up", "gate"),
    "layers.{}.block_sparse_moe.experts.{}.w3": Target("layers.{}.experts.{}.up", "up"),
    "layers.{}.block_sparse_moe.experts.{}.w2": Target("layers.{}.experts.{}.down"),
}

GRANITE_MOE_MODULES = {
    **_LLAMA_BUT_MLP,
    "layers.{}.block_sparse_moe.router.layer": Target("layers.{}.router"),
    "layers.{}.block_sparse_moe.input_linear": Target("layers.{}.experts.{}.up"),
    "layers.{}.block_sparse_moe.output_linear": Target("layers.{}.experts.{}.down"),
    "layers.{}.shared_mlp.input_linear": Target("layers.{}.shared.up"),
    "layers.{}.shared_mlp.output_linear": Target("layers.{}.shared.down"),
}

GRANITE_HYBRID_MODULES = {  # of its models that are no hybrids
    **_LLAMA_BUT_MLP,
    "layers.{}.shared_mlp.input_linear": Target("layers.{}.up"),
    "layers.{}.shared_mlp.output_linear": Target("layers.{}.down"),
}

GPT_OSS_MODULES = {
    **_LLAMA_BUT_MLP,
    "layers.{}.self_attn.sinks": Target("layers.{}.sinks", bare=True),
    "layers.{}.mlp.router": Target("layers.{}.router"),
    "layers.{}.mlp.experts.gate_up_proj": Target("layers.{}.experts.{}.up", layout="transposed_interleaved", bare=True),
    "layers.{}.mlp.experts.down_proj": Target("layers.{}.experts.{}.down", layout="transposed", bare=True),
}

QWEN_MOE_MODULES = {
    **LLAMA_MODULES,
    "layers.{}.mlp.gate": Target("layers.{}.router"),
    "layers.{}.mlp.experts.{}.gate_proj": Target("layers.{}.experts.{}.up", "gate"),
    "layers.{}.mlp.experts.{}.up_proj": Target("layers.{}.experts.{}.up", "up"),
    "layers.{}.mlp.experts.{}.down_proj": Target("layers.{}.experts.{}.down"),
    "layers.{}.mlp.shared_expert.gate_proj": Target("layers.{}.shared.up", "gate"),
    "layers.{}.mlp.shared_expert.up_proj": Target("layers.{}.shared.up", "up"),
    "layers.{}.mlp.shared_expert.down_proj": Target("layers.{}.shared.down"),
    "layers.{}.mlp.shared_expert_gate": Target("layers.{}.shared_gate"),
}

FLEX_OLMO_MODULES = {
    **{name: target for name, target in QWEN_MOE_MODULES.items() if "layernorm" not in name},
    **{name: target for name, target in POST_NORM_MODULES.items() if "layernorm" in name},
}

UNGATED_MODULES = {
    **_LLAMA_BUT_MLP,
    "layers.{}.mlp.up_proj": Target("layers.{}.up"),
    "layers.{}.mlp.down_proj": Target("layers.{}.down"),
}
