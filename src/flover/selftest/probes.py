"""The requests whose outputs are compared, the background requests of their batch, and the comparison."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from flover.errors import ConfigError
from flover.request import Delta, ModelFacts, Request, SamplingParams, TokenLogprobs

Answer = list[tuple[int, TokenLogprobs | None]]
"""Output tokens: id and log-probabilities of each."""

NUM_OUTPUTS = 8
NUM_LOGPROBS = 5
_MAX_BACKGROUND_TOKENS = 400

_PROBES: dict[str, tuple[int, dict[str, Any]]] = {
    "greedy": (68, {"temperature": 0.0}),
    "seeded": (9, {"temperature": 0.9, "top_p": 0.9}),
    "penalized": (6, {"temperature": 1.2, "top_k": 40, "min_p": 0.01, "repetition_penalty": 1.2}),
}
"""By name: prompt length and sampling parameters. The first prompt is longer than the longest chunk."""

_BACKGROUND: tuple[dict[str, Any], ...] = (
    {"temperature": 0.0},
    {"temperature": 0.7, "top_p": 0.8},
    {"temperature": 1.0},
    {"temperature": 0.0, "logprobs": 20},
    {"temperature": 1.5, "top_k": 7, "logprobs": 2},
    {"temperature": 0.9, "min_p": 0.1, "frequency_penalty": 0.5},
)


def make_probes(facts: ModelFacts, num_outputs: int = NUM_OUTPUTS) -> list[Request]:
    """The requests to compare, a function of the vocabulary size. Raises `ConfigError` if they do not fit."""
    longest = max(length for length, _ in _PROBES.values()) + num_outputs
    if longest > min(facts.max_model_len, facts.pool_tokens):
        raise ConfigError(
            f"this test needs {longest} tokens of context, the model has {facts.max_model_len} and the key/value pool "
            f"{facts.pool_tokens}"
        )
    return [
        _request(f"probe:{name}", number, length, facts, max_tokens=num_outputs, logprobs=NUM_LOGPROBS, **params)
        for number, (name, (length, params)) in enumerate(_PROBES.items())
    ]


def make_background(number: int, facts: ModelFacts) -> Request:
    """Background request `number`: a short prompt, a long output, every kind of sampling in turn."""
    length = 1 + number % 3
    max_tokens = min(facts.max_model_len - length, facts.pool_tokens - length, _MAX_BACKGROUND_TOKENS)
    params = _BACKGROUND[number % len(_BACKGROUND)]
    return _request(f"background:{number}", 1000 + number, length, facts, max_tokens=max_tokens, **params)


def _request(name: str, seed: int, length: int, facts: ModelFacts, **params: Any) -> Request:
    random_ids = random.Random(seed)
    prompt = [random_ids.randrange(facts.vocab_size) for _ in range(length)]
    return Request(id=name, prompt_ids=prompt, params=SamplingParams(ignore_eos=True, **params), seed=seed)


def answer_of(deltas: Sequence[Delta]) -> Answer:
    """The output in the deltas of one sequence."""
    answer: Answer = []
    for delta in deltas:
        entries: Sequence[TokenLogprobs | None] = delta.logprobs or [None] * len(delta.token_ids)
        answer += zip(delta.token_ids, entries, strict=True)
    return answer


def difference(expected: Answer, actual: Answer) -> str | None:
    """The first difference in ids, ranks or log-probabilities (compared bit for bit), or None."""
    for place, ((token, entry), (other_token, other)) in enumerate(zip(expected, actual, strict=False)):
        if token != other_token:
            return f"output token {place} is {other_token} and not {token}"
        if entry is None or other is None:
            if entry is not other:
                return f"output token {place} has no log-probabilities in one of the two"
        elif entry.token_ids != other.token_ids or entry.ranks != other.ranks:
            return f"output token {place} has other top tokens: {other.token_ids} and not {entry.token_ids}"
        elif entry.logprobs != other.logprobs:
            pairs = zip(entry.logprobs, other.logprobs, strict=True)
            one, two = next((one, two) for one, two in pairs if one != two)
            return f"output token {place} has a log-probability of {two!r} and not {one!r}"
    if len(expected) != len(actual):
        return f"there are {len(actual)} output tokens and not {len(expected)}"
    return None
