"""The architectures of GGUF files with layer norms."""

from __future__ import annotations

from collections.abc import Mapping

from flover.source.gguf_architecture import LAYER_NORM_NAMES, NAMES, SLIDING_WINDOW, Architecture

_GPT_NAMES = {
    "context_length": "n_positions",
    "embedding_length": "n_embd",
    "block_count": "n_layer",
    "feed_forward_length": "n_inner",
    "attention.head_count": "n_head",
    "attention.layer_norm_epsilon": "layer_norm_epsilon",
}

LAYER_NORM_ARCHITECTURES: Mapping[str, Architecture] = {
    "gpt2": Architecture(architecture="GPT2LMHeadModel", model_type="gpt2", names=_GPT_NAMES, rotary=False),
    "gptneox": Architecture(
        architecture="GPTNeoXForCausalLM",
        model_type="gpt_neox",
        names={key: name for key, name in LAYER_NORM_NAMES.items() if name != "num_key_value_heads"}
        | {"use_parallel_residual": "use_parallel_residual"},
        flags={"attention_bias": "blk.0.attn_qkv.bias"},
    ),
    "phi2": Architecture(architecture="PhiForCausalLM", model_type="phi", names=LAYER_NORM_NAMES),
    "stablelm": Architecture(
        architecture="StableLmForCausalLM",
        model_type="stablelm",
        names=LAYER_NORM_NAMES | {"use_parallel_residual": "use_parallel_residual"},
        flags={"use_qkv_bias": "blk.0.attn_q.bias"},
    ),
    "starcoder2": Architecture(
        architecture="Starcoder2ForCausalLM",
        model_type="starcoder2",
        names=NAMES | {"attention.layer_norm_epsilon": "norm_epsilon", **SLIDING_WINDOW},
        flags={"use_bias": "blk.0.attn_q.bias"},
    ),
    "jais2": Architecture(
        architecture="Jais2ForCausalLM",
        model_type="jais2",
        names=LAYER_NORM_NAMES,
        flags={"attention_bias": "blk.0.attn_q.bias", "mlp_bias": "blk.0.ffn_up.bias"},
    ),
    "nemotron": Architecture(
        architecture="NemotronForCausalLM",
        model_type="nemotron",
        names=NAMES | {"attention.layer_norm_epsilon": "norm_eps"},
        flags={"attention_bias": "blk.0.attn_q.bias", "mlp_bias": "blk.0.ffn_up.bias"},
    ),
    "command-r": Architecture(
        architecture="CohereForCausalLM",
        model_type="cohere",
        names=LAYER_NORM_NAMES | {"logit_scale": "logit_scale"},
        flags={"attention_bias": "blk.0.attn_q.bias"},
    ),
    "cohere2": Architecture(
        architecture="Cohere2ForCausalLM",
        model_type="cohere2",
        names=LAYER_NORM_NAMES | {"logit_scale": "logit_scale", **SLIDING_WINDOW},
        flags={"attention_bias": "blk.0.attn_q.bias"},
    ),
    "olmo": Architecture(
        architecture="OlmoForCausalLM",
        model_type="olmo",
        ignored=("attention.layer_norm_epsilon",),
        flags={"attention_bias": "blk.0.attn_q.bias"},
        paired=True,
    ),
    "starcoder": Architecture(
        architecture="GPTBigCodeForCausalLM",
        model_type="gpt_bigcode",
        names=_GPT_NAMES,
        expected={"attention.head_count_kv": 1},
        rotary=False,
    ),
    "bloom": Architecture(
        architecture="BloomForCausalLM",
        model_type="bloom",
        names={
            "context_length": "seq_length",
            "embedding_length": "hidden_size",
            "block_count": "n_layer",
            "attention.head_count": "n_head",
            "attention.layer_norm_epsilon": "layer_norm_epsilon",
        },
        ignored=("feed_forward_length", "attention.head_count_kv"),
        rotary=False,
    ),
    "mpt": Architecture(
        architecture="MptForCausalLM",
        model_type="mpt",
        names={
            "context_length": "max_seq_len",
            "embedding_length": "d_model",
            "block_count": "n_layers",
            "attention.head_count": "n_heads",
            "attention.layer_norm_epsilon": "layer_norm_epsilon",
            "attention.max_alibi_bias": "alibi_bias_max",
        },
        ignored=("feed_forward_length", "attention.head_count_kv"),
        rotary=False,
    ),
    "falcon": Architecture(
        architecture="FalconForCausalLM",
        model_type="falcon",
        names={
            "context_length": "max_position_embeddings",
            "embedding_length": "hidden_size",
            "block_count": "num_hidden_layers",
            "feed_forward_length": "ffn_hidden_size",
            "attention.head_count": "num_attention_heads",
            "attention.head_count_kv": "num_kv_heads",
            "attention.layer_norm_epsilon": "layer_norm_epsilon",
        },
        fixed={"new_decoder_architecture": True},
        flags={"num_ln_in_parallel_attn": ("blk.0.attn_norm_2.weight", 2, 1)},
    ),
}
