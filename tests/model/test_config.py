"""Config files as transformers 4 and 5 write them say the same, and what Flover cannot run is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from flover.errors import ModelError
from flover.model.config import ModelConfig
from flover.model.family_rows import FAMILIES
from flover.model.hf_config import read_config
from flover.model.text_parts import TEXT_PARTS

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
}
QWEN2 = {**LLAMA, "architectures": ["Qwen2ForCausalLM"]}
NEOX = {**LLAMA, "architectures": ["GPTNeoXForCausalLM"]}
GPTJ = {
    "architectures": ["GPTJForCausalLM"],
    "n_embd": 64,
    "n_layer": 2,
    "n_head": 4,
    "vocab_size": 1000,
    "n_positions": 128,
    "rotary_dim": 8,
}
GPT2 = {**GPTJ, "architectures": ["GPT2LMHeadModel"]}

LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 1024}
LONG = {"short_factor": [1.0] * 8, "long_factor": [4.0] * 8}

PAIRS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "default": (
        {**LLAMA, "rope_theta": 5e5, "rope_scaling": None, "torch_dtype": "bfloat16"},
        {**LLAMA, "rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}, "dtype": "bfloat16"},
    ),
    "linear under its old key": (
        {**LLAMA, "rope_scaling": {"type": "linear", "factor": 4.0}},
        {**LLAMA, "rope_parameters": {"rope_theta": 10000.0, "rope_type": "linear", "factor": 4.0}},
    ),
    "llama3": (
        {**LLAMA, "rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", **LLAMA3}},
        {**LLAMA, "rope_parameters": {"rope_theta": 5e5, "rope_type": "llama3", **LLAMA3}},
    ),
    "yarn without the trained context": (
        {**QWEN2, "rope_theta": 1e6, "rope_scaling": {"type": "yarn", "factor": 4.0}},
        {
            **QWEN2,
            "rope_parameters": {
                "rope_theta": 1e6,
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 4096,
            },
        },
    ),
    "longrope under its old name, trained context outside": (
        {**LLAMA, "rope_scaling": {"type": "su", **LONG}, "original_max_position_embeddings": 1024},
        {
            **LLAMA,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 1e4,
                "factor": 4.0,
                "original_max_position_embeddings": 1024,
                **LONG,
            },
        },
    ),
    "nested by layer type": (
        {**QWEN2, "rope_theta": 1e6},
        {
            **QWEN2,
            "layer_types": ["full_attention"] * 3,
            "rope_parameters": {"full_attention": {"rope_theta": 1e6, "rope_type": "default"}},
        },
    ),
    "window by the number of layers without": (
        {**QWEN2, "use_sliding_window": True, "sliding_window": 32, "max_window_layers": 1},
        {
            **QWEN2,
            "use_sliding_window": True,
            "sliding_window": 32,
            "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
        },
    ),
    "neox": (
        {**NEOX, "rotary_pct": 0.5, "rotary_emb_base": 20000},
        {
            **NEOX,
            "rope_parameters": {"rope_theta": 20000.0, "rope_type": "default", "partial_rotary_factor": 0.5},
        },
    ),
}


def config_of(data: dict[str, Any]) -> ModelConfig:
    return read_config(data)[1]


def windows(config: ModelConfig) -> list[int | None]:
    return [layer.window for layer in config.layers]


@pytest.mark.parametrize("name", PAIRS)
def test_version_4_and_5_say_the_same(name: str) -> None:
    old, new = PAIRS[name]
    assert config_of(old) == config_of(new)
    plain = {key: value for key, value in old.items() if key in {*LLAMA, *GPTJ}}
    assert config_of(old) != config_of(plain)  # the fields were read at all


def test_fields_left_out_have_transformers_defaults() -> None:
    llama = config_of({key: value for key, value in LLAMA.items() if key != "max_position_embeddings"})
    assert (llama.max_position_embeddings, llama.activation, llama.tied_embeddings) == (2048, "silu", False)
    assert config_of({**LLAMA, "num_key_value_heads": None}).num_kv_heads == 4
    assert config_of({**LLAMA, "architectures": ["Qwen3ForCausalLM"]}).head_dim == 128
    assert windows(config_of({**LLAMA, "architectures": ["MistralForCausalLM"]})) == [4096] * 3
    assert windows(config_of(QWEN2)) == [None] * 3
    assert config_of(GPT2).tied_embeddings
    assert config_of(GPT2).intermediate_size == 256
    assert [rope.dim for rope in config_of(NEOX).ropes] == [4]


def test_null_window_is_no_window() -> None:
    mistral = {**LLAMA, "architectures": ["MistralForCausalLM"], "sliding_window": None}
    assert windows(config_of(mistral)) == [None] * 3


def test_eos_ids_are_one_or_many_and_possible() -> None:
    assert config_of({**LLAMA, "eos_token_id": 2}).eos_ids == (2,)
    assert config_of({**LLAMA, "eos_token_id": [2, 7]}).eos_ids == (2, 7)
    assert config_of({**LLAMA, "eos_token_id": 50256}).eos_ids == ()


def test_longest_context_follows_the_scaling() -> None:
    def lens(**rope: Any) -> tuple[int, int]:
        config = config_of({**LLAMA, "rope_scaling": rope} if rope else LLAMA)
        return config.default_max_len, config.longest_max_len

    assert lens() == (4096, 4096)
    assert lens(rope_type="linear", factor=2.0) == (8192, 8192)
    assert lens(rope_type="dynamic", factor=2.0) == (4096, 8192)
    assert lens(rope_type="yarn", factor=2.0) == (8192, 8192)
    assert lens(rope_type="yarn", factor=4.0, original_max_position_embeddings=1024) == (4096, 4096)
    assert lens(rope_type="llama3", **LLAMA3) == (4096, 4096)
    assert config_of(GPT2).longest_max_len == 128


def test_bytes_of_keys_and_values() -> None:
    config = config_of(LLAMA)
    assert config.kv_bytes_per_token("float32") == 2 * 3 * 2 * 16 * 4
    assert config.kv_bytes_per_token("bfloat16") == 2 * 3 * 2 * 16 * 2


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "architecture": ({**LLAMA, "architectures": ["MambaForCausalLM"]}, r"MambaForCausalLM.*LlamaForCausalLM"),
    "no architecture": ({**LLAMA, "architectures": None}, "architectures"),
    "rope type": ({**LLAMA, "rope_scaling": {"type": "spiral", "factor": 2}}, r"spiral.*llama3"),
    "activation": ({**LLAMA, "hidden_act": "xielu"}, r"hidden_act.*xielu.*silu"),
    "quantization": ({**LLAMA, "quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
    "cross attention": ({**GPT2, "add_cross_attention": True}, "add_cross_attention"),
    "partial rotary llama": ({**LLAMA, "partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    "different ropes by layer": (
        {**QWEN2, "rope_parameters": {"a": {"rope_theta": 1.5}, "b": {"rope_theta": 2.5}}},
        "rope_parameters differ",
    ),
    "heads": ({**LLAMA, "num_attention_heads": 5}, r"hidden_size \(64\).*num_attention_heads \(5\)"),
    "key heads": ({**LLAMA, "num_key_value_heads": 3}, r"num_key_value_heads \(3\) must divide"),
    "missing size": ({k: v for k, v in LLAMA.items() if k != "hidden_size"}, "hidden_size is missing"),
    "negative size": ({**LLAMA, "vocab_size": -1}, "vocab_size must be an integer"),
    "text size": ({**LLAMA, "vocab_size": "1000"}, "vocab_size must be an integer"),
    "true size": ({**LLAMA, "vocab_size": True}, "vocab_size must be an integer"),
    "huge size": ({**LLAMA, "num_hidden_layers": 2**30}, "num_hidden_layers must be an integer between 1 and 10000"),
    "nan": ({**LLAMA, "rms_norm_eps": float("nan")}, "rms_norm_eps"),
    "theta": ({**LLAMA, "rope_theta": 0}, "rope_theta"),
    "factor missing": ({**LLAMA, "rope_scaling": {"type": "linear"}}, "factor is missing"),
    "longrope factors": (
        {**LLAMA, "rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}},
        "short_factor must be a list of 8 numbers",
    ),
    "rope is no object": ({**LLAMA, "rope_scaling": "linear"}, "rope_scaling must be an object"),
    "rotary dim": ({**GPTJ, "rotary_dim": 40}, "rotary_dim"),
    "layer types": ({**QWEN2, "use_sliding_window": True, "layer_types": ["full_attention", {}, []]}, "layer_types"),
    "eos": ({**LLAMA, "eos_token_id": "</s>"}, "eos_token_id"),
    "tie": ({**LLAMA, "tie_word_embeddings": "yes"}, "tie_word_embeddings must be true or false"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_run_is_refused_by_name(name: str) -> None:
    data, message = REFUSED[name]
    with pytest.raises(ModelError, match=message):
        read_config(data)


def test_remote_code_is_never_followed() -> None:
    data = {**LLAMA, "auto_map": {"AutoModelForCausalLM": "evil.Model"}}
    assert config_of(data) == config_of(LLAMA)


def test_there_is_a_row_for_every_family() -> None:
    assert set(FAMILIES) >= {
        "LlamaForCausalLM",
        "MistralForCausalLM",
        "Qwen2ForCausalLM",
        "Qwen3ForCausalLM",
        "GPT2LMHeadModel",
        "GPTJForCausalLM",
        "GPTNeoXForCausalLM",
    }


def test_every_other_architecture_of_transformers_is_refused_by_name() -> None:
    """By the name of its class, by its model_type alone, and as the type of an architecture that is computed."""
    known = {name for family in FAMILIES.values() for name in family.aliases} | FAMILIES.keys() | TEXT_PARTS.keys()
    types = {kind for family in FAMILIES.values() for kind in family.model_types}
    refused = [
        (name, kind)
        for kind, names in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items()
        for name in ([names] if isinstance(names, str) else names)
        if name not in known
    ]
    assert {"DeepseekV3ForCausalLM", "Qwen3NextForCausalLM", "Llama4ForCausalLM", "DbrxForCausalLM"} < dict(
        refused
    ).keys()
    for name, kind in refused:
        assert kind not in types
        with pytest.raises(ModelError, match=f"architecture '{name}' is not supported; supported: LlamaForCausalLM"):
            read_config({"architectures": [name], "model_type": kind})
        for named in ([], ["LlamaForCausalLM"]):
            with pytest.raises(ModelError, match=f"'?{kind}"):
                read_config({"architectures": named, "model_type": kind})
