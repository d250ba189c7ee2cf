"""An embedding is what transformers computes, and has the same bits alone, in chunks, and in a crowd."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from harness import answer, load, make
from support.checkpoints import load_reference, make_checkpoint, random_prompt

from flover.request import Delta

PROMPTS = {name: random_prompt(seed, length) for seed, (name, length) in enumerate((("a", 61), ("b", 1), ("c", 30)))}


def vector(deltas: list[Delta]) -> bytes:
    (delta,) = deltas
    assert delta.finish_reason is not None and delta.embedding is not None
    return delta.embedding


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_as_transformers_and_the_same_bits_in_any_company(family: str, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path, family, seed=3)
    pooled = {
        f"{name} {kind}": make(f"{name} {kind}", ids, max_tokens=1, pooling=kind)
        for name, ids in PROMPTS.items()
        for kind in ("last", "mean")
    }
    engine = load(checkpoint)
    alone = {name: vector(answer(engine, [(0, request)])[name]) for name, request in pooled.items()}
    engine.close()
    model = load_reference(checkpoint)
    for name, ids in PROMPTS.items():
        with torch.no_grad():
            hidden = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0].numpy()
        for kind, wanted in (("last", hidden[-1]), ("mean", hidden.mean(0))):
            found = np.frombuffer(alone[f"{name} {kind}"], dtype="<f4")
            np.testing.assert_allclose(found, wanted, atol=1e-4)
    engine = load(checkpoint, max_num_batched_tokens=7, max_num_seqs=5)
    generating = [(0, make(f"g{number}", PROMPTS["a"], max_tokens=20)) for number in range(2)]
    crowd = answer(engine, [*generating, *((3 + place, request) for place, request in enumerate(pooled.values()))])
    engine.close()
    assert {name: vector(crowd[name]) for name in pooled} == alone
