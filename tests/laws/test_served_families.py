"""Every family through the server, every wiring of a layer on two ranks: 64 greedy tokens of requests in a crowd and
alone, and their log-probabilities, are transformers'. Minutes: part of `make long`."""

from __future__ import annotations

import json
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from model.test_families import CASES
from support.checkpoints import load_reference, logits_of, make_checkpoint, random_prompt

from flover.bench.server import ServerProcess

STEPS = 64
pytestmark = pytest.mark.long
TOLERANCE = 1e-4
PROMPTS = [random_prompt(40 + number, length) for number, length in enumerate((5, 23, 1, 50))]
DIVIDED = ("bloom", "cohere", "exaone4", "falcon 40b", "gemma2", "glm4", "gpt_bigcode", "gpt_oss", "granitemoeshared")
DIVIDED += ("hunyuan_moe", "ministral3", "qwen2_moe", "stablelm parallel")
"""On two ranks."""
SHORT = "phi3 without a window, part of a head"
"""Angles by a request's own length: shorter ones turn as transformers turns them before they become longer."""


@pytest.mark.parametrize("name", [name for name in CASES if name != SHORT])
def test_a_family_through_the_server(name: str, tmp_path: Path) -> None:
    family, changes = CASES[name]
    path = make_checkpoint(tmp_path, family, seed=3, **changes)
    ranks = "2" if name in DIVIDED else "1"
    flags = [str(path), "--skip-tokenizer-init", "--num-threads", "1", "--tensor-parallel-size", ranks]
    with ServerProcess([*flags, "--served-model-name", "tiny"]) as server, ThreadPoolExecutor(len(PROMPTS)) as pool:
        crowd = list(pool.map(lambda prompt: complete(server.url, prompt), PROMPTS))
        alone = [complete(server.url, prompt) for prompt in PROMPTS]
    assert alone == crowd
    reference = load_reference(path)
    for prompt, (tokens, logprobs) in zip(PROMPTS, crowd, strict=True):
        expected = logits_of(reference, prompt + tokens)[len(prompt) - 1 : -1].log_softmax(-1)
        assert tokens == expected.argmax(-1).tolist()
        assert (torch.tensor(logprobs) - expected.max(-1).values).abs().max() < TOLERANCE


def complete(url: str, prompt: list[int]) -> tuple[list[int], list[float]]:
    """Tokens and their log-probabilities."""
    body = {"model": "tiny", "prompt": prompt, "temperature": 0, "max_tokens": STEPS, "ignore_eos": True}
    body |= {"return_token_ids": True, "logprobs": 0}
    request = urllib.request.Request(
        url + "/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as response:
        choice: dict[str, Any] = json.load(response)["choices"][0]
    return choice["token_ids"], choice["logprobs"]["token_logprobs"]
