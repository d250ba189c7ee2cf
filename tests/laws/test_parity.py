"""Greedy tokens equal to transformers' over 64 steps, for every family: through the engine alone and in a crowd."""

from __future__ import annotations

from pathlib import Path

import pytest
from checkpoints import FAMILIES, make_checkpoint, random_prompt, reference_greedy
from harness import answer, load, make, tokens

LENGTHS = (5, 23, 1, 50)


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_tokens_equal_transformers_alone_and_in_a_crowd(family: str, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path, family, seed=3)
    prompts = {f"r{number}": random_prompt(40 + number, length) for number, length in enumerate(LENGTHS)}
    expected = {name: reference_greedy(checkpoint, prompt, 64) for name, prompt in prompts.items()}
    engine = load(checkpoint)
    requests = [make(name, prompt, max_tokens=64) for name, prompt in prompts.items()]
    crowd = answer(engine, [(3 * number, request) for number, request in enumerate(requests)])
    assert {name: tokens(deltas) for name, deltas in crowd.items()} == expected
    lone = answer(engine, [(0, requests[1])])
    assert tokens(lone["r1"]) == expected["r1"]
    engine.close()
