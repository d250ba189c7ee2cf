"""GGUF files: the same numbers as the safetensors that they were made from, and errors for what is damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from gguf_files import ARCHITECTURES, LLAMAS, write_gguf
from safetensors.torch import load_file, save_file
from support.checkpoints import make_checkpoint, random_prompt, reference_logits

from flover import LLM, SamplingParams
from flover.cli.fits import find_fit
from flover.config import EngineConfig
from flover.errors import ConfigError, ModelError
from flover.generation_config import read_sampling_defaults
from flover.memory.machine import Machine
from flover.model.describe import describe_model
from flover.model.load import load_model
from flover.model.shard import Shard
from flover.ops import Alone, WeightFormat
from flover.ops.cpu import cpu_ops
from flover.source import open_source
from flover.source.gguf_file import read_header
from flover.weight_formats import GGUF_BLOCKS
from model.driver import Driver, load, whole_logits

PROMPT = random_prompt(1, 45)
CHANGES: dict[str, dict[str, Any]] = {
    "qwen2_moe": {"mlp_only_layers": []},
    "llama": {"attention_bias": True, "mlp_bias": True, "head_dim": 16},
    "gpt_neox": {"rotary_pct": 0.5},
    "gemma3": {"num_hidden_layers": 7, "layer_types": None, "query_pre_attn_scalar": 16},
    "cohere2": {"num_hidden_layers": 5, "layer_types": None},
    "cohere": {"logit_scale": 0.5},
    "gemma2": {"num_hidden_layers": 46, "query_pre_attn_scalar": 12},
    "gpt_bigcode": {"n_inner": 80},
    "exaone4": {"layer_types": ["full_attention", *["sliding_attention"] * 3]},
    "hunyuan": {"rope_parameters": {"rope_type": "default", "rope_theta": 20000.0}},
    "bloom": {"n_head": 6},
    "mpt": {"n_heads": 6},
    "falcon": {"new_decoder_architecture": True, "num_kv_heads": 2},
    "granite": {"residual_multiplier": 0.25, "logits_scaling": 1.5, "attention_bias": True},
    "granitemoe": {"residual_multiplier": 0.25, "logits_scaling": 1.5, "attention_bias": True},
    "granitemoeshared": {"residual_multiplier": 0.25, "logits_scaling": 1.5},
}
KINDS = [*((family, "F32") for family in ARCHITECTURES), ("llama", "F16"), ("qwen2", "BF16"), ("gpt2", "F16")]


@pytest.mark.parametrize(("family", "kind"), KINDS)
def test_a_gguf_file_gives_the_bits_of_its_checkpoint(family: str, kind: str, tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "model", family, **CHANGES.get(family, {}))
    file = write_gguf(path, tmp_path / "model.gguf", family, kind)
    dtype = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[kind]
    tensors = load_file(path / "model.safetensors")
    save_file({name: t.to(dtype) if t.ndim == 2 else t for name, t in tensors.items()}, path / "model.safetensors")
    ours, theirs = load(file), load(path)
    assert ours.format == theirs.format == {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}[kind]
    assert torch.equal(whole_logits(ours, PROMPT), whole_logits(theirs, PROMPT))
    assert ours.config.vocab_size == theirs.config.vocab_size


@pytest.mark.parametrize("architecture", LLAMAS)
def test_llamas_of_other_architectures_are_llamas(architecture: str, tmp_path: Path) -> None:
    base, changes = ("llama", {"attention_bias": architecture == "internlm2", "head_dim": 16})
    if architecture == "minicpm":
        base, changes = "granite", {"attention_multiplier": 12**-0.5, "residual_multiplier": 0.5, "logits_scaling": 2.0}
    if architecture == "qwen":
        base, changes = "qwen2", {"num_key_value_heads": 4, "tie_word_embeddings": False}
    path = make_checkpoint(tmp_path / "model", base, **changes)
    file = write_gguf(path, tmp_path / "model.gguf", architecture)
    assert torch.equal(whole_logits(load(file), PROMPT), whole_logits(load(path), PROMPT))


def test_a_split_file_is_read_whole_and_named_by_its_first_part(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "model")
    write_gguf(path, tmp_path / "m.gguf", "llama", shards=5)
    parts = sorted(tmp_path.glob("m-*.gguf"))
    assert len(parts) > 2
    assert torch.equal(whole_logits(load(parts[0]), PROMPT), whole_logits(load(path), PROMPT))
    with pytest.raises(ModelError, match=r"is part 00002 of .* give the first"):
        load(parts[1])
    parts[1].rename(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match=f"{parts[1].name} is not beside it"):
        load(parts[0])


def test_llama_3_1s_divided_frequencies_are_those_of_its_scaling(tmp_path: Path) -> None:
    scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
    path = make_checkpoint(
        tmp_path / "model", rope_parameters={"rope_type": "llama3", "rope_theta": 10000.0, **scaling}
    )
    plain = 1.0 / 10000.0 ** (np.arange(0, 12, 2) / 12)
    waves = 2 * np.pi / plain
    smooth = (32 / waves - 1) / 3
    factors = np.where(waves < 8, 1, np.where(waves > 32, 8, 1 / ((1 - smooth) / 8 + smooth)))
    file = write_gguf(path, tmp_path / "m.gguf", "llama", extra={"rope_freqs.weight": factors})
    assert (whole_logits(load(file), PROMPT) - reference_logits(path, PROMPT)).abs().max() < 1e-4
    assert load(file).max_len == 512


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"llama.expert_group_count": 2}, "expert_group_count is 2"),
        ({"llama.logit_scale": 0.5}, "logit_scale is 0.5"),
        ({"llama.attention.clamp_kqv": 8.0}, "clamp_kqv is 8.0"),
        ({"llama.rope.scaling.type": "spiral"}, "spiral"),
        ({"llama.attention.sliding_window_pattern": [True, False]}, "sliding_window_pattern differs"),
        ({"llama.attention.head_count_kv": [2, 2]}, "head_count_kv differs from layer to layer"),
        ({"general.architecture": "mamba"}, r"'mamba' is not supported; supported: llama"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(metadata: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "model")
    file = write_gguf(path, tmp_path / "m.gguf", "llama", metadata=metadata)
    with pytest.raises(ModelError, match=message):
        load(file)


def test_an_unknown_type_and_a_tensor_too_many_are_named(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "model", hidden_size=256, intermediate_size=256)
    with pytest.raises(ModelError, match=r"attn_q.weight.* has type tq1_0, but only F32"):
        load(write_gguf(path, tmp_path / "a.gguf", "llama", "TQ1_0"))
    extra = {"blk.0.attn_sinks.weight": np.zeros(4)}
    with pytest.raises(ModelError, match=r"left over .*blk.0.attn_sinks.weight"):
        load(write_gguf(path, tmp_path / "b.gguf", "llama", extra=extra))
    with pytest.raises(ModelError, match=r"give one of them as the model, such as .*a.gguf"):
        load(tmp_path)


def test_llm_and_doctor_take_a_file_with_its_tokenizer_and_template(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "model", tokenizer=True)
    described = json.loads((path / "tokenizer.json").read_text())
    vocabulary = sorted(described["model"]["vocab"], key=described["model"]["vocab"].get)
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": [*vocabulary, "<|end|>", "!!", *(f"unused {n}" for n in range(42))],
        "tokenizer.ggml.token_type": [*[1] * 256, 3, 1, *[5] * 42],
        "tokenizer.ggml.merges": ["! !"],
        "tokenizer.ggml.eos_token_id": 256,
        "tokenizer.chat_template": json.loads((path / "tokenizer_config.json").read_text())["chat_template"],
        "general.sampling.temp": 0.25,
    }
    file = write_gguf(path, tmp_path / "m.gguf", "llama", metadata=metadata)
    params = SamplingParams(temperature=0, max_tokens=24)
    found = []
    for place in (path, file):
        with LLM(place, num_threads=1) as llm:
            answer = llm.chat([{"role": "user", "content": "Hello, naïve  world"}], params, use_tqdm=False)[0]
            found.append((answer.prompt_token_ids, answer.outputs[0].token_ids))
    assert found[0] == found[1]
    assert read_sampling_defaults(open_source(file)) == {"temperature": 0.25}
    assert load(file).config.eos_ids == (256,)
    fit = find_fit(EngineConfig(model=str(file)), Machine(1, 2**30), lambda threads, size: 1e9)
    assert fit.fits
    assert fit.facts["path"] == str(file)


WIDE = {"vocab_size": 304, "hidden_size": 256, "intermediate_size": 256, "head_dim": 64}


@pytest.mark.parametrize("kind", GGUF_BLOCKS)
def test_blocks_are_kept_as_they_are_in_the_file(kind: WeightFormat, tmp_path: Path) -> None:
    """Every matrix but the values, which are in Q8_0; queries and keys in Hugging Face's order."""
    path = make_checkpoint(tmp_path / "model", **WIDE)
    kinds = lambda name: "Q8_0" if "attn_v" in name else kind.upper()  # noqa: E731
    file = write_gguf(path, tmp_path / "m.gguf", "llama", kinds)
    loaded = load(file)
    assert loaded.format == kind
    matrices = loaded.decoder.weights.matrices
    numbers = {tensor.name: dequantize(tensor.data, tensor.tensor_type) for tensor in GGUFReader(file).tensors}
    up = np.concatenate([numbers["blk.1.ffn_gate.weight"], numbers["blk.1.ffn_up.weight"]])
    query, key = numbers["blk.1.attn_q.weight"], numbers["blk.1.attn_k.weight"]
    query, key = (rows.reshape(-1, 32, 2, 256).swapaxes(1, 2).reshape(-1, 256) for rows in (query, key))
    qkv = np.concatenate([query, key, numbers["blk.1.attn_v.weight"]])
    for name, expected in (("up", up), ("qkv", qkv), ("down", numbers["blk.1.ffn_down.weight"])):
        assert np.array_equal(matrices[f"layers.1.{name}.weight"].unpack(), expected), name
    assert np.array_equal(matrices["embed.weight"].unpack(), numbers["token_embd.weight"])
    packed = sum(matrix.num_bytes for matrix in matrices.values()) + 5 * 256 * 4
    assert loaded.description.weight_bytes == pytest.approx(packed, rel=0.02)
    with pytest.raises(ConfigError, match=f"--quantization is int8, but .* is stored in .*{kind}"):
        load(file, quantization="int8")


class Rank(Alone):
    """One of two ranks that are never asked to compute."""

    size = 2

    def __init__(self, rank: int) -> None:
        self.rank = rank


def test_ranks_keep_their_share_of_the_blocks(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "model", **WIDE | {"intermediate_size": 512, "head_dim": 128})
    file = write_gguf(path, tmp_path / "m.gguf", "llama", lambda name: "Q8_0" if "attn_v" in name else "Q4_K")
    config = EngineConfig(model=str(file), tensor_parallel_size=2)
    whole = load(file).decoder.weights.matrices
    for rank in range(2):
        loaded = load_model(config, cpu_ops("auto", 1, Rank(rank)), lambda done, total: None)
        shard = Shard(rank, 2)
        for name in ("qkv", "out", "up", "down"):
            name = f"layers.1.{name}.weight"
            ours, theirs = loaded.decoder.weights.matrices[name].unpack(), whole[name].unpack()
            cut = shard.cut(name, theirs.shape, loaded.config)
            for first, count, own in cut.pieces(0, len(theirs)):
                rows = theirs[first : first + count]
                start = cut.part.start if cut.part else 0
                assert np.array_equal(ours[own : own + count], rows[:, start : start + ours.shape[1]]), name
    narrow = write_gguf(make_checkpoint(tmp_path / "narrow", **WIDE), tmp_path / "n.gguf", "llama", "Q4_K")
    with pytest.raises(ConfigError, match=r"attention output of 256 into parts of 128, but q4_k weights keep 256"):
        describe_model(EngineConfig(model=str(narrow), tensor_parallel_size=2), Shard(0, 2))


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_a_file_in_q8_0_gives_nearly_the_answers_of_its_checkpoint(family: str, tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "model", family, **WIDE)
    ours = whole_logits(load(write_gguf(path, tmp_path / "m.gguf", family, "Q8_0")), PROMPT)
    theirs = reference_logits(path, PROMPT)
    assert (ours - theirs).abs().mean() < 0.05 * theirs.std()
    driver = Driver(load(tmp_path / "m.gguf"))
    pieces = [driver.step({0: PROMPT[:9], 1: PROMPT[:1]}), driver.step({0: PROMPT[9:10], 1: PROMPT[1:4]})]
    pieces.append(driver.step({0: PROMPT[10:]}))
    assert torch.equal(torch.cat([piece[0] for piece in pieces]), ours)


def test_gate_and_values_of_two_types_are_refused_by_name(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "model", **WIDE)
    file = write_gguf(path, tmp_path / "m.gguf", "llama", lambda name: "Q8_0" if "gate" in name else "Q4_0")
    with pytest.raises(ModelError, match=r"ffn_gate.weight is q8_0, blk.0.ffn_up.weight is q4_0"):
        load(file)


def test_scales_that_are_not_finite_are_named(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "model", **WIDE)
    file = write_gguf(path, tmp_path / "m.gguf", "llama", "Q8_0")
    start = next(stored.start for stored in read_header(file).tensors if stored.name == "blk.1.ffn_down.weight")
    raw = bytearray(file.read_bytes())
    raw[start : start + 2] = b"\x00\x7c"
    file.write_bytes(raw)
    with pytest.raises(ModelError, match=r"blk.1.ffn_down.weight: "):
        load(file)
