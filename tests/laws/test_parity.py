"""Greedy tokens equal to transformers' over 64 steps, for every family: through `LLM` alone, in a crowd with staggered
arrivals, and through the server."""

from __future__ import annotations

import json
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from harness import answer, load, make, tokens
from support.checkpoints import FAMILIES, make_checkpoint, random_prompt, reference_greedy, reference_logits

from flover import LLM, SamplingParams
from flover.bench.server import ServerProcess

LENGTHS = (5, 23, 1, 50)
STEPS = 64
PROMPTS = {f"r{number}": random_prompt(40 + number, length) for number, length in enumerate(LENGTHS)}


@pytest.fixture(scope="module", params=FAMILIES)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp(request.param), request.param, seed=3)


@pytest.fixture(scope="module")
def expected(checkpoint: Path) -> dict[str, list[int]]:
    return {name: reference_greedy(checkpoint, prompt, STEPS) for name, prompt in PROMPTS.items()}


def test_through_llm_alone(checkpoint: Path, expected: dict[str, list[int]]) -> None:
    params = SamplingParams(temperature=0, max_tokens=STEPS, ignore_eos=True)
    with LLM(str(checkpoint), skip_tokenizer_init=True, num_threads=1, kv_cache_memory_bytes=2**22) as llm:
        for name, prompt in PROMPTS.items():
            (output,) = llm.generate({"prompt_token_ids": prompt}, params, use_tqdm=False)
            assert list(output.outputs[0].token_ids) == expected[name], name


def test_in_a_crowd(checkpoint: Path, expected: dict[str, list[int]]) -> None:
    engine = load(checkpoint)
    arrivals = [(3 * number, make(*item, max_tokens=STEPS)) for number, item in enumerate(PROMPTS.items())]
    crowd = answer(engine, arrivals)
    engine.close()
    assert {name: tokens(deltas) for name, deltas in crowd.items()} == expected


def test_log_probabilities_of_prompt_and_output(checkpoint: Path, expected: dict[str, list[int]]) -> None:
    """The prompt computed in chunks of 7 reports what transformers says of the whole; within 1e-4, as sums differ."""
    prompt, output = PROMPTS["r1"], expected["r1"][:8]
    logprobs = reference_logits(checkpoint, prompt + output).log_softmax(-1)
    engine = load(checkpoint, max_num_batched_tokens=7, max_num_seqs=7)
    deltas = answer(engine, [(0, make("r1", prompt, max_tokens=8, prompt_logprobs=0))])["r1"]
    engine.close()
    report = deltas[0].prompt_logprobs
    assert report is not None and report[0] is None and len(report) == len(prompt)
    told = [entry for entry in report if entry is not None]
    told += [entry for delta in deltas for entry in delta.logprobs or []]
    assert [entry.token_ids[0] for entry in told] == [*prompt[1:], *output]
    for position, entry in enumerate(told):
        assert abs(entry.logprobs[0] - logprobs[position, entry.token_ids[0]].item()) <= 1e-4


@pytest.mark.long
def test_through_the_server(checkpoint: Path, expected: dict[str, list[int]]) -> None:
    flags = [str(checkpoint), "--skip-tokenizer-init", "--served-model-name", "tiny", "--num-threads", "1"]
    with ServerProcess(flags) as server, ThreadPoolExecutor(len(PROMPTS)) as pool:
        answers = pool.map(lambda prompt: complete(server.url, prompt), PROMPTS.values())
        assert dict(zip(PROMPTS, answers, strict=True)) == expected


def complete(url: str, prompt: list[int]) -> list[int]:
    body = {
        "model": "tiny",
        "prompt": prompt,
        "temperature": 0,
        "max_tokens": STEPS,
        "ignore_eos": True,
        "return_token_ids": True,
    }
    request = urllib.request.Request(
        url + "/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as response:
        token_ids: list[int] = json.load(response)["choices"][0]["token_ids"]
    return token_ids
