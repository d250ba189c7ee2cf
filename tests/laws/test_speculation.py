"""Speculation never changes an answer: the same tokens and log-probabilities with and without, to the last bit,
whatever else a request asks for."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest
from harness import Answers, answer, assert_same, load, make, speculate_always
from support.checkpoints import make_checkpoint
from support.constraints import MODEL

from flover.config import EngineConfig
from flover.engine.loop import Engine
from flover.errors import ConfigError
from flover.executor.device import DeviceExecutor
from flover.executor.load import load_device
from flover.observe.record_reader import read_record
from flover.observe.replay import replay
from flover.observe.trace import replay_path
from flover.request import FinishReason, Request

NGRAM = json.dumps({"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_min": 1, "prompt_lookup_max": 3})

DRAFT = json.dumps({"method": "draft_model", "model": str(MODEL), "num_speculative_tokens": 4})
"""The model itself: whatever is right is proposed, if its pages are in order."""


@pytest.fixture(autouse=True)
def _always_worth(monkeypatch: pytest.MonkeyPatch) -> None:
    """How much is verified shall not depend on the machine."""
    speculate_always(monkeypatch)


def requests() -> list[Request]:
    """Everything that a token may depend on; half of the prompts repeat themselves."""
    few = list(range(40, 52))
    kinds: list[dict[str, Any]] = [
        {},
        {"temperature": 0.9, "top_p": 0.95, "top_k": 50},
        {"temperature": 1.0, "allowed_token_ids": few},
        {"allowed_token_ids": few[:3], "repetition_penalty": 1.1, "frequency_penalty": 0.3, "presence_penalty": 0.2},
        {"temperature": 0.8, "allowed_token_ids": few[:4], "min_p": 0.01, "logit_bias": {41: 1.5, 43: -2.0}},
        {"allowed_token_ids": few[:2], "min_tokens": 9, "stop_token_ids": few[:1], "max_tokens": 40},
        {"temperature": 0.7, "allowed_token_ids": few[:4], "n": 3, "prompt_logprobs": 1},
        {"temperature": 1.0, "allowed_token_ids": few[:3], "stop_token_ids": [few[1]], "min_tokens": 5},
    ]
    made, rng = [], random.Random(0)
    for number, params in enumerate(kinds):
        prompt = [rng.randrange(6, 2000) for _ in range(7 + 5 * number)]
        prompt = (prompt[:6] * 8)[: len(prompt)] if number % 2 else prompt
        made.append(make(f"r{number}", prompt, seed=number, **params))
    return made


def staggered(seed: int) -> list[tuple[int, Request]]:
    rng = random.Random(seed)
    return [(rng.randint(0, 9), request) for request in requests()]


@pytest.fixture(scope="module")
def expected() -> Answers:
    engine = load(MODEL)
    answers: Answers = {}
    for request in requests():
        engine.reset_prefix_cache()
        answers |= answer(engine, [(0, request)])
    engine.close()
    return answers


@pytest.mark.parametrize("settings", [NGRAM, DRAFT], ids=["ngram", "draft model"])
@pytest.mark.parametrize("seed", [1, 2])
def test_the_same_bits_with_and_without(expected: Answers, seed: int, settings: str) -> None:
    """In a crowd, alone on a warm prefix, after forced preemption, beside a cancelled request, in few pages."""
    small: dict[str, Any] = {"max_num_batched_tokens": 17, "max_num_seqs": 6, "block_size": 5}
    engine = load(MODEL, speculative_config=settings, **(small if seed == 2 else {}))
    rng = random.Random(seed)

    def disturb(engine: Engine) -> None:
        if engine.roster.counts["iterations"] == 12:
            engine.cancel("gone")
        if seed == 2 and engine.roster.running and rng.random() < 0.1:
            engine.roster.preempt(rng.choice(engine.roster.running))

    gone = make("gone", [7, 8, 9] * 10, max_tokens=90)
    found = answer(engine, [(0, gone), *staggered(seed)], disturb)
    assert found.pop("gone")[-1].finish_reason is FinishReason.ABORT
    assert_same(expected, found)
    assert_same(expected, answer(engine, staggered(seed + 10)))
    stats = engine.stats()
    assert stats.accepted_tokens > 30
    assert stats.draft_tokens > stats.accepted_tokens + 10
    engine.close()


def test_what_a_draft_model_proposes_for_its_own_answers_is_right() -> None:
    """Its keys and values are where and what they should be: in shared prefixes, after preemption and long pauses."""
    engine = load(MODEL, speculative_config=DRAFT, block_size=5, max_num_batched_tokens=40, max_num_seqs=6)
    rng = random.Random(3)

    def disturb(engine: Engine) -> None:
        if engine.roster.running and rng.random() < 0.05:
            engine.roster.preempt(rng.choice(engine.roster.running))

    prompt = [rng.randrange(6, 2000) for _ in range(420)]
    asked = [make(f"r{number}", prompt[: 9 + 57 * number], max_tokens=60) for number in range(8)]
    answer(engine, [(3 * number, one) for number, one in enumerate(asked)], disturb)
    stats = engine.stats()
    assert stats.cached_tokens > 500
    assert stats.draft_tokens > 150
    assert stats.accepted_tokens == stats.draft_tokens
    engine.close()


def test_a_draft_model_of_other_tokens_is_refused(tmp_path: Path) -> None:
    other = json.dumps({"model": str(make_checkpoint(tmp_path, "llama")), "num_speculative_tokens": 2})
    with pytest.raises(ConfigError, match=r"must have the model's tokens: .* vocabulary of"):
        load(MODEL, speculative_config=other)


def test_a_planted_bug_is_found(expected: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that draws every sample of a row with the random number of its first."""
    original = DeviceExecutor._draw

    def draw(self: DeviceExecutor, logits: Any, work: Any, results: Any) -> list[int]:
        tokens = original(self, logits, work, results)
        for one in work:
            if one.token_ids:
                self._buffers["num_outputs"][one.row] -= len(results[one.row].token_ids) == 2
        return tokens

    monkeypatch.setattr(DeviceExecutor, "_draw", draw)
    engine = load(MODEL, speculative_config=NGRAM)
    with pytest.raises(AssertionError, match="r"):
        assert_same(expected, answer(engine, staggered(1)))
    engine.close()


@pytest.mark.parametrize("settings", [NGRAM, DRAFT], ids=["ngram", "draft model"])
def test_replayed_from_a_record(expected: Answers, tmp_path: Path, settings: str) -> None:
    """The same proposals, found again from tokens and the clock."""
    trace = tmp_path / "trace.json"
    engine = load(MODEL, speculative_config=settings, trace=str(trace), target_itl_ms=50.0)
    assert_same(expected, answer(engine, staggered(3)))
    accepted = engine.stats().accepted_tokens
    engine.close()
    record = read_record(replay_path(trace))
    assert sum(len(drafted) for step in record.steps if step.plan for _, drafted in step.plan.proposals) > accepted > 30
    config = msgspec.convert(dataclasses.asdict(record.head.engine) | {"num_threads": 2, "trace": None}, EngineConfig)
    executor = load_device(config, lambda done, total: None)
    done = replay(record, executor)
    executor.close()
    assert done.difference is None
    assert done.tokens == done.tokens_equal > 150
