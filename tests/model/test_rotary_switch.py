"""LongRoPE and dynamic NTK: a request turns by the factors that its own length asks for, whoever runs beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.checkpoints import make_checkpoint, random_prompt, reference_greedy, reference_logits

from flover import LLM, SamplingParams

TRAINED = 32
LONGROPE: dict[str, Any] = {
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5],
        "long_factor": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        "original_max_position_embeddings": TRAINED,
    },
    "max_position_embeddings": 128,
}
DYNAMIC: dict[str, Any] = {
    "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0},
    "max_position_embeddings": TRAINED,
}
SHORT, LONG = random_prompt(3, 20), random_prompt(4, 60)


def make_llm(path: Path, changes: dict[str, Any]) -> LLM:
    make_checkpoint(path, "llama", **changes)
    return LLM(path, skip_tokenizer_init=True, max_model_len=128, block_size=4, num_threads=1, max_num_seqs=4)


def greedy(llm: LLM, *prompts: list[int], max_tokens: int) -> list[list[int]]:
    params = SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True)
    outputs = llm.generate([{"prompt_token_ids": prompt} for prompt in prompts], params, use_tqdm=False)
    return [output.outputs[0].token_ids for output in outputs]


@pytest.mark.parametrize("changes", [LONGROPE, DYNAMIC], ids=["longrope", "dynamic"])
def test_a_short_request_is_computed_as_transformers_does(changes: dict[str, Any], tmp_path: Path) -> None:
    with make_llm(tmp_path, changes) as llm:
        assert greedy(llm, SHORT, max_tokens=12) == [reference_greedy(tmp_path, SHORT, 12)]


def test_a_long_request_is_computed_as_transformers_does(tmp_path: Path) -> None:
    with make_llm(tmp_path, LONGROPE) as llm:
        assert greedy(llm, LONG, max_tokens=12) == [reference_greedy(tmp_path, LONG, 12)]


def test_log_probabilities_of_short_prompts_are_those_of_transformers(tmp_path: Path) -> None:
    with make_llm(tmp_path, LONGROPE) as llm:
        params = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0)
        output = llm.generate({"prompt_token_ids": SHORT}, params, use_tqdm=False)[0]
    theirs = reference_logits(tmp_path, SHORT).log_softmax(-1)
    assert output.prompt_logprobs is not None
    for position, (token, entry) in enumerate(zip(SHORT[1:], output.prompt_logprobs[1:], strict=True)):
        assert entry is not None
        assert abs(entry[token].logprob - float(theirs[position, token])) < 1e-3


@pytest.mark.parametrize("changes", [LONGROPE, DYNAMIC], ids=["longrope", "dynamic"])
def test_short_and_long_requests_do_not_touch_each_other(changes: dict[str, Any], tmp_path: Path) -> None:
    """The same beginning under both embeddings: no page of one is reused for the other."""
    with make_llm(tmp_path, changes) as llm:
        alone = [greedy(llm, SHORT, max_tokens=12)[0], greedy(llm, SHORT, max_tokens=80)[0]]
        llm.reset_prefix_cache()
        fresh_long = greedy(llm, SHORT, max_tokens=80)[0]
        assert greedy(llm, SHORT, max_tokens=12)[0] == alone[0]
        assert fresh_long == alone[1]
        assert fresh_long[:12] != alone[0]
        params = [SamplingParams(temperature=0, max_tokens=n, ignore_eos=True) for n in (12, 80, 12)]
        prompts: Any = [{"prompt_token_ids": SHORT}] * 3
        crowd = [output.outputs[0].token_ids for output in llm.generate(prompts, params, use_tqdm=False)]
    assert crowd == [alone[0], alone[1], alone[0]]
