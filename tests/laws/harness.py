"""Runs requests through a whole engine on a real checkpoint, under arrangements that must not change an answer."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from simulation.invariants import check_roster

from flover.config import EngineConfig
from flover.engine.loop import Engine
from flover.request import Delta, Request, SamplingParams, TokenLogprobs
from flover.service.build import build_engine
from flover.speculation import speculator

Answers = dict[str, list[Delta]]


def load(model: Path | str, **config: Any) -> Engine:
    """An engine in this process on one thread, without a tokenizer."""
    defaults: dict[str, Any] = {
        "skip_tokenizer_init": True,
        "num_threads": 1,
        "target_itl_ms": 0.0,
        "kv_cache_memory_bytes": 2**22,
    }
    return build_engine(EngineConfig(model=str(model), **(defaults | config)), lambda done, total: None, time.monotonic)


def make(name: str, prompt: list[int], seed: int = 0, **params: Any) -> Request:
    """A request for token ids; greedy unless `temperature` says otherwise."""
    chosen = {"temperature": 0.0, "max_tokens": 24, "ignore_eos": True, "logprobs": 3} | params
    return Request(id=name, prompt_ids=prompt, params=SamplingParams(**chosen), seed=seed)


def answer(
    engine: Engine, arrivals: list[tuple[int, Request]], disturb: Callable[[Engine], None] | None = None
) -> Answers:
    """Submit each request before the iteration of its number; check the laws after every iteration."""
    answers: Answers = defaultdict(list)
    pending = sorted(arrivals, key=lambda arrival: arrival[0])
    for step in range(5000):
        while pending and pending[0][0] <= step:
            engine.submit(pending.pop(0)[1])
        if not engine.has_work and not pending:
            break
        if disturb is not None:
            disturb(engine)
        for delta in engine.step():
            answers[delta.request_id].append(delta)
        check_roster(engine.roster)
    assert not engine.has_work
    assert engine.roster.pool.used == 0
    for deltas in answers.values():
        ends = [delta for delta in deltas if delta.finish_reason is not None]
        assert len(ends) == len({delta.index for delta in deltas})
    return answers


def alone(engine: Engine, requests: list[Request]) -> Answers:
    """Each request by itself, one after another, on a cold prefix cache."""
    answers: Answers = {}
    for request in requests:
        engine.reset_prefix_cache()
        answers |= answer(engine, [(0, request)])
    return answers


def tokens(deltas: list[Delta], index: int = 0) -> list[int]:
    return [token for delta in deltas if delta.index == index for token in delta.token_ids]


def logprobs(deltas: list[Delta], index: int = 0) -> list[TokenLogprobs]:
    return [entry for delta in deltas if delta.index == index for entry in delta.logprobs or []]


def assert_same(expected: Answers, actual: Answers) -> None:
    """Equal tokens, and log-probabilities that are equal to the last bit."""
    assert expected.keys() == actual.keys()
    for name in expected:
        assert tokens(actual[name]) == tokens(expected[name]), name
        assert logprobs(actual[name]) == logprobs(expected[name]), name


def speculate_always(patch: pytest.MonkeyPatch) -> None:
    """Proposals join whatever they seem to cost."""

    def join(drafts: list[tuple[float, int]], most: int, *times: float) -> list[int]:
        lengths: list[int] = []
        for _, count in drafts:
            lengths.append(min(count, most - sum(lengths)))
        return lengths

    patch.setattr(speculator, "choose_lengths", join)
    patch.setattr(speculator, "WORTH", -1.0)
