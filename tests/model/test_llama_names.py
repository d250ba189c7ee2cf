"""Families that are LLaMA, or Granite, under other names: the logits of a checkpoint are those of the renamed one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.checkpoints import make_checkpoint, random_prompt
from support.published_models import baichuan_logits

from flover.errors import ConfigError, ModelError
from model.driver import Driver, load, logits_of_ranks, whole_logits

Tensors = dict[str, torch.Tensor]
PROMPT = random_prompt(3, 45)
EXAONE = {
    "model.embed_tokens": "transformer.wte",
    "model.norm": "transformer.ln_f",
    "model.layers": "transformer.h",
    "input_layernorm": "ln_1",
    "post_attention_layernorm": "ln_2",
    "self_attn.o_proj": "attn.attention.out_proj",
    "self_attn": "attn.attention",
    "mlp.gate_proj": "mlp.c_fc_0",
    "mlp.up_proj": "mlp.c_fc_1",
    "mlp.down_proj": "mlp.c_proj",
}
INTERNLM2 = {
    "lm_head": "output",
    "embed_tokens": "tok_embeddings",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.up_proj": "feed_forward.w3",
    "mlp.down_proj": "feed_forward.w2",
}
QWEN = {
    "model.embed_tokens": "transformer.wte",
    "model.norm": "transformer.ln_f",
    "model.layers": "transformer.h",
    "input_layernorm": "ln_1",
    "post_attention_layernorm": "ln_2",
    "self_attn.o_proj": "attn.c_proj",
    "self_attn": "attn",
    "mlp.gate_proj": "mlp.w2",
    "mlp.up_proj": "mlp.w1",
    "mlp.down_proj": "mlp.c_proj",
}
ZERO_BIASES = {"gate_proj": torch.zeros(80), "up_proj": torch.zeros(80), "down_proj": torch.zeros(48)}


def renamed(tensors: Tensors, names: dict[str, str]) -> Tensors:
    found = {}
    for name, tensor in tensors.items():
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        found[name] = tensor
    return found


def packed(tensors: Tensors) -> Tensors:
    """As Baichuan's, with a table that old versions saved."""
    for layer in range(2):
        name = f"model.layers.{layer}.self_attn.{{}}.weight"
        tensors[name.format("W_pack")] = torch.cat([tensors.pop(name.format(f"{part}_proj")) for part in "qkv"])
        tensors[f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = torch.ones(6)
    return tensors


def internlm2(tensors: Tensors) -> Tensors:
    """Two key heads, with two query heads each: q, q, k, v of one after the other."""
    tensors = renamed(tensors, INTERNLM2)
    for layer in range(2):
        for kind in ("weight", "bias"):
            name = f"model.layers.{layer}.self_attn.{{}}_proj.{kind}"
            query, key, value = (tensors.pop(name.format(part)) for part in "qkv")
            groups = [
                torch.cat((query[24 * g : 24 * g + 24], key[12 * g : 12 * g + 12], value[12 * g : 12 * g + 12]))
                for g in range(2)
            ]
            tensors[f"model.layers.{layer}.attention.wqkv.{kind}"] = torch.cat(groups)
    return tensors


def internlm3(tensors: Tensors) -> Tensors:
    biases = {f"model.layers.{n}.mlp.{part}.bias": w.clone() for n in range(2) for part, w in ZERO_BIASES.items()}
    return tensors | biases


CASES: dict[str, tuple[dict[str, Any], Callable[[Tensors], Tensors]]] = {
    "ExaoneForCausalLM": (
        {
            "model_type": "exaone",
            "num_layers": 2,
            "num_hidden_layers": ...,
            "layer_norm_epsilon": 1e-6,
            "rms_norm_eps": ...,
            "hidden_act": ...,
            "activation_function": "silu",
        },
        lambda tensors: renamed(tensors, EXAONE),
    ),
    "InternLMForCausalLM": ({"model_type": "internlm", "bias": True}, dict),
    "InternLM2ForCausalLM": ({"model_type": "internlm2"}, internlm2),
    "InternLM3ForCausalLM": ({"model_type": "internlm3", "qkv_bias": True, "bias": True}, internlm3),
    "XverseForCausalLM": ({"model_type": "xverse"}, dict),
    "AquilaForCausalLM": ({"model_type": "aquila"}, dict),
}


@pytest.mark.parametrize("architecture", CASES)
def test_llamas_under_other_names_are_llamas(architecture: str, tmp_path: Path) -> None:
    fields, change = CASES[architecture]
    path = make_checkpoint(tmp_path, attention_bias=architecture.startswith("InternLM"))
    expected = whole_logits(load(path), PROMPT)
    edit(path, architectures=[architecture], **fields)
    save_file(change(load_file(path / "model.safetensors")), path / "model.safetensors")
    assert torch.equal(whole_logits(load(path), PROMPT), expected)
    assert (logits_of_ranks(path, PROMPT) - expected).abs().max() < 1e-4


def test_baichuan_7b_has_queries_keys_and_values_in_one_matrix(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, num_key_value_heads=4)
    expected = whole_logits(load(path), PROMPT)
    tensors = packed(load_file(path / "model.safetensors"))
    assert (
        baichuan_logits(tensors, PROMPT, num_heads=4, alibi=False, normalized_head=False) - expected
    ).abs().max() < 1e-4
    save_file(tensors, path / "model.safetensors")
    edit(path, architectures=["BaiChuanForCausalLM"], model_type="baichuan", num_key_value_heads=...)
    assert torch.equal(whole_logits(load(path), PROMPT), expected)
    assert (logits_of_ranks(path, PROMPT) - expected).abs().max() < 1e-4
    edit(path, architectures=...)
    with pytest.raises(ModelError, match="supported"):
        load(path)


BAICHUAN = [(300, "7B", 4, True), (64000, "13B", 6, False), (125696, "13B", 4, True)]


@pytest.mark.parametrize(("vocab_size", "size", "heads", "normalized"), BAICHUAN)
def test_baichuan_2_and_13b_are_their_published_code(
    vocab_size: int, size: str, heads: int, normalized: bool, tmp_path: Path
) -> None:
    """13B has ALiBi and no max_position_embeddings, Baichuan 2 divides the rows of its head by their length."""
    sizes = {"vocab_size": vocab_size, "hidden_size": 6 * heads, "intermediate_size": 20, "num_attention_heads": heads}
    path = make_checkpoint(tmp_path, **sizes, num_key_value_heads=heads)
    tensors = packed(load_file(path / "model.safetensors"))
    save_file(tensors, path / "model.safetensors")
    length = "max_position_embeddings" if size == "7B" else "model_max_length"
    edit(path, architectures=["BaichuanForCausalLM"], model_type="baichuan", num_key_value_heads=..., head_dim=...)
    edit(path, **{"max_position_embeddings": ..., length: 512})
    reference = {"num_heads": heads, "alibi": size == "13B", "normalized_head": normalized}
    expected = baichuan_logits(tensors, PROMPT, **reference)
    assert (whole_logits(load(path), PROMPT) - expected).abs().max() < 1e-4
    assert (logits_of_ranks(path, PROMPT) - expected).abs().max() < 1e-4
    tokens = Driver(load(path)).greedy(0, PROMPT[:9], 64)
    assert tokens == baichuan_logits(tensors, [*PROMPT[:9], *tokens[:-1]], **reference)[8:].argmax(-1).tolist()
    if size == "13B":
        edit(path, vocab_size=vocab_size + 8)
        with pytest.raises(ModelError, match=r"vocab_size is .* only computed with 64000"):
            load(path)


def test_qwen_1_is_qwen_2_with_a_key_head_for_each_query_head(tmp_path: Path) -> None:
    """Up to seq_length; beyond it the model would raise the base of its angles and scale its queries."""
    path = make_checkpoint(tmp_path, "qwen2", num_key_value_heads=4, tie_word_embeddings=False)
    expected = whole_logits(load(path), PROMPT)
    tensors = renamed(load_file(path / "model.safetensors"), QWEN)
    for layer in range(2):
        for kind in ("weight", "bias"):
            name = f"transformer.h.{layer}.attn.{{}}.{kind}"
            tensors[name.format("c_attn")] = torch.cat([tensors.pop(name.format(f"{part}_proj")) for part in "qkv"])
    save_file(tensors, path / "model.safetensors")
    edit(path, architectures=["QWenLMHeadModel"], model_type="qwen", num_key_value_heads=..., rms_norm_eps=...)
    edit(path, intermediate_size=160, kv_channels=12, seq_length=256, layer_norm_epsilon=1e-6, rope_parameters=...)
    edit(path, no_bias=True, rotary_pct=1.0, rotary_emb_base=10000, use_dynamic_ntk=True, use_logn_attn=True)
    assert torch.equal(whole_logits(load(path), PROMPT), expected)
    assert (logits_of_ranks(path, PROMPT) - expected).abs().max() < 1e-4
    with pytest.raises(ConfigError, match=r"--max-model-len is 257, but .* at most 256 tokens"):
        load(path, max_model_len=257)
    for name, value in (("no_bias", False), ("rotary_pct", 0.5), ("intermediate_size", 161)):
        before = json.loads((path / "config.json").read_text())[name]
        edit(path, **{name: value})
        with pytest.raises(ModelError, match=name.replace("rotary_pct", "partial_rotary_factor")):
            load(path)
        edit(path, **{name: before})


def test_minicpms_factors_are_granites(tmp_path: Path) -> None:
    """scale_depth over the root of 2 layers, and a hidden size of 48 over dim_model_base."""
    factors = {"embedding_multiplier": 3.0, "residual_multiplier": 0.5, "logits_scaling": 3.0}
    path = make_checkpoint(tmp_path, "granite", attention_multiplier=12**-0.5, **factors)
    expected = whole_logits(load(path), PROMPT)
    edit(path, **dict.fromkeys([*factors, "attention_multiplier"], ...), architectures=["MiniCPMForCausalLM"])
    edit(path, model_type="minicpm", scale_emb=3, scale_depth=0.5 * 2**0.5, dim_model_base=16)
    assert (whole_logits(load(path), PROMPT) - expected).abs().max() < 1e-5


def edit(path: Path, **changes: Any) -> None:
    """Change fields of a config.json; `...` takes one out."""
    file = path / "config.json"
    data = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in data.items() if value is not ...}))
