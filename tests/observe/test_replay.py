"""A session of the bundled model, recorded and run again: the same plans and, with any threads and any instruction
set, the same tokens."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from flover.cli.main import main
from flover.config import EngineConfig
from flover.engine.loop import Engine
from flover.engine.plan import StepPlan
from flover.engine.scheduler import Scheduler
from flover.executor.background import BackgroundExecutor
from flover.executor.load import load_device
from flover.observe.record_reader import Record, read_record
from flover.observe.replay import RecordedExecutor, Replay, replay
from flover.observe.trace import replay_path
from flover.ops.cpu import instruction_sets
from flover.request import Request, SamplingParams
from flover.service.build import build_engine

OPENING = list(range(300, 340))
"""What some prompts begin with: two pages and a half."""


def make_request(rng: Random, number: int) -> Request:
    prompt = [rng.randrange(6, 2000) for _ in range(rng.randrange(1, 60))]
    params: dict[str, Any] = {"max_tokens": rng.randrange(1, 50), "ignore_eos": True}
    if number % 3:
        params |= {"temperature": 0.9, "top_p": 0.9, "n": 1 + number % 2}
    else:
        params |= {"temperature": 0.0, "repetition_penalty": 1.1}
    begin = OPENING if number % 2 else []
    return Request(id=f"r{number}", prompt_ids=begin + prompt, params=SamplingParams(**params), seed=number)


def converse(engine: Engine, seed: int) -> None:
    """Arrivals at any time, and some are cancelled."""
    rng = Random(seed)
    for number in range(24):
        engine.submit(make_request(rng, number))
        for _ in range(rng.randrange(12)):
            engine.step()
        if rng.random() < 0.2:
            engine.cancel(f"r{rng.randrange(number + 1)}")
    while engine.has_work:
        engine.step()


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The trace of a session with preemptions, prefix hits, also in the host tier, and cancellations."""
    path = tmp_path_factory.mktemp("session") / "trace.json"
    config = EngineConfig(
        skip_tokenizer_init=True,
        max_num_seqs=8,
        kv_cache_memory_bytes=2**20,
        kv_offload_bytes=2**22,
        num_threads=2,
        target_itl_ms=0.0,
        trace=str(path),
    )
    engine = build_engine(config, lambda done, total: None)
    converse(engine, seed=1)
    stats = engine.stats()
    engine.close()
    assert stats.preemptions > 0
    assert stats.cached_tokens > 0
    assert stats.offload_loaded_bytes > 0
    assert stats.finished["abort"] > 0
    assert stats.row_moves > 0
    yield path


@pytest.fixture(scope="module")
def record(session: Path) -> Record:
    return read_record(replay_path(session))


def again(record: Record, **overrides: Any) -> Replay:
    config = dataclasses.replace(record.head.engine, trace=None, **overrides)
    executor = load_device(config, lambda done, total: None)
    try:
        return replay(record, executor)
    finally:
        executor.close()


def test_a_session_comes_out_the_same(record: Record) -> None:
    done = again(record)
    assert done.difference is None
    assert done.plans == done.plans_equal > 100
    assert done.tokens == done.tokens_equal > 300


def test_a_session_with_asynchronous_scheduling_comes_out_the_same(tmp_path: Path) -> None:
    """Results are recorded in the step in which they came; an iteration that failed is one of them."""
    path = tmp_path / "trace.json"
    config = EngineConfig(
        skip_tokenizer_init=True,
        max_num_seqs=8,
        kv_cache_memory_bytes=2**20,
        kv_offload_bytes=2**22,
        num_threads=1,
        target_itl_ms=5.0,
        async_scheduling=True,
        trace=str(path),
    )
    engine = build_engine(config, lambda done, total: None)
    executor = engine._executor
    start, number = executor.start, iter(range(10**6))

    def start_or_raise(plan: StepPlan) -> None:
        start(plan)
        if next(number) in (40, 41, 90):
            raise RuntimeError("boom")

    executor.start = start_or_raise  # type: ignore[method-assign]
    converse(engine, seed=2)
    stats = engine.stats()
    engine.close()
    assert stats.faults == 3 and stats.preemptions > 0
    record = read_record(replay_path(path))
    assert record.head.scheduler.async_scheduling
    for executor in (BackgroundExecutor(load_device(config, lambda done, total: None)), RecordedExecutor(engine.facts)):
        done = replay(record, executor)
        executor.close()
        assert done.difference is None
        assert done.plans == done.plans_equal > 100
        assert done.tokens == done.tokens_equal > 300
    assert {event["ph"] for event in json.loads(path.read_text())} == {"M", "B", "E", "X", "C"}


def test_a_record_of_version_1_gives_the_same_plans_and_tokens() -> None:
    """Made when a generating row was a number in the plan: prefix hits, log-probabilities, cancellations, moves."""
    done = again(read_record(Path(__file__).with_name("version-1.replay")))
    assert done.difference is None
    assert done.plans == done.plans_equal == 94
    assert done.tokens == done.tokens_equal == 125


@pytest.mark.parametrize("isa", instruction_sets()[:-1] or instruction_sets())
def test_on_other_threads_and_instruction_sets_too(record: Record, isa: str) -> None:
    """All but the slowest, portable: `tests/ops` and `tests/selftest` compare its bits."""
    done = again(record, num_threads=1, cpu_isa=isa)
    assert done.difference is None
    assert done.tokens == done.tokens_equal


def test_other_weights_are_found(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    config = dataclasses.replace(record.head.engine, trace=None)
    executor = load_device(config, lambda done, total: None)
    logits = executor._decoder.logits
    monkeypatch.setattr(
        executor._decoder, "logits", lambda hidden: logits(np.ascontiguousarray(np.roll(hidden, 1, axis=-1)))
    )
    done = replay(record, executor)
    executor.close()
    assert done.difference is not None
    assert done.difference.what.startswith("tokens")
    assert done.tokens_equal < done.tokens


def test_the_command_says_so(session: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(session), "--num-threads", "1"]) == 0
    out = capsys.readouterr().out
    assert "no difference" in out
    assert main(["replay", str(replay_path(session)), "--schedule-only"]) == 0
    assert "taken from the record" in capsys.readouterr().out


def test_the_command_shows_the_first_difference(
    session: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Scheduler, "_awaits_sibling", lambda self, sequence: False)
    assert main(["replay", str(session), "--schedule-only"]) == 1
    out = capsys.readouterr().out
    assert "first difference: step" in out
    recorded, replayed = (json.loads(line.split(maxsplit=1)[1]) for line in out.splitlines() if line.startswith("  re"))
    assert recorded.keys() | replayed.keys() >= {"step", "window", "admissions"}
    assert recorded != replayed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["missing.json"], "missing.json.replay is not there"),
        (["{session}", "--schedule-only", "--num-threads", "1"], "--schedule-only loads no model"),
        (["{session}", "--model", "missing"], "missing"),
    ],
)
def test_what_cannot_be_replayed_is_refused(
    session: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["replay", *(word.format(session=session) for word in words)]) != 0
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_the_picture_is_json(session: Path) -> None:
    events = json.loads(session.read_text())
    assert {event["ph"] for event in events} == {"M", "B", "E", "X", "C"}
    lanes = {event["args"]["name"] for event in events if event.get("name") == "thread_name"}
    assert lanes >= {"iterations", "row 0", "row 5"}
    assert {event["args"]["left"] for event in events if event["ph"] == "E" and "args" in event} >= {
        "length",
        "abort",
        "preempted",
    }
