"""Checkpoints as people save them: other names, other files, a field more or less. Right as transformers has it, or
refused with the reason."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.checkpoints import make_checkpoint, random_prompt, reference_logits

from flover.errors import ModelError
from model.driver import load, whole_logits

PROMPT = random_prompt(5, 45)
TOLERANCE = 1e-4


def edit(path: Path, name: str = "config.json", **changes: Any) -> None:
    """Change fields of a JSON file; `...` takes one out."""
    file = path / name
    data = (json.loads(file.read_text()) if file.exists() else {}) | changes
    file.write_text(json.dumps({key: value for key, value in data.items() if value is not ...}))


def rewrite(path: Path, change: Any) -> None:
    """Put `change(tensors)` in the place of the tensors."""
    file = path / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def assert_as_transformers(path: Path) -> None:
    difference = whole_logits(load(path), PROMPT) - reference_logits(path, PROMPT)
    assert difference.abs().max().item() < TOLERANCE


def refusal(path: Path, **settings: Any) -> str:
    with pytest.raises(ModelError) as caught:
        load(path, **settings)
    return str(caught.value)


@pytest.mark.parametrize("kinds", [["sliding_attention", "full_attention"], ["full_attention"] * 2, None])
def test_mistral_with_layer_types_has_its_window_on_those_layers(kinds: list[str] | None, tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, "mistral")
    edit(path, layer_types=kinds)
    assert_as_transformers(path)


@pytest.mark.parametrize(
    "kind", ["granite", "helium", "smollm3", "cohere", "gemma", "olmo2", "nemotron", "phi3", "Llama"]
)
def test_another_model_type_under_a_known_architecture_is_refused(kind: str, tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path)
    edit(path, model_type=kind)
    message = refusal(path)
    assert "model_type" in message
    assert kind in message


@pytest.mark.parametrize("kind", ["internlm3", "iquestcoder", "exaone"])
def test_llamas_saved_with_a_name_of_their_own_are_computed(kind: str, tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path)
    theirs = reference_logits(path, PROMPT)
    edit(path, model_type=kind)
    assert (whole_logits(load(path), PROMPT) - theirs).abs().max().item() < TOLERANCE
    edit(path, rms_norm_eps=..., layer_norm_epsilon=1e-3)
    assert "layer_norm_epsilon" in refusal(path)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral", "gpt_neox", "gptj"])
def test_scale_switches_are_gpt2s_alone(family: str, tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, family)
    edit(path, scale_attn_weights=False, scale_attn_by_inverse_layer_idx=True)
    assert_as_transformers(path)


CHANGING: dict[str, Any] = {
    "final_logit_softcapping": 30.0,
    "attn_logit_softcapping": 50.0,
    "embedding_multiplier": 12.0,
    "residual_multiplier": 0.22,
    "attention_multiplier": 0.0078125,
    "logits_scaling": 8.0,
    "logit_scale": 0.0625,
    "scale_emb": 12,
    "clip_qkv": 8.0,
    "qk_layernorm": True,
    "use_qk_norm": True,
    "alibi": True,
    "parallel_attn": True,
    "query_pre_attn_scalar": 256,
    "no_rope_layers": [1, 0],
    "sliding_window": 16,
    "layer_types": ["full_attention", "sliding_attention"],
    "num_local_experts": 8,
    "kv_lora_rank": 512,
    "is_causal": False,
    "use_bidirectional_attention": True,
    "is_encoder_decoder": True,
    "rotary_pct": 0.25,
    "rope_local_base_freq": 10000.0,
    "attention_chunk_size": 16,
}


@pytest.mark.parametrize("name", CHANGING)
def test_what_changes_the_computation_is_refused_unless_it_is_neutral(name: str, tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path)
    edit(path, **{name: CHANGING[name]})
    assert name in refusal(path)
    if name != "is_causal":
        edit(path, **{name: None})
        assert_as_transformers(path)


def test_neutral_values_change_nothing(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path)
    edit(path, logit_scale=1.0, residual_multiplier=1, qk_norm=False, num_experts=0, clip_qkv=0, is_causal=True)
    edit(path, use_sliding_window=False, sliding_window=16, no_rope_layers=[1, 1], layer_types=["full_attention"] * 2)
    edit(path, use_mrope=False, pretraining_tp=2, rotary_pct=1.0)
    assert_as_transformers(path)


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "gpt2", "gptj", "gpt_neox"])
@pytest.mark.parametrize("named", [..., None, []])
def test_without_architectures_the_model_type_decides(family: str, named: Any, tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, family)
    edit(path, architectures=named)
    assert_as_transformers(path)
    edit(path, model_type="mamba")
    assert "mamba" in refusal(path)


@pytest.mark.parametrize(
    ("family", "name"),
    [("llama", "LLaMAForCausalLM"), ("llama", "LlamaModel"), ("qwen3", "Qwen3Model"), ("qwen2", "Qwen2Model")],
)
def test_other_names_of_an_architecture(family: str, name: str, tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, family, tie_word_embeddings=True)
    edit(path, architectures=[name])
    rewrite(path, lambda tensors: {key.removeprefix("model."): tensor for key, tensor in tensors.items()})
    before = whole_logits(load(path), PROMPT)
    edit(path, architectures=[name.replace("Model", "ForCausalLM").replace("LLaMA", "Llama")])
    rewrite(path, lambda tensors: {f"model.{key}": tensor for key, tensor in tensors.items()})
    assert torch.equal(before, whole_logits(load(path), PROMPT))
    assert_as_transformers(path)


@pytest.mark.parametrize("name", ["LlamaForSequenceClassification", "LlamaForTokenClassification"])
def test_models_with_another_head_are_refused(name: str, tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path)
    edit(path, architectures=[name])
    assert name in refusal(path)


@pytest.mark.parametrize(
    ("family", "names"),
    [
        ("llama", ["model.rotary_emb.inv_freq", "model.layers.0.self_attn.rotary_emb.cos_cached"]),
        ("gpt_neox", ["gpt_neox.rotary_emb.inv_freq", "gpt_neox.layers.1.attention.rotary_emb.inv_freq"]),
    ],
)
def test_tables_of_angles_are_left_alone(family: str, names: list[str], tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, family)
    rewrite(path, lambda tensors: tensors | {name: torch.ones(3) for name in names})
    assert_as_transformers(path)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2", "gpt_neox", "gptj"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_tied_checkpoint_may_hold_its_head_alone(family: str, dtype: str, tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, family, tie_word_embeddings=True)
    before = whole_logits(load(path, dtype=dtype), PROMPT)
    head = "embed_out.weight" if family == "gpt_neox" else "lm_head.weight"

    def only_head(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        embedding = next(
            name for name in tensors if name.endswith(("embed_tokens.weight", "wte.weight", "embed_in.weight"))
        )
        return {head if name == embedding else name: tensor for name, tensor in tensors.items()}

    rewrite(path, only_head)
    assert torch.equal(whole_logits(load(path, dtype=dtype), PROMPT), before)
    if dtype == "float32":
        assert_as_transformers(path)


@pytest.mark.parametrize("family", ["gpt2", "gptj"])
def test_gpt_configs_may_use_transformers_common_names(family: str, tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, family)
    data = json.loads((path / "config.json").read_text())
    names = {
        "n_embd": "hidden_size",
        "n_layer": "num_hidden_layers",
        "n_head": "num_attention_heads",
        "n_positions": "max_position_embeddings",
    }
    edit(path, **dict.fromkeys(names, ...), **{names[name]: data[name] for name in names})
    assert_as_transformers(path)
    edit(path, n_embd=64)
    assert "hidden_size and n_embd" in refusal(path)


ACTIVATION_NAMES = [
    *("gelu_python_tanh", "gelu_accurate", "gelu_pytorch_tanh", "gelu_new", "gelu_fast", "gelu", "gelu_python"),
    *("quick_gelu", "relu2", "relu", "silu", "swish"),
]


@pytest.mark.parametrize("activation", ACTIVATION_NAMES)
def test_names_of_activations(activation: str, tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path)
    edit(path, hidden_act=activation)
    assert_as_transformers(path)


@pytest.mark.parametrize("activation", ["laplace", "gelu_10", "mish", "tanh"])
def test_activations_without_a_kernel_are_refused_by_name(activation: str, tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path)
    edit(path, hidden_act=activation)
    assert activation in refusal(path)


@pytest.mark.parametrize("dtype", [{"": "float32"}, {"text_config": "bfloat16", "": "float32"}, {}, None, "float32"])
def test_dtype_may_be_a_mapping(dtype: Any, tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path)
    before = whole_logits(load(path), PROMPT)
    edit(path, dtype=dtype)
    assert torch.equal(whole_logits(load(path), PROMPT), before)


@pytest.mark.parametrize("method", ["bitsandbytes", "hqq", "quark"])
def test_quantized_checkpoints_are_refused_by_their_method(method: str, tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path)
    edit(path, quantization_config={"quant_method": method, "bits": 4})
    message = refusal(path)
    assert method in message
    assert "--quantization" in message


def test_quantized_tensors_without_a_word_in_the_config(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path)
    rewrite(path, lambda tensors: tensors | {"model.layers.0.mlp.up_proj.qweight": torch.ones(3, dtype=torch.int32)})
    assert "quantized" in refusal(path)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("m-q4.gguf", "GGUF"),
        ("pytorch_model.bin", "pickles"),
        ("adapter_model.safetensors", "adapter"),
        ("m.onnx", "onnx"),
    ],
)
def test_other_formats_are_refused_by_name(name: str, said: str, tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path)
    (path / "model.safetensors").rename(path / name)
    message = refusal(path)
    assert name in message
    assert said in message


def test_an_adapter_beside_the_model_is_not_applied_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = make_checkpoint(tmp_path)
    before = whole_logits(load(path), PROMPT)
    (path / "adapter_config.json").write_text("{}")
    (path / "adapter_model.safetensors").write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        assert torch.equal(whole_logits(load(path), PROMPT), before)
    assert "adapter" in caplog.text
