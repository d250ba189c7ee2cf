"""Families beside those of the laws: each computes what transformers computes, alone, in chunks and in a batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.checkpoints import load_reference, logits_of, make_checkpoint, random_prompt

from flover.errors import ConfigError, ModelError
from flover.model.hf_config import read_config
from model.driver import Driver, load, logits_of_ranks, whole_logits

TOLERANCE = 1e-4
LONG = {"rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
BETA = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 32.0, "original_max_position_embeddings": 16}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "phi": ("phi", {}),
    "phi3": ("phi3", {}),
    "phi3 without a window, part of a head": (
        "phi3",
        {
            "sliding_window": None,
            "rope_parameters": {**LONG, "short_factor": [1.0, 1.5, 2.0], "long_factor": [1.0, 3.0, 6.0]},
            "original_max_position_embeddings": 32,
        },
    ),
    "stablelm": ("stablelm", {}),
    "stablelm parallel": ("stablelm", {"use_parallel_residual": True, "use_qkv_bias": False}),
    "starcoder2": ("starcoder2", {}),
    "starcoder2 without biases": ("starcoder2", {"use_bias": False, "sliding_window": None}),
    "ministral3": ("ministral3", {}),
    "mistral3, the text of": ("mistral3", {}),
    "gemma3 with images, the text of": ("gemma3 with images", {}),
    "granitemoehybrid without a hybrid layer": ("granitemoehybrid", {"attention_bias": True}),
    "vaultgemma": ("vaultgemma", {}),
    "jais2": ("jais2", {}),
    "flex_olmo": ("flex_olmo", {}),
    "hunyuan_moe": ("hunyuan_moe", {"attention_bias": True}),
    "seed_oss": ("seed_oss", {}),
    "smollm3": ("smollm3", {}),
    "smollm3 other layers": ("smollm3", {"no_rope_layers": [0, 1, 1, 0], "tie_word_embeddings": False}),
    "glm": ("glm", {}),
    "glm4": ("glm4", {}),
    "hunyuan": ("hunyuan", {"attention_bias": True}),
    "arcee": ("arcee", {}),
    "nemotron": ("nemotron", {}),
    "helium": ("helium", {"attention_bias": True}),
    "ernie4_5": ("ernie4_5", {}),
    "cohere": ("cohere", {"attention_bias": True, "logit_scale": 0.3}),
    "cohere2": ("cohere2", {"layer_types": ["full_attention", "sliding_attention"] * 2}),
    "exaone4": ("exaone4", {}),
    "exaone4 without windows": ("exaone4", {"sliding_window": None, "layer_types": ["full_attention"] * 4}),
    "granite": ("granite", {"attention_bias": True, "mlp_bias": True}),
    "gemma": ("gemma", {}),
    "gemma untied": ("gemma", {"tie_word_embeddings": False, "attention_bias": True}),
    "olmo": ("olmo", {}),
    "olmo2": ("olmo2", {"attention_bias": True}),
    "olmo3": ("olmo3", {}),
    "gemma2": ("gemma2", {}),
    "gemma2 without bounds": ("gemma2", {"attn_logit_softcapping": None, "final_logit_softcapping": None}),
    "cwm": ("cwm", {}),
    "gpt_bigcode": ("gpt_bigcode", {"n_inner": 80}),
    "gpt_bigcode with a key head for each query head": ("gpt_bigcode", {"multi_query": False}),
    "gpt_neo": ("gpt_neo", {}),
    "codegen": ("codegen", {}),
    "opt": ("opt", {}),
    "opt without biases": ("opt", {"enable_bias": False, "tie_word_embeddings": False}),
    "bloom": ("bloom", {}),
    "bloom with 6 heads": ("bloom", {"n_head": 6}),
    "mpt": ("mpt", {}),
    "mpt with 6 heads": ("mpt", {"n_heads": 6}),
    "falcon 7b": ("falcon", {}),
    "falcon 40b": ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2, "bias": True}),
    "falcon 11b": ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2, "num_ln_in_parallel_attn": 1}),
    "falcon rw": ("falcon", {"alibi": True, "parallel_attn": False, "multi_query": False, "bias": True}),
    "gpt_oss": ("gpt_oss", {}),
    "olmoe": ("olmoe", {"attention_bias": True}),
    "olmoe normalized": ("olmoe", {"norm_topk_prob": True, "num_key_value_heads": 4}),
    "granitemoe": ("granitemoe", {"attention_bias": True}),
    "granitemoeshared": ("granitemoeshared", {}),
    "mixtral": ("mixtral", {"sliding_window": 16}),
    "qwen2_moe": ("qwen2_moe", {"num_hidden_layers": 4, "mlp_only_layers": [2]}),
    "qwen2_moe every second layer": (
        "qwen2_moe",
        {"mlp_only_layers": [], "decoder_sparse_step": 2, "norm_topk_prob": True},
    ),
    "qwen3_moe": ("qwen3_moe", {"attention_bias": True}),
    "qwen3_moe weights of all experts": ("qwen3_moe", {"norm_topk_prob": False, "tie_word_embeddings": True}),
    "gemma3": ("gemma3", {}),
    "gemma3 untied, six layers by the pattern": (
        "gemma3",
        {"num_hidden_layers": 6, "layer_types": None, "tie_word_embeddings": False, "rope_parameters": None},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_logits_and_tokens_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    family, changes = CASES[name]
    path = make_checkpoint(tmp_path, family, **changes)
    loaded, reference, prompt = load(path), load_reference(path), random_prompt(3, 45)
    expected = logits_of(reference, prompt)
    whole = whole_logits(loaded, prompt)
    assert (whole - expected).abs().max().item() < TOLERANCE
    if loaded.config.qk_norm == "all_heads":
        with pytest.raises(ConfigError, match="tensor-parallel-size 2: the norm of this model's queries and keys"):
            logits_of_ranks(path, prompt)
    else:
        assert torch.equal(logits_of_ranks(path, prompt), whole)
    driver, other = Driver(loaded, num_pages=160), random_prompt(4, 40)
    pieces = [driver.step({0: prompt[:7], 1: other[:20]}), driver.step({0: prompt[7:8], 1: other[20:]})]
    pieces.append(driver.step({0: prompt[8:]}))
    assert torch.equal(torch.cat([piece[0] for piece in pieces]), whole)
    theirs = torch.cat([piece[1] for piece in pieces[:2]])
    assert (theirs - logits_of(reference, other)).abs().max().item() < TOLERANCE
    tokens = driver.greedy(2, prompt[:21], 64)
    assert tokens == logits_of(reference, prompt[:21] + tokens)[20:-1].argmax(-1).tolist()  # so, one after another


OLD: dict[str, dict[str, Any]] = {
    "gemma": {"hidden_act": "gelu"},
    "gemma3": {
        "rope_parameters": ...,
        "rope_theta": 1e6,
        "rope_local_base_freq": 10000.0,
        "rope_scaling": {"rope_type": "linear", "factor": 4.0},
    },
    "olmo3": {
        "rope_parameters": ...,
        "rope_theta": 5e5,
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128},
        "layer_types": ...,
    },
    "phi3": {"rope_parameters": ..., "rope_theta": 10000.0, "rope_scaling": None},
    "smollm3": {"no_rope_layers": ..., "no_rope_layer_interval": 4, "rope_parameters": ..., "rope_theta": 2e6},
}


@pytest.mark.parametrize("family", OLD)
def test_configs_of_transformers_4_say_the_same(family: str, tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, family)
    new, prompt = whole_logits(load(path), random_prompt(3, 45)), random_prompt(3, 45)
    edit(path, **OLD[family])
    assert torch.equal(whole_logits(load(path), prompt), new)


def edit(path: Path, **changes: Any) -> None:
    """Change fields of a config.json; `...` takes one out."""
    file = path / "config.json"
    data = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in data.items() if value is not ...}))


NEW_NAMES = {
    "language_model.model.": "model.language_model.",
    "language_model.lm_head": "lm_head",
    "vision_tower.": "model.vision_tower.",
    "multi_modal_projector.": "model.multi_modal_projector.",
}


def test_the_text_of_a_larger_model_goes_by_either_name_and_says_what_it_is(tmp_path: Path) -> None:
    path, prompt = make_checkpoint(tmp_path, "mistral3"), random_prompt(3, 45)
    before, file = whole_logits(load(path), prompt), path / "model.safetensors"
    renamed = {}
    for name, tensor in load_file(file).items():
        old = next(old for old in NEW_NAMES if name.startswith(old))
        renamed[name.replace(old, NEW_NAMES[old], 1)] = tensor
    save_file(renamed, file)
    assert torch.equal(whole_logits(load(path), prompt), before)
    config = json.loads((path / "config.json").read_text())
    for changes, message in (
        ({"text_config": None}, "text_config is missing"),
        (
            {"text_config": config["text_config"] | {"model_type": "qwen3"}},
            "text_config has model_type 'qwen3', but only mi",
        ),
        ({"model_type": "llava"}, "model_type must be mistral3, got 'llava'"),
    ):
        with pytest.raises(ModelError, match=message):
            read_config(config | changes)


def test_what_gemma_3_4bs_config_leaves_out(tmp_path: Path) -> None:
    """Its text_config has these six keys alone."""
    text = {"hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text", "num_hidden_layers": 34}
    text |= {"rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024}
    outer = {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "eos_token_id": [1, 106]}
    _, config = read_config({**outer, "text_config": text})
    assert (config.num_heads, config.num_kv_heads, config.head_dim, config.vocab_size) == (8, 4, 256, 262208)
    assert config.tied_embeddings and config.eos_ids == (1, 106)
    assert [layer.window for layer in config.layers[:6]] == [1024] * 5 + [None]
    assert [layer.rope.factor for layer in config.layers[4:6] if layer.rope is not None] == [1.0, 8.0]


def test_mpts_own_slopes_are_read(tmp_path: Path) -> None:
    """transformers computes with a largest of 8 whatever the file says, MPT's own code with that of the file."""
    path = make_checkpoint(tmp_path, "mpt", n_heads=6, attn_config={"alibi_bias_max": 16})
    assert load(path).config.alibi_slopes == (2.0**-4, 2.0**-8, 2.0**-12, 2.0**-16, 2.0**-2, 2.0**-6)


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("phi", {"qk_layernorm": True}, "qk_layernorm"),
        ("stablelm", {"qk_layernorm": True}, "qk_layernorm"),
        ("gemma3", {"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
        ("gemma3", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("gemma3", {"sliding_window_pattern": 0, "layer_types": None}, "sliding_window_pattern"),
        ("smollm3", {"no_rope_layers": [1, 2, 0, 1]}, "no_rope_layers must hold 4 of 0 and 1"),
        ("smollm3", {"use_sliding_window": True, "sliding_window": 8, "layer_types": None}, "layer_types is missing"),
        ("olmo", {"clip_qkv": 8.0}, "clip_qkv"),
        ("gemma", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ("opt", {"do_layer_norm_before": False}, "do_layer_norm_before"),
        (
            "opt",
            {"word_embed_proj_dim": 32},
            "word_embed_proj_dim is 32: this architecture is only .* with hidden_size",
        ),
        ("mpt", {"attn_config": {"clip_qkv": 6.0}}, "clip_qkv"),
        ("mpt", {"attn_config": {"alibi": False}}, "alibi is False: this architecture is only computed with True"),
        ("gpt_neo", {"attention_types": [[["local"], 10**12]]}, "attention_types must hold 4 of global and local"),
        ("gpt_neo", {"attention_types": [["local"], 4]}, "attention_types must hold 4 of global and local"),
        ("falcon", {"alibi": "true"}, "alibi must be true or false"),
        ("falcon", {"num_ln_in_parallel_attn": "1"}, "num_ln_in_parallel_attn must be an integer"),
        ("cwm", {"layer_types": None}, "layer_types is missing"),
        ("bloom", {"apply_residual_connection_post_layernorm": True}, "apply_residual_connection_post_layernorm"),
        ("gpt_bigcode", {"scale_attn_weights": False}, "scale_attn_weights"),
        ("cohere", {"use_qk_norm": True}, "use_qk_norm"),
        ("cohere2", {"sliding_window": None}, "sliding_window is missing"),
        ("phi3", {"model_type": "phimoe"}, "model_type"),
        ("hunyuan_moe", {"moe_topk": [3, 2]}, "moe_topk must be an integer"),
        ("hunyuan_moe", {"moe_topk": [3, 3], "num_shared_expert": [2, 2]}, "num_shared_expert is 2"),
        ("hunyuan_moe", {"moe_intermediate_size": [64, 64]}, "moe_intermediate_size is 64: .* with intermediate_size"),
        ("granitemoehybrid", {"layer_types": ["mamba", "attention"]}, "layer_types must be 2 × full_attention"),
        ("granitemoehybrid", {"layer_types": ...}, "layer_types is missing"),
        ("granitemoehybrid", {"position_embedding_type": None}, "position_embedding_type is missing"),
        ("granitemoehybrid", {"num_local_experts": 4}, "num_local_experts is 4"),
        ("ministral3", {"rope_parameters": None}, "rope_parameters is missing"),
        (
            "ministral3",
            {"model_type": "mistral", "architectures": ["MistralForCausalLM"]},
            "llama_4_scaling_beta is there",
        ),
        (
            "ministral3",
            {"rope_parameters": BETA | {"llama_4_scaling_beta": 0.3}},
            "llama_4_scaling_beta .* below 0.286",
        ),
        ("ministral3", {"rope_parameters": BETA}, "llama_4_scaling_beta is missing"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(
    family: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = make_checkpoint(tmp_path, family)
    edit(path, **changes)
    with pytest.raises(ModelError, match=message):
        load(path)
