"""Which module of a checkpoint becomes which weight, in the families before LLaMA."""

from __future__ import annotations

from flover.model.family_modules import Target

GPT2_MODULES = {
    "wte": Target("embed"),
    "wpe": Target("positions"),
    "h.{}.ln_1": Target("layers.{}.attention_norm"),
    "h.{}.attn.c_attn": Target("layers.{}.qkv", layout="transposed"),
    "h.{}.attn.c_proj": Target("layers.{}.out", layout="transposed"),
    "h.{}.ln_2": Target("layers.{}.mlp_norm"),
    "h.{}.mlp.c_fc": Target("layers.{}.up", layout="transposed"),
    "h.{}.mlp.c_proj": Target("layers.{}.down", layout="transposed"),
    "ln_f": Target("final_norm"),
}

GPTJ_MODULES = {
    "wte": Target("embed"),
    "h.{}.ln_1": Target("layers.{}.attention_norm"),
    "h.{}.attn.q_proj": Target("layers.{}.qkv", "query"),
    "h.{}.attn.k_proj": Target("layers.{}.qkv", "key"),
    "h.{}.attn.v_proj": Target("layers.{}.qkv", "value"),
    "h.{}.attn.out_proj": Target("layers.{}.out"),
    "h.{}.mlp.fc_in": Target("layers.{}.up"),
    "h.{}.mlp.fc_out": Target("layers.{}.down"),
    "ln_f": Target("final_norm"),
}

NEOX_MODULES = {
    "embed_in": Target("embed"),
    "layers.{}.input_layernorm": Target("layers.{}.attention_norm"),
    "layers.{}.attention.query_key_value": Target("layers.{}.qkv", layout="by_group"),
    "layers.{}.attention.dense": Target("layers.{}.out"),
    "layers.{}.post_attention_layernorm": Target("layers.{}.mlp_norm"),
    "layers.{}.mlp.dense_h_to_4h": Target("layers.{}.up"),
    "layers.{}.mlp.dense_4h_to_h": Target("layers.{}.down"),
    "final_layer_norm": Target("final_norm"),
}

GPT_BIGCODE_MODULES = {
    "wte": Target("embed"),
    "wpe": Target("positions"),
    "h.{}.ln_1": Target("layers.{}.attention_norm"),
    "h.{}.attn.c_attn": Target("layers.{}.qkv", layout="by_group"),
    "h.{}.attn.c_proj": Target("layers.{}.out"),
    "h.{}.ln_2": Target("layers.{}.mlp_norm"),
    "h.{}.mlp.c_fc": Target("layers.{}.up"),
    "h.{}.mlp.c_proj": Target("layers.{}.down"),
    "ln_f": Target("final_norm"),
}

GPT_NEO_MODULES = {
    "wte": Target("embed"),
    "wpe": Target("positions"),
    "h.{}.ln_1": Target("layers.{}.attention_norm"),
    "h.{}.attn.attention.q_proj": Target("layers.{}.qkv", "query"),
    "h.{}.attn.attention.k_proj": Target("layers.{}.qkv", "key"),
    "h.{}.attn.attention.v_proj": Target("layers.{}.qkv", "value"),
    "h.{}.attn.attention.out_proj": Target("layers.{}.out"),
    "h.{}.ln_2": Target("layers.{}.mlp_norm"),
    "h.{}.mlp.c_fc": Target("layers.{}.up"),
    "h.{}.mlp.c_proj": Target("layers.{}.down"),
    "ln_f": Target("final_norm"),
}

CODEGEN_MODULES = {
    **{name: target for name, target in GPTJ_MODULES.items() if target.module != "layers.{}.qkv"},
    "h.{}.attn.qkv_proj": Target("layers.{}.qkv", layout="by_quarter"),
}

OPT_MODULES = {
    "decoder.embed_tokens": Target("embed"),
    "decoder.embed_positions": Target("positions", skipped=2),
    "decoder.layers.{}.self_attn_layer_norm": Target("layers.{}.attention_norm"),
    "decoder.layers.{}.self_attn.q_proj": Target("layers.{}.qkv", "query"),
    "decoder.layers.{}.self_attn.k_proj": Target("layers.{}.qkv", "key"),
    "decoder.layers.{}.self_attn.v_proj": Target("layers.{}.qkv", "value"),
    "decoder.layers.{}.self_attn.out_proj": Target("layers.{}.out"),
    "decoder.layers.{}.final_layer_norm": Target("layers.{}.mlp_norm"),
    "decoder.layers.{}.fc1": Target("layers.{}.up"),
    "decoder.layers.{}.fc2": Target("layers.{}.down"),
    "decoder.final_layer_norm": Target("final_norm"),
}

BLOOM_MODULES = {
    "word_embeddings": Target("embed"),
    "word_embeddings_layernorm": Target("embedding_norm"),
    "h.{}.input_layernorm": Target("layers.{}.attention_norm"),
    "h.{}.self_attention.query_key_value": Target("layers.{}.qkv", layout="by_group"),
    "h.{}.self_attention.dense": Target("layers.{}.out"),
    "h.{}.post_attention_layernorm": Target("layers.{}.mlp_norm"),
    "h.{}.mlp.dense_h_to_4h": Target("layers.{}.up"),
    "h.{}.mlp.dense_4h_to_h": Target("layers.{}.down"),
    "ln_f": Target("final_norm"),
}
FALCON_TWO_NORMS_MODULES = {
    **{name: target for name, target in BLOOM_MODULES.items() if "layernorm" not in name},
    "h.{}.ln_attn": Target("layers.{}.attention_norm"),
    "h.{}.ln_mlp": Target("layers.{}.mlp_norm"),
}

MPT_MODULES = {
    "wte": Target("embed"),
    "blocks.{}.norm_1": Target("layers.{}.attention_norm"),
    "blocks.{}.attn.Wqkv": Target("layers.{}.qkv"),
    "blocks.{}.attn.out_proj": Target("layers.{}.out"),
    "blocks.{}.norm_2": Target("layers.{}.mlp_norm"),
    "blocks.{}.ffn.up_proj": Target("layers.{}.up"),
    "blocks.{}.ffn.down_proj": Target("layers.{}.down"),
    "norm_f": Target("final_norm"),
}
