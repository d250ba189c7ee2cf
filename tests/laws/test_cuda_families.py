"""Every family on the platform of a GPU, on tensors of the CPU: the tokens of the CPU's own kernels, over 32 steps."""

from __future__ import annotations

from pathlib import Path

import pytest
from gpu_engines import Capturing, on_gpu
from harness import answer, load, make, tokens
from support.checkpoints import FAMILIES, RECIPES, make_checkpoint, random_prompt

from flover.executor import cuda_executor

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
    asked = [
        make(str(number), random_prompt(number, 12 - 8 * number), max_tokens=32, logprobs=None) for number in range(2)
    ]
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
