"""Every family on the platform of a GPU, on tensors of the CPU: the tokens of the CPU's own kernels, over 32 steps."""

from __future__ import annotations

from pathlib import Path

import pytest
from gpu_engines import Capturing, on_gpu
from harness import answer, load, make, tokens
from support.checkpoints import FAMILIES, RECIPES, make_checkpoint, random_prompt

from flover.executor import cuda_executor
from flover.memory.graph_sizes import warm_up_batches

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize(
    ("family", "overlaps"), [*((family, True) for family in RECIPES), *((family, False) for family in FAMILIES)]
)
def test_greedy_tokens(
    family: str,
    overlaps: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With captured forwards where iterations overlap, else without; one prompt in chunks, one that comes later."""
    checkpoint = make_checkpoint(tmp_path, family)
    first = make("first", random_prompt(1, 12), max_tokens=32, logprobs=None)
    asked = first, make("later", random_prompt(2, 4), max_tokens=5, logprobs=None)
    arrivals = [(0, asked[0]), (8, asked[1])]
    engine = load(checkpoint)
    expected = answer(engine, arrivals)
    engine.close()
    monkeypatch.setattr(cuda_executor, "warm_up_batches", lambda max_len: [((1,), 1)])
    settings = {
        "max_num_seqs": 2,
        "max_num_batched_tokens": 7,
        "async_scheduling": overlaps,
        "enforce_eager": not overlaps,
    }
    engine = on_gpu(checkpoint, monkeypatch, Capturing, warm=overlaps, **settings)
    found = answer(engine, arrivals)
    engine.close()
    assert {name: tokens(deltas) for name, deltas in found.items()} == {
        name: tokens(deltas) for name, deltas in expected.items()
    }


@pytest.mark.parametrize(
    "family", ["bloom", "cohere", "exaone4", "gemma2", "gpt2", "gpt_oss", "gptj", "mistral", "qwen2_moe", "qwen3"]
)
def test_nothing_is_compiled_after_the_warm_up(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One family for every kernel: chunks, and steps that generate."""
    checkpoint = make_checkpoint(tmp_path, family)
    settings = {"max_num_seqs": 2, "max_num_batched_tokens": 21, "max_model_len": 300, "async_scheduling": True}
    monkeypatch.setattr(cuda_executor, "warm_up_batches", lambda max_len: warm_up_batches(32))
    engine = on_gpu(checkpoint, monkeypatch, Capturing, warm=True, **settings)
    Capturing.launches.late.clear()
    asked = [make("0", random_prompt(1, 9), max_tokens=8), make("1", random_prompt(2, 21), max_tokens=4, logprobs=None)]
    answer(engine, [(0, asked[0]), (3, asked[1])])
    engine.close()
    assert Capturing.launches.late == []
