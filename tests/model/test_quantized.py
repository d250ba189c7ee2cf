"""Quantized checkpoints: their numbers bit for bit, transformers' answers with these numbers, and errors by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from quantized_files import LINEARS, WAYS, WIDE, Quantized, edit_tensors, gptq, write_quantized
from safetensors.torch import load_file
from support.checkpoints import load_reference, make_checkpoint, random_prompt, reference_logits

from flover.cli.fits import find_fit
from flover.config import EngineConfig
from flover.errors import ConfigError, ModelError
from flover.memory.machine import Machine
from flover.model.describe import describe_model
from flover.model.load import LoadedModel, load_model
from flover.model.shard import Shard
from flover.ops import Alone
from flover.ops.cpu import cpu_ops
from model.driver import Driver, load, whole_logits

PROMPT = random_prompt(1, 45)


@dataclass(frozen=True, slots=True)
class Case:
    way: Quantized
    quantized: Path
    plain: Path
    loaded: LoadedModel


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model") / "model", **WIDE)


@pytest.fixture(scope="module", params=WAYS)
def case(request: pytest.FixtureRequest, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Case:
    way = WAYS[request.param]
    quantized, plain = write_quantized(checkpoint, tmp_path_factory.mktemp("way"), way)
    return Case(way, quantized, plain, load(quantized))


def test_the_numbers_of_the_file_are_kept(case: Case) -> None:
    """Bit for bit those of the format's definition, in at most 1.1 times the bytes."""
    ours, theirs = case.loaded.decoder.weights, load(case.plain).decoder.weights
    for name, matrix in ours.matrices.items():
        assert np.array_equal(matrix.unpack(), theirs.matrices[name].unpack()), name
    for name, vector in ours.vectors.items():
        assert np.array_equal(vector, theirs.vectors[name]), name
    assert case.loaded.format == case.way.kept
    kept = sum(matrix.num_bytes for name, matrix in ours.matrices.items() if name.startswith("layers."))
    stored = sum(
        tensor.nbytes
        for name, tensor in load_file(case.quantized / "model.safetensors").items()
        if name.split(".")[-2] in LINEARS and not name.endswith((".bias", ".g_idx", ".weight_g_idx"))
    )
    assert kept <= case.way.size * stored
    everything = sum(part.nbytes for part in ours.vectors.values()) + sum(m.num_bytes for m in ours.matrices.values())
    assert case.loaded.description.weight_bytes == pytest.approx(everything, rel=0.02)


def rounding(order: torch.Tensor | None) -> Callable[[torch.nn.Module, tuple[torch.Tensor]], torch.Tensor]:
    """What comes before a linear of integers: activations in 8 bits for every 32 inputs, in the weight's order."""

    def round_activations(module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> torch.Tensor:
        x = inputs[0] if order is None else inputs[0][..., order]
        blocks = x.reshape(*x.shape[:-1], -1, 32)
        scales = blocks.abs().amax(-1, keepdim=True) / 127
        rounded = ((blocks / scales).round() * scales).nan_to_num().reshape(x.shape)
        return rounded if order is None else rounded[..., order.argsort()]

    return round_activations


def reference_of(case: Case) -> transformers.PreTrainedModel:
    """transformers with the numbers in float32, and activations rounded as Flover's products of integers do."""
    model, tensors = load_reference(case.plain), load_file(case.quantized / "model.safetensors")
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in case.way.tensors and case.way.kept != "fp8_e4m3":
            groups = tensors.get(f"{name}.g_idx", tensors.get(f"{name}.weight_g_idx"))
            order = None if groups is None else groups.argsort(stable=True)
            module.register_forward_pre_hook(rounding(order))
    return model


def test_answers_are_those_of_the_numbers(case: Case) -> None:
    """fp8 multiplies floats. For integers activations have 8 bits for every 32 inputs: transformers with the same
    rounding gives the same log-probabilities, until a sum in another order moves a number to its next step of 8 bits;
    without rounding it gives nearly the same."""
    prompt, model = random_prompt(7, 21), reference_of(case)
    greedy = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
        max_new_tokens=64,
        min_new_tokens=64,
        do_sample=False,
        pad_token_id=0,
    )
    tokens = greedy[0].tolist()
    with torch.inference_mode():
        theirs = model(input_ids=greedy).logits[0].log_softmax(-1)
    ours, exact = (
        whole_logits(case.loaded, tokens).log_softmax(-1),
        reference_logits(case.plain, tokens).log_softmax(-1),
    )
    floating = case.way.kept == "fp8_e4m3"
    assert (ours[:2] - theirs[:2]).abs().max() < 1e-4
    assert (ours - theirs).abs().mean() < (1e-5 if floating else 0.02)
    assert (ours - exact).abs().mean() < (1e-5 if floating else 0.05)
    best = ours.argmax(-1)[len(prompt) - 1 : -1]
    expected = torch.tensor(tokens[len(prompt) :])
    assert (best == expected).sum() >= (64 if floating else 60)
    chosen = theirs[len(prompt) - 1 : -1].gather(1, torch.stack([best, expected], 1))
    assert (chosen[:, 1] - chosen[:, 0]).max() < 0.1  # what differs was nearly as likely


def test_rows_of_a_mixed_batch_get_the_bits_that_they_get_alone(case: Case) -> None:
    driver, other = Driver(case.loaded), random_prompt(2, 20)
    pieces = [driver.step({0: PROMPT[:9], 1: other[:1]}), driver.step({0: PROMPT[9:10], 1: other[1:14]})]
    pieces.append(driver.step({0: PROMPT[10:], 1: other[14:]}))
    for row, prompt in ((0, PROMPT), (1, other)):
        assert torch.equal(torch.cat([piece[row] for piece in pieces]), whole_logits(case.loaded, prompt))


class Rank(Alone):
    """One of two ranks that are never asked to compute."""

    size = 2

    def __init__(self, rank: int) -> None:
        self.rank = rank


@pytest.mark.parametrize("name", ["fp8 blocks", "gptq 128 asymmetric", "awq 32", "int-quantized"])
def test_ranks_keep_their_share(name: str, checkpoint: Path, tmp_path: Path) -> None:
    quantized, _ = write_quantized(checkpoint, tmp_path, WAYS[name])
    whole = load(quantized).decoder.weights.matrices
    config = EngineConfig(model=str(quantized), tensor_parallel_size=2)
    for rank in range(2):
        loaded, shard = load_model(config, cpu_ops("auto", 1, Rank(rank)), lambda done, total: None), Shard(rank, 2)
        for part in ("qkv", "out", "up", "down"):
            matrix = f"layers.1.{part}.weight"
            ours, theirs = loaded.decoder.weights.matrices[matrix].unpack(), whole[matrix].unpack()
            cut = shard.cut(matrix, theirs.shape, loaded.config)
            start = cut.part.start if cut.part else 0
            for first, count, own in cut.pieces(0, len(theirs)):
                rows = theirs[first : first + count, start : start + ours.shape[1]]
                assert np.array_equal(ours[own : own + count], rows), matrix


def test_ranks_that_would_cut_a_group_or_an_act_order_are_refused(tmp_path: Path) -> None:
    narrow = make_checkpoint(tmp_path / "narrow", **WIDE | {"intermediate_size": 384})
    quantized, _ = write_quantized(narrow, tmp_path, WAYS["gptq 128 asymmetric"])
    with pytest.raises(ConfigError, match=r"inner width of 384 into parts of 192, but int4_g128 weights keep 128"):
        describe_model(EngineConfig(model=str(quantized), tensor_parallel_size=2), Shard(0, 2))
    model = make_checkpoint(tmp_path / "model", **WIDE)
    quantized, _ = write_quantized(model, tmp_path / "act", WAYS["gptq act-order"])
    config = EngineConfig(model=str(quantized), tensor_parallel_size=2)
    with pytest.raises(ModelError, match=r"(o|down)_proj.weight: .*g_idx.*ranks cannot share its columns"):
        load_model(config, cpu_ops("auto", 1, Rank(0)), lambda done, total: None)


def test_matrices_that_are_not_quantized_stay_in_their_type(checkpoint: Path, tmp_path: Path) -> None:
    """One of queries, keys and values; a whole layer's feed-forward block; but not one of gate and values."""
    way = gptq(4, 128, kept="int4_g128", tensors=("q_proj", "k_proj", "o_proj", "down_proj"))
    quantized, plain = write_quantized(checkpoint, tmp_path, way)
    loaded = load(quantized)
    assert {rows.format for rows in loaded.description.formats["layers.0.qkv.weight"]} == {"int4_g128", "float32"}
    assert loaded.description.formats["layers.0.up.weight"][0].format == "float32"
    assert loaded.description.formats["embed.weight"][0].format == "float32"
    difference = whole_logits(loaded, PROMPT).log_softmax(-1) - reference_logits(plain, PROMPT).log_softmax(-1)
    assert difference.abs().mean() < 0.05
    settings = EngineConfig(model=str(quantized), skip_tokenizer_init=True)
    fit = find_fit(settings, Machine(1, 2**30), lambda threads, size: 1e9)
    assert fit.facts["quantization"] == "gptq, 4 bits, groups of 128"
    assert "int4_g128" in fit.facts["weights"]
    with pytest.raises(ConfigError, match=r"--quantization is int8, but .* is stored in int4_g128 already"):
        load(quantized, quantization="int8")
    half = gptq(4, 128, kept="int4_g128", tensors=("up_proj",))
    mixed, _ = write_quantized(checkpoint, tmp_path / "mixed", half)
    with pytest.raises(ModelError, match=r"gate_proj.weight is F32, .*up_proj.weight is int4_g128"):
        load(mixed)


def test_conv1d_and_fused_projections(tmp_path: Path) -> None:
    """GPT-2 keeps its matrices transposed unless they are quantized; NeoX orders rows by head."""
    for family, tensors in (("gpt2", ("c_attn", "c_fc")), ("gpt_neox", ("query_key_value", "dense_h_to_4h"))):
        changes = {"n_embd": 64} if family == "gpt2" else {"hidden_size": 64, "intermediate_size": 128}
        model = make_checkpoint(tmp_path / family, family, **changes)
        way = gptq(4, 32, kept="int4_g32", tensors=tensors, transposed=family == "gpt2")
        quantized, plain = write_quantized(model, tmp_path / f"{family} out", way)
        ours, theirs = load(quantized).decoder.weights.matrices, load(plain).decoder.weights.matrices
        for name, matrix in theirs.items():
            assert np.array_equal(ours[name].unpack(), matrix.unpack()), name


def test_biases_of_zero_are_no_biases(tmp_path: Path) -> None:
    """AutoGPTQ gave one to every linear; with other numbers it is left over."""
    model = make_checkpoint(tmp_path / "model", **WIDE | {"attention_bias": False, "mlp_bias": False})
    quantized, _ = write_quantized(model, tmp_path, WAYS["gptq 32"])
    before, name = whole_logits(load(quantized), PROMPT), "model.layers.0.mlp.up_proj.bias"
    edit_tensors(quantized, lambda tensors: tensors | {name: torch.zeros(512, dtype=torch.float16)})
    assert torch.equal(whole_logits(load(quantized), PROMPT), before)
    edit_tensors(quantized, lambda tensors: tensors | {name: torch.ones(512, dtype=torch.float16)})
    with pytest.raises(ModelError, match=r"left over .*layers.0.mlp.up_proj.bias"):
        load(quantized)


@pytest.mark.parametrize("name", ["gptq 128 asymmetric", "fp8 blocks", "mxfp4", "int-quantized"])
def test_weights_that_are_not_fetched_yet_are_counted_as_they_will_be_kept(
    name: str, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantized, _ = write_quantized(checkpoint, tmp_path, WAYS[name])
    settings = EngineConfig(model=str(quantized), skip_tokenizer_init=True)
    fetched = describe_model(settings, Shard())
    (quantized / "model.safetensors").unlink()
    monkeypatch.setattr("flover.model.describe.locate_model", lambda *args, **options: quantized)
    announced = describe_model(replace(settings, model="org/name"), Shard(), weights=False)
    assert announced.formats == fetched.formats and announced.weight_bytes == fetched.weight_bytes
