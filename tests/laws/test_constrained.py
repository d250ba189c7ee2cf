"""Answers with structured outputs are those of the same request alone: in a crowd, after preemption, continued by
another engine, replayed from a record; and other requests keep their bits."""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from harness import Answers, alone, answer, assert_same, load, make, speculate_always, tokens
from support.constraints import MODEL, TOKENIZER, VOCABULARY

from flover.engine.loop import Engine
from flover.errors import RequestError
from flover.executor.device_grammars import DeviceGrammars
from flover.executor.load import load_device
from flover.grammar.state import GrammarState
from flover.grammar.thinking import ThinkingState
from flover.observe.record_reader import read_record
from flover.observe.replay import replay
from flover.observe.trace import replay_path
from flover.request import FinishReason, Request
from flover.speculation.drafter import NgramDrafter
from flover.structured_outputs import StructuredOutputsParams
from flover.thinking import ThinkingBudget

START, END = 17, 23
"""Stand for the markers around reasoning."""
CONSTRAINTS: list[dict[str, Any] | None] = [
    {"json": {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "integer"}}, "required": ["b"]}},
    None,
    {"choice": ["a red kite", "a green kite", "a grey goose"]},
    {"regex": r"[A-Z][a-z]{3,12}( [a-z]{2,9}){2,6}\."},
    None,
    {"grammar": 'root ::= "[" item ("," item)* "]"\nitem ::= [a-z]+ | root'},
    {"json_object": True},
    None,
    {"thinking": ThinkingBudget(tokens=7, start_ids=[START], end_id=END), "logit_bias": {END: -100.0}},
    {
        "thinking": ThinkingBudget(tokens=3, start_ids=[START, START], end_id=END, again=True),
        "logit_bias": {START: 100.0},
    },
]
PROMPTS = ("Once upon a time", "Tom had a", "The cat", "It was")


def requests() -> list[Request]:
    made = []
    for number, fields in enumerate(CONSTRAINTS * 2):
        thinks = fields is not None and "thinking" in fields
        constraint = None if fields is None or thinks else StructuredOutputsParams(**fields)
        prompt = TOKENIZER.encode(PROMPTS[number % len(PROMPTS)]) + [START] * thinks
        made.append(
            make(
                f"r{number}",
                prompt,
                seed=number,
                temperature=1.0,
                max_tokens=30,
                ignore_eos=constraint is None,
                structured_outputs=constraint,
                **(fields if fields is not None and thinks else {}),
            )
        )
    return made


def opened(**config: Any) -> Engine:
    """An engine that has compiled all constraints."""
    engine = load(MODEL, **config)
    for request in requests():
        if request.params.structured_outputs is not None and (work := engine.prepare(request, VOCABULARY)) is not None:
            work()
    return engine


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = opened()
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def expected(engine: Engine) -> Answers:
    found = alone(engine, requests())
    ended = {name for name, deltas in found.items() if deltas[-1].finish_reason == FinishReason.STOP}
    for name in ("r8", "r18"):  # the prompt opens the reasoning
        assert [place for place, token in enumerate(tokens(found[name])) if token == END] == [7]
    for name in ("r9", "r19"):  # the answer does, again and again
        assert tokens(found[name])[:12] == [*[START] * 5, END, START, START, END, START, START, END]
    assert len(ended) >= 4  # constraints that can end do, others run into max_tokens
    assert all(tokens(deltas)[-1] in VOCABULARY.special_ids for name, deltas in found.items() if name in ended)
    return found


def staggered(seed: int) -> list[tuple[int, Request]]:
    rng = random.Random(seed)
    shuffled = requests()
    rng.shuffle(shuffled)
    return [(rng.randint(0, 20), request) for request in shuffled]


def test_in_a_crowd_with_preemption(expected: Answers) -> None:
    engine = opened(max_num_seqs=6, max_num_batched_tokens=16)
    rng = random.Random(5)
    preempted: list[str] = []

    def preempt_one(engine: Engine) -> None:
        if engine.roster.running and rng.random() < 0.3:
            chosen = rng.choice(engine.roster.running)
            preempted.extend([chosen.request.id] * bool(chosen.num_outputs))
            engine.roster.preempt(chosen)

    assert_same(expected, answer(engine, staggered(2), preempt_one))
    assert sum(CONSTRAINTS[int(name[1:]) % len(CONSTRAINTS)] is not None for name in preempted) > 3
    engine.close()


def test_with_speculation(expected: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Proposals that are right, but for every fifth: the grammar of a row follows what is sampled, token by token."""
    speculate_always(monkeypatch)
    known = [[*one.prompt_ids, *tokens(expected[one.id])] for one in requests()]

    def draft(self: NgramDrafter, token_ids: list[int], most: int) -> list[int]:
        coming = next(one for one in known if one[: len(token_ids)] == token_ids)[len(token_ids) :][:most]
        return coming if len(token_ids) % 5 else [(token + 1) % 100 for token in coming]

    monkeypatch.setattr(NgramDrafter, "draft", draft)
    engine = opened(max_num_seqs=6, speculative_config='{"method": "ngram", "num_speculative_tokens": 4}')
    assert_same(expected, answer(engine, staggered(4)))
    stats = engine.stats()
    assert stats.draft_tokens > stats.accepted_tokens + 20
    assert stats.accepted_tokens > 100
    engine.close()


def test_asynchronous_scheduling(expected: Answers) -> None:
    """An iteration that is planned ahead may choose once more for an answer that has ended."""
    engine = opened(max_num_seqs=6, async_scheduling=True)
    assert_same(expected, answer(engine, staggered(6)))
    assert all(engine.prepare(request, None) is None for request in requests())  # nothing has to be compiled again
    engine.close()


def test_with_masks_that_take_longer_than_the_forward(expected: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    build = GrammarState.build

    def late(state: GrammarState) -> None:
        time.sleep(0.001)
        build(state)

    monkeypatch.setattr(GrammarState, "build", late)
    engine = opened()
    assert_same(expected, answer(engine, staggered(4)))
    engine.close()


def test_with_asynchronous_scheduling(expected: Answers) -> None:
    """After the end of its answer a row is computed once more, when its grammar allows nothing."""
    engine = opened(async_scheduling=True, max_num_seqs=6)
    assert_same(expected, answer(engine, staggered(6)))
    engine.close()


def test_continued_by_another_engine(engine: Engine, expected: Answers) -> None:
    for request in requests():
        whole = tokens(expected[request.id])
        begun = whole[: len(whole) // 2]
        rest = answer(engine, [(0, msgspec.structs.replace(request, output_ids=[begun]))])
        assert begun + tokens(rest[request.id]) == whole


def test_replayed_from_a_record(tmp_path: Path, expected: Answers) -> None:
    trace = tmp_path / "trace.json"
    recorded = opened(max_num_seqs=6, trace=str(trace))
    assert_same(expected, answer(recorded, staggered(3)))
    recorded.close()
    record = read_record(replay_path(trace))
    again = load_device(dataclasses.replace(record.head.engine, trace=None), lambda done, total: None)
    done = replay(record, again, vocabulary=VOCABULARY)
    again.close()
    assert done.difference is None
    assert done.tokens_equal == done.tokens > 300


def _forgets_outputs(self: DeviceGrammars, params: StructuredOutputsParams, output_ids: Sequence[int]) -> GrammarState:
    return STATE(self, params, [])


def _shares_states(self: DeviceGrammars, params: StructuredOutputsParams, output_ids: Sequence[int]) -> GrammarState:
    return SHARED.setdefault(params.key, STATE(self, params, output_ids))


def _stands_still(self: GrammarState | ThinkingState, token: int) -> None:
    pass


STATE = DeviceGrammars.state
SHARED: dict[bytes, GrammarState] = {}


@pytest.mark.parametrize(
    ("where", "name", "bug"),
    [
        (DeviceGrammars, "state", _forgets_outputs),
        (DeviceGrammars, "state", _shares_states),
        (GrammarState, "add", _stands_still),
        (ThinkingState, "add", _stands_still),
    ],
    ids=["forgets-outputs", "shares-states", "stands-still", "counts-no-reasoning"],
)
def test_planted_bugs_are_found(
    expected: Answers, monkeypatch: pytest.MonkeyPatch, where: type, name: str, bug: Callable[..., Any]
) -> None:
    monkeypatch.setattr(where, name, bug)
    with pytest.raises((AssertionError, RequestError)):
        test_in_a_crowd_with_preemption(expected)
