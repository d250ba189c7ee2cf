"""Every family and variant computes what transformers computes, in float32, however the work is cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.checkpoints import FAMILIES, make_checkpoint, random_prompt, reference_greedy, reference_logits

from model.driver import Driver, load, whole_logits

TOLERANCE = 1e-4
"""Largest difference of two float32 logits: they are of size 5 after sums of up to 80 terms in another order, two
layers deep; what is seen is 1e-5 and below. A wrong mask, angle or weight shows as 1e-1 and more."""

PROMPT_LEN = 45

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{family: (family, {}) for family in FAMILIES},
    "llama tied": ("llama", {"tie_word_embeddings": True}),
    "llama without GQA": ("llama", {"num_key_value_heads": 4}),
    "llama one key head": ("llama", {"num_key_value_heads": 1}),
    "llama biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama wide heads": ("llama", {"head_dim": 32}),
    "llama gelu": ("llama", {"hidden_act": "gelu"}),
    "llama relu": ("llama", {"hidden_act": "relu"}),
    "mistral no window": ("mistral", {"sliding_window": None}),
    "qwen2 untied": ("qwen2", {"tie_word_embeddings": False}),
    "qwen2 window in the last layer": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1},
    ),
    "qwen3 tied": ("qwen3", {"tie_word_embeddings": True}),
    "qwen3 window and bias": (
        "qwen3",
        {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 0, "attention_bias": True},
    ),
    "gpt2 scale by layer": ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
    "gpt2 no scale": ("gpt2", {"scale_attn_weights": False}),
    "gpt2 inner size": ("gpt2", {"n_inner": 60, "activation_function": "relu"}),
    "gptj all dimensions turn": ("gptj", {"rotary_dim": 12}),
    "gpt_neox sequential": ("gpt_neox", {"use_parallel_residual": False}),
    "gpt_neox all dimensions turn": ("gpt_neox", {"rotary_pct": 1.0}),
    "gpt_neox no attention bias": ("gpt_neox", {"attention_bias": False}),
    "gpt_neox tied": ("gpt_neox", {"tie_word_embeddings": True}),
}


def _rope(kind: str, **fields: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **fields}}


ROPES: dict[str, tuple[dict[str, Any], int | None]] = {
    "linear": (_rope("linear", factor=3.0), None),
    "dynamic within the trained context": (_rope("dynamic", factor=2.0), None),
    "dynamic beyond it": ({**_rope("dynamic", factor=2.0), "max_position_embeddings": 32}, PROMPT_LEN),
    "yarn": (_rope("yarn", factor=4.0, original_max_position_embeddings=16), None),
    "yarn with everything": (
        _rope(
            "yarn",
            factor=4.0,
            original_max_position_embeddings=128,
            beta_fast=16.0,
            beta_slow=2.0,
            mscale=0.7,
            mscale_all_dim=0.4,
            truncate=False,
        ),
        None,
    ),
    "longrope short": (
        _rope(
            "longrope",
            short_factor=[1.0, 1.1, 1.2, 1.3, 1.4, 1.5],
            long_factor=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
            original_max_position_embeddings=64,
        ),
        64,
    ),
    "longrope long": (
        _rope(
            "longrope",
            short_factor=[1.0, 1.1, 1.2, 1.3, 1.4, 1.5],
            long_factor=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
            original_max_position_embeddings=32,
        ),
        None,
    ),
    "llama3": (
        _rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32),
        None,
    ),
}


@pytest.fixture(scope="module", params=VARIANTS)
def variant(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    family, changes = VARIANTS[request.param]
    return make_checkpoint(tmp_path_factory.mktemp("model"), family, **changes)


@pytest.fixture(scope="module", params=FAMILIES)
def family_path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model"), request.param)


def assert_close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max().item() < TOLERANCE


def test_whole_prompt_has_the_logits_of_transformers(variant: Path) -> None:
    prompt = random_prompt(1, PROMPT_LEN)
    assert_close(whole_logits(load(variant), prompt), reference_logits(variant, prompt))


@pytest.mark.parametrize("name", ROPES)
def test_every_rope_scaling_has_the_logits_of_transformers(name: str, tmp_path: Path) -> None:
    changes, max_model_len = ROPES[name]
    path = make_checkpoint(tmp_path, "llama", **changes)
    prompt = random_prompt(2, PROMPT_LEN)
    loaded = load(path, max_model_len=max_model_len)
    assert_close(whole_logits(loaded, prompt), reference_logits(path, prompt))


def test_chunks_of_a_prompt_give_what_the_whole_gives(family_path: Path) -> None:
    loaded, prompt = load(family_path), random_prompt(3, PROMPT_LEN)
    driver = Driver(loaded)
    pieces = [prompt[start:stop] for start, stop in ((0, 1), (1, 8), (8, 9), (9, 30), (30, PROMPT_LEN))]
    chunked = torch.cat([driver.step({0: piece})[0] for piece in pieces])
    assert_close(chunked, whole_logits(loaded, prompt))


def test_token_by_token_gives_what_the_whole_gives(family_path: Path) -> None:
    loaded, prompt = load(family_path), random_prompt(4, PROMPT_LEN)
    driver = Driver(loaded)
    single = torch.cat([driver.step({0: [token]})[0] for token in prompt])
    assert_close(single, whole_logits(loaded, prompt))


def test_rows_of_a_mixed_batch_get_what_they_get_alone(family_path: Path) -> None:
    loaded = load(family_path)
    prompts = {row: random_prompt(10 + row, length) for row, length in enumerate((3, 41, 12, 29, 18, 30))}
    driver = Driver(loaded, seed=5)
    done = dict.fromkeys(prompts, 0)
    got: dict[int, list[torch.Tensor]] = {row: [] for row in prompts}
    shares = (1, 7, 1, 3, 1, 5)  # rows 0, 2 and 4 generate while the others are chunks of a prompt
    while remaining := [row for row in prompts if done[row] < len(prompts[row])]:
        pieces = {row: prompts[row][done[row] : done[row] + shares[row]] for row in remaining}
        for row, logits in driver.step(pieces).items():
            got[row].append(logits)
            done[row] += len(pieces[row])
    for row, prompt in prompts.items():
        assert_close(torch.cat(got[row]), whole_logits(loaded, prompt))


@pytest.mark.parametrize("page_size", [1, 3, 16, 64])
def test_page_size_does_not_matter(page_size: int, tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, "mistral")
    loaded, prompt = load(path), random_prompt(6, PROMPT_LEN)
    driver = Driver(loaded, page_size=page_size)
    logits = torch.cat([driver.step({0: prompt[:20]})[0], *(driver.step({0: [token]})[0] for token in prompt[20:])])
    assert_close(logits, reference_logits(path, prompt))


def test_greedy_tokens_are_those_of_transformers(variant: Path) -> None:
    prompt = random_prompt(7, 21)
    assert Driver(load(variant)).greedy(0, prompt, 64) == reference_greedy(variant, prompt, 64)


def test_bfloat16_stays_near_float32(family_path: Path) -> None:
    prompt = random_prompt(8, PROMPT_LEN)
    narrow = whole_logits(load(family_path, dtype="bfloat16"), prompt)
    wide = whole_logits(load(family_path), prompt)
    # bfloat16 keeps 8 bits: 0.4 % of each number, through two layers and a sum of 48 terms
    assert narrow.dtype == torch.float32
    assert (narrow - wide).abs().mean().item() < 0.05 * wide.std().item()
