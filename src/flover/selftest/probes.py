"""The requests whose answers are compared, those that keep them company, and the comparison. No torch, no text."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from flover.errors import ConfigError
from flover.request import Delta, ModelFacts, Request, SamplingParams, TokenLogprobs

Answer = list[tuple[int, TokenLogprobs | None]]
"""Token by token: its id and the log-probabilities that came with it."""

NUM_OUTPUTS = 8
NUM_LOGPROBS = 5
_LONGEST_COMPANION = 400

_PROBES: dict[str, tuple[int, dict[str, Any]]] = {
    "greedy": (68, {"temperature": 0.0}),
    "seeded": (9, {"temperature": 0.9, "top_p": 0.9}),
    "penalized": (6, {"temperature": 1.2, "top_k": 40, "min_p": 0.01, "repetition_penalty": 1.2}),
}
"""By name: tokens of the prompt and sampling. The first prompt is longer than the longest chunk."""

_COMPANY: tuple[dict[str, Any], ...] = (
    {"temperature": 0.0},
    {"temperature": 0.7, "top_p": 0.8},
    {"temperature": 1.0},
    {"temperature": 0.0, "logprobs": 20},
    {"temperature": 1.5, "top_k": 7, "logprobs": 2},
    {"temperature": 0.9, "min_p": 0.1, "frequency_penalty": 0.5},
)


def make_probes(facts: ModelFacts, num_outputs: int = NUM_OUTPUTS) -> list[Request]:
    """The requests to compare, the same ones for the same vocabulary. Raises `ConfigError` if they do not fit."""
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


def make_companion(number: int, facts: ModelFacts) -> Request:
    """The `number`-th of those who are only there: short prompts, long answers, every kind of sampling."""
    length = 1 + number % 3
    room = min(facts.max_model_len, facts.pool_tokens) - length
    params = _COMPANY[number % len(_COMPANY)]
    return _request(
        f"company:{number}", 1000 + number, length, facts, max_tokens=min(room, _LONGEST_COMPANION), **params
    )


def _request(name: str, seed: int, length: int, facts: ModelFacts, **params: Any) -> Request:
    lots = random.Random(seed)
    prompt = [lots.randrange(facts.vocab_size) for _ in range(length)]
    return Request(id=name, prompt_ids=prompt, params=SamplingParams(ignore_eos=True, **params), seed=seed)


def answer_of(deltas: Sequence[Delta]) -> Answer:
    """What these deltas of one sequence say, put together."""
    answer: Answer = []
    for delta in deltas:
        entries: Sequence[TokenLogprobs | None] = delta.logprobs or [None] * len(delta.token_ids)
        answer += zip(delta.token_ids, entries, strict=True)
    return answer


def difference(expected: Answer, actual: Answer) -> str | None:
    """What differs first, None if nothing does: ids, and log-probabilities and ranks to the last bit."""
    for place, ((token, entry), (other_token, other)) in enumerate(zip(expected, actual, strict=False)):
        if token != other_token:
            return f"output token {place} is {other_token} and not {token}"
        if entry is None or other is None:
            if entry is not other:
                return f"output token {place} has no log-probabilities in one of the two"
        elif entry.token_ids != other.token_ids or entry.ranks != other.ranks:
            return f"output token {place} has other tokens beside it: {other.token_ids} and not {entry.token_ids}"
        elif entry.logprobs != other.logprobs:
            pairs = zip(entry.logprobs, other.logprobs, strict=True)
            one, two = next((one, two) for one, two in pairs if one != two)
            return f"output token {place} has a log-probability of {two!r} and not {one!r}"
    if len(expected) != len(actual):
        return f"there are {len(actual)} output tokens and not {len(expected)}"
    return None
