"""Models with experts: how their weights are stored and kept, what is read of them, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from gguf_files import write_gguf
from quantized_files import WAYS, write_quantized
from safetensors.torch import load_file, save_file
from support.checkpoints import make_checkpoint, random_prompt, reference_logits

from flover.cli.fits import find_fit
from flover.config import EngineConfig
from flover.errors import ConfigError, ModelError
from flover.memory.machine import Machine
from flover.model.describe import describe_model
from flover.model.formats import expert_reads, read_bytes, weight_bytes
from flover.model.shard import Shard
from model.driver import Driver, load, whole_logits
from model.test_families import edit

PROMPT = random_prompt(1, 45)
WIDE = {"vocab_size": 304, "hidden_size": 256, "moe_intermediate_size": 256, "head_dim": 64}


def test_stacked_blocks_are_kept_for_each_expert_as_they_are_in_the_file(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "model", "qwen3_moe", **WIDE)
    kinds = lambda name: "Q6_K" if "down" in name else "Q8_0" if "attn_v" in name else "Q4_K"  # noqa: E731
    file = write_gguf(path, tmp_path / "m.gguf", "qwen3_moe", kinds)
    loaded = load(file)
    matrices = loaded.decoder.weights.matrices
    stored = {tensor.name: tensor for tensor in GGUFReader(file).tensors}
    gate, up, down = (
        dequantize(stored[f"blk.1.ffn_{part}_exps.weight"].data, stored[f"blk.1.ffn_{part}_exps.weight"].tensor_type)
        for part in ("gate", "up", "down")
    )
    for expert in range(6):
        own = f"layers.1.experts.{expert}"
        assert np.array_equal(matrices[f"{own}.up.weight"].unpack(), np.concatenate([gate[expert], up[expert]]))
        assert np.array_equal(matrices[f"{own}.down.weight"].unpack(), down[expert])
    router = load_file(path / "model.safetensors")["model.layers.1.mlp.gate.weight"]
    assert np.array_equal(matrices["layers.1.router.weight"].unpack(), router.numpy())
    whole = whole_logits(loaded, PROMPT)
    driver = Driver(loaded)
    pieces = [driver.step({0: PROMPT[:9], 1: PROMPT[:1]}), driver.step({0: PROMPT[9:10], 1: PROMPT[1:4]})]
    pieces.append(driver.step({0: PROMPT[10:]}))
    assert torch.equal(torch.cat([piece[0] for piece in pieces]), whole)


Q8_0: dict[str, dict[str, Any]] = {
    "mixtral": {"hidden_size": 256, "intermediate_size": 256},
    "qwen2_moe": {"hidden_size": 256, "moe_intermediate_size": 128, "mlp_only_layers": []},
    "qwen3_moe": WIDE,
}


@pytest.mark.parametrize("family", Q8_0)
def test_a_file_in_q8_0_gives_nearly_the_answers_of_its_checkpoint(family: str, tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "model", family, **Q8_0[family])
    ours = whole_logits(load(write_gguf(path, tmp_path / "m.gguf", family, "Q8_0")), PROMPT)
    theirs = reference_logits(path, PROMPT)
    difference = (ours - theirs).abs().mean(1) / theirs.std()
    assert difference[:8].median() < 0.05  # of two scores that are nearly equal a router may choose the other


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_quantized_experts_stay_near_float32_and_leave_the_router_as_it_is(kind: str, tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, "qwen3_moe", hidden_size=64, moe_intermediate_size=64)
    loaded, wide = load(path, quantization=kind), load(path)
    formats = loaded.description.formats
    assert [rows.format for rows in formats["layers.0.router.weight"]] == ["float32"]
    assert [rows.format for rows in formats["layers.0.experts.5.up.weight"]] == [kind]
    ours, theirs = whole_logits(loaded, PROMPT), whole_logits(wide, PROMPT)
    assert ((ours - theirs).abs().mean(1) / theirs.std()).median() < {"int8": 0.1, "int4": 0.4}[kind]


@pytest.mark.parametrize("way", ["gptq act-order", "fp8 blocks"])
def test_experts_of_quantized_checkpoints_keep_their_numbers(way: str, tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "model", "qwen3_moe", **WIDE)
    quantized, plain = write_quantized(path, tmp_path, WAYS[way])
    ours, theirs = load(quantized), load(plain)
    assert ours.format == WAYS[way].kept
    for name, matrix in theirs.decoder.weights.matrices.items():
        assert np.array_equal(ours.decoder.weights.matrices[name].unpack(), matrix.unpack()), name
    expected = reference_logits(plain, PROMPT)
    difference = (whole_logits(ours, PROMPT) - expected).abs().mean(1) / expected.std()
    assert difference[:8].median() < 0.05


def test_gpt_oss_is_computed_in_its_own_blocks(tmp_path: Path) -> None:
    plain = make_checkpoint(tmp_path / "plain", "gpt_oss", hidden_size=64, intermediate_size=96)
    quantized = Path(shutil.copytree(plain, tmp_path / "quantized"))
    stored = load_file(plain / "model.safetensors")
    numbers, generator = dict(stored), np.random.default_rng(0)
    for name in [name for name in stored if name.endswith("_proj") and ".experts." in name]:
        each = [WAYS["mxfp4"].store(one.T.numpy(), generator) for one in stored.pop(name)]
        numbers[name] = torch.stack([torch.from_numpy(np.ascontiguousarray(own.T)) for _, own in each])
        blocks, scales = (torch.stack([parts[part] for parts, _ in each]) for part in ("weight_packed", "weight_scale"))
        stored |= {f"{name}_blocks": blocks.reshape(*scales.shape, 16).contiguous(), f"{name}_scales": scales}
    save_file(numbers, plain / "model.safetensors")
    save_file(stored, quantized / "model.safetensors")
    edit(quantized, quantization_config={"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.router"]})
    ours, theirs = load(quantized), load(plain)
    assert ours.format == "mxfp4"
    for name, matrix in theirs.decoder.weights.matrices.items():
        assert np.array_equal(ours.decoder.weights.matrices[name].unpack(), matrix.unpack()), name
    expected = reference_logits(plain, PROMPT)
    difference = (whole_logits(ours, PROMPT) - expected).abs().mean(1) / expected.std()
    assert difference[:8].median() < 0.05
    del stored["model.layers.1.mlp.experts.down_proj_scales"]
    save_file(stored, quantized / "model.safetensors")
    with pytest.raises(ModelError, match=r"down_proj_blocks has no model.layers.1.mlp.experts.down_proj_scales"):
        load(quantized)


def test_the_stacked_tensors_of_transformers_5_are_those_of_each_expert(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, "qwen3_moe")
    expected = whole_logits(load(path), PROMPT)
    tensors = load_file(path / "model.safetensors")
    for layer in range(2):
        own = f"model.layers.{layer}.mlp.experts"
        parts = {
            part: torch.stack([tensors.pop(f"{own}.{expert}.{part}_proj.weight") for expert in range(6)])
            for part in ("gate", "up", "down")
        }
        tensors[f"{own}.gate_up_proj"] = torch.cat([parts["gate"], parts["up"]], dim=1)
        tensors[f"{own}.down_proj"] = parts["down"]
    save_file(tensors, path / "model.safetensors")
    assert torch.equal(whole_logits(load(path), PROMPT), expected)


def test_what_an_iteration_reads_is_known_before_it_runs(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, "qwen3_moe", moe_intermediate_size=640, num_experts=16, num_experts_per_tok=2)
    described = describe_model(EngineConfig(model=str(path)), Shard())
    reads, whole = expert_reads(described.config, described.formats), read_bytes(described.config, described.formats)
    one = whole - 2 * 14 * 3 * 48 * 640 * 4  # 2 layers, 14 experts of 3 matrices that a token leaves alone
    assert whole == weight_bytes(described.config, described.formats) - 300 * 48 * 4
    assert whole * reads.share(1) == pytest.approx(one, rel=1e-6)
    settings = EngineConfig(model=str(path), skip_tokenizer_init=True, max_num_seqs=4)
    facts = find_fit(settings, Machine(1, 2**30), lambda threads, size: 1e9).facts
    assert facts["experts"] == "16 in 2 of 2 layers; a token uses 2 of a layer"
    assert facts["reads"] == "1.5 MiB of 11.4 MiB of weights for one token, 4.8 MiB for 4: the experts in use"


def test_a_dummy_model_with_experts_runs(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, "qwen2_moe")
    (path / "model.safetensors").unlink()
    assert whole_logits(load(path, load_format="dummy"), PROMPT).isfinite().all()


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("mixtral", {"num_experts_per_tok": 7}, r"num_experts_per_tok must be at most num_local_experts \(6\), got 7"),
        ("mixtral", {"num_local_experts": 1}, "num_local_experts must be at least 2"),
        ("mixtral", {"num_experts": 7}, "num_experts and num_local_experts are the same number, but they differ"),
        ("mixtral", {"scoring_func": "sigmoid"}, "scoring_func is 'sigmoid'"),
        ("qwen3_moe", {"shared_expert_intermediate_size": 48}, "shared_expert_intermediate_size is 48"),
        ("qwen3_moe", {"mlp_only_layers": [0, "1"]}, "mlp_only_layers must be a list of layers"),
        ("qwen3_moe", {"mlp_only_layers": [0, 1]}, "leave no layer with experts"),
        ("qwen3_moe", {"use_sliding_window": True, "sliding_window": 16}, "sliding_window is 16"),
        ("qwen2_moe", {"moe_intermediate_size": 40}, r"experts.0.*.weight has shape \[48, 48\]"),
        ("qwen2_moe", {"num_experts": 7}, r"missing: .*experts.6"),
        ("llama", {"num_local_experts": 8}, "num_local_experts is 8"),
        ("gpt_oss", {"rope_parameters": ...}, "rope_parameters is missing"),
        ("gpt_oss", {"swiglu_limit": 5.0}, "swiglu_limit is 5.0"),
        ("gpt_oss", {"experts_per_token": 2}, "experts_per_token and num_experts_per_tok are the same number"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(
    family: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = make_checkpoint(tmp_path, family)
    edit(path, **changes)
    with pytest.raises(ModelError, match=message):
        load(path)


def test_ranks_that_cannot_share_an_expert_are_refused(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, "qwen2_moe", moe_intermediate_size=44, mlp_only_layers=[])
    for kind, message in (
        ({}, "--tensor-parallel-size 3 does not divide the model's experts' inner width: 44"),
        ({"quantization": "int8"}, "experts' inner width of 44 into parts of 22, but int8 weights keep 8"),
    ):
        ranks = 2 if kind else 3
        if ranks == 3:
            edit(path, num_attention_heads=3, num_key_value_heads=3)
        else:
            edit(path, num_attention_heads=4, num_key_value_heads=2, head_dim=64)
        with pytest.raises((ConfigError, ModelError), match=message):
            describe_model(
                EngineConfig(model=str(path), tensor_parallel_size=ranks, load_format="dummy", **kind), Shard(0, ranks)
            )
