"""A recorded schedule, step again: the same plans, and a difference is found where it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from simulation.simulator import Simulation
from support.toy import ToyExecutor, make_engine, request, run

from flover.config import EngineConfig
from flover.engine.loop import Engine
from flover.engine.plan import StepPlan, StepResult
from flover.engine.roster import Roster
from flover.engine.rows import RowLayout
from flover.engine.scheduler import Scheduler
from flover.errors import ConfigError
from flover.observe.record import ScheduleRecorder, digest_of
from flover.observe.record_reader import Record, read_record
from flover.observe.replay import RecordedExecutor, replay
from flover.request import ModelFacts, SamplingParams


def record(engine: Engine) -> ScheduleRecorder:
    """Everything that this engine is step from now on."""
    recorder = ScheduleRecorder()
    engine._clock = recorder.clock(engine._clock)
    recorder.begin(EngineConfig(), engine.roster.config, engine.facts)
    engine.observe(recorder)
    return recorder


def read(recorder: ScheduleRecorder, path: Path) -> Record:
    path.write_bytes(b"".join(iter(recorder.read, b"")) + recorder.end())
    return read_record(path)


def mixed(engine: Engine) -> None:
    """Arrivals, a cancellation, n > 1, a preemption, a shared prefix, an id that is used again."""
    odd = SamplingParams(temperature=0.5, logit_bias={3: -1.5, 70: 2.25}, n=2, max_tokens=6, seed=-(2**63))
    engine.submit(request("a", 7, 9, first=100))
    engine.submit(msgspec.structs.replace(request("b", 9), params=odd, seed=2**62, salt="s", priority=-3))
    for _ in range(4):
        engine.step()
    engine.cancel("a")
    engine.submit(request("c", 12, 8, first=100))
    run(engine)
    engine.reset_prefix_cache()
    engine.submit(request("a", 12, 8, first=100))
    engine.submit(request("d", 12, 8, first=100))
    run(engine)


def small_engine(executor: Callable[[ModelFacts], ToyExecutor] = ToyExecutor) -> Engine:
    engine, _ = make_engine(rows=3, pages=8, page_size=4, max_model_len=32, executor=executor, target_itl_ms=3.0)
    return engine


@pytest.fixture
def session(tmp_path: Path) -> Record:
    engine = small_engine()
    recorder = record(engine)
    mixed(engine)
    assert engine.stats().preemptions > 0
    assert engine.stats().cached_tokens > 0
    return read(recorder, tmp_path / "r")


def test_a_record_is_replayed_without_a_difference(session: Record) -> None:
    done = replay(session, RecordedExecutor(session.head.facts))
    assert done.difference is None
    assert done.steps == len(session.steps)
    assert done.plans == done.plans_equal > 20
    assert done.tokens == done.tokens_equal > 30
    with_model = replay(session, ToyExecutor(session.head.facts))
    assert with_model == done


def test_inputs_come_back_as_they_were(session: Record) -> None:
    inputs = [one for step in session.steps for one in step.inputs]
    (odd,) = [one.request for one in inputs if hasattr(one, "request") and one.request.id == "b"]
    assert odd.params.logit_bias == {3: -1.5, 70: 2.25}
    assert (odd.seed, odd.params.seed, odd.salt, odd.priority) == (2**62, -(2**63), "s", -3)
    assert [step.forgot for step in session.steps].count(True) == 1


@pytest.mark.parametrize("seed", range(21))
def test_any_schedule_is_replayed(seed: int, tmp_path: Path) -> None:
    simulation = Simulation(seed, steps=150)
    recorder = record(simulation.engine)
    simulation.run()
    session = read(recorder, tmp_path / "r")
    done = replay(session, RecordedExecutor(session.head.facts))
    assert done.difference is None
    assert done.plans > 0


def test_faults_are_replayed(tmp_path: Path) -> None:
    def fail(plan: StepPlan, rows: dict[int, int]) -> None:
        if plan.step in (2, 5, 6, 7):
            raise RuntimeError("boom")

    engine = small_engine(lambda facts: ToyExecutor(facts, fail))
    recorder = record(engine)
    mixed(engine)
    session = read(recorder, tmp_path / "r")
    assert sum(step.fault is not None for step in session.steps) == 4
    assert replay(session, RecordedExecutor(session.head.facts)).difference is None


def test_a_fault_that_was_not_there_is_a_difference(session: Record) -> None:
    def fail(plan: StepPlan, rows: dict[int, int]) -> None:
        if plan.step == 3:
            raise RuntimeError("boom")

    difference = replay(session, ToyExecutor(session.head.facts, fail)).difference
    assert difference is not None
    assert (difference.step, difference.what, difference.recorded) == (3, "fault", "None")
    assert "boom" in difference.replayed


def test_another_decision_is_found_where_it_is_made(session: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    admit = Scheduler._admit

    def one_at_a_time(self: Scheduler, queue: list[object], *more: object) -> object:
        return admit(self, queue[:1], *more)  # type: ignore[arg-type]

    monkeypatch.setattr(Scheduler, "_admit", one_at_a_time)
    done = replay(session, RecordedExecutor(session.head.facts))
    assert done.difference is not None
    assert (done.difference.step, done.difference.what) == (0, "plan")
    recorded, replayed = json.loads(done.difference.recorded), json.loads(done.difference.replayed)
    assert len(recorded["admissions"]) > len(replayed["admissions"]) == 1
    assert (done.plans, done.plans_equal) == (1, 0)


def test_another_order_of_rows_is_found(session: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    from flover.engine import rows

    dense = rows.dense_layout

    def backwards(alive: list[bool], entering: int) -> RowLayout:
        layout = dense(alive, entering)
        return RowLayout(layout.moves, layout.entries[::-1])

    monkeypatch.setattr(rows, "dense_layout", backwards)
    assert replay(session, RecordedExecutor(session.head.facts)).difference is not None


def test_what_is_only_in_the_digest_is_found_too(session: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    def other_seeds(self: Roster, wanted: object, now: float) -> None:
        add(self, msgspec.structs.replace(wanted, seed=wanted.seed + 1), now)  # type: ignore[type-var,attr-defined]

    add = Roster.add
    monkeypatch.setattr(Roster, "add", other_seeds)
    difference = replay(session, RecordedExecutor(session.head.facts)).difference
    assert difference is not None
    assert "prompts or parameters" in difference.what


def test_another_token_is_found(session: Record) -> None:
    class Mistaken(ToyExecutor):
        def run(self, plan: StepPlan) -> StepResult:
            result = super().run(plan)
            if plan.step != 5:
                return result
            first, *others = result.rows
            return msgspec.structs.replace(
                result, rows=[msgspec.structs.replace(first, token_ids=[first.token_ids[0] + 1]), *others]
            )

    done = replay(session, Mistaken(session.head.facts))
    assert done.difference is not None
    assert (done.difference.step, done.difference.what) == (5, "tokens of rows [0]")
    assert done.tokens_equal < done.tokens


def test_another_clock_would_decide_otherwise(tmp_path: Path) -> None:
    """The costs of the record matter: with others, chunks get other lengths."""
    engine, _ = make_engine(
        pages=256,
        batched=512,
        max_model_len=400,
        target_itl_ms=5.0,
        executor=lambda facts: ToyExecutor(facts, seconds=lambda plan: 1e-4 * plan.num_tokens),
    )
    recorder = record(engine)
    engine.submit(request("a", 5, 60))
    for _ in range(20):
        engine.step()
    engine.submit(request("b", 200, 5))
    run(engine)
    session = read(recorder, tmp_path / "r")
    assert replay(session, RecordedExecutor(session.head.facts)).difference is None
    slow = [msgspec.structs.replace(step, clock=[9 * now for now in step.clock]) for step in session.steps]
    changed = Record(session.head, slow, session.cut)
    assert replay(changed, RecordedExecutor(session.head.facts)).difference is not None


def test_a_record_that_was_cut_off_is_read_as_far_as_it_goes(session: Record, tmp_path: Path) -> None:
    whole = (tmp_path / "r").read_bytes()
    (tmp_path / "r").write_bytes(whole[:-10])
    cut = read_record(tmp_path / "r")
    assert cut.cut
    assert cut.steps == session.steps[:-1]
    assert replay(cut, RecordedExecutor(cut.head.facts)).difference is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "line 1"),
        (b"[\n{}\n]\n", "line 1"),
        (b'{"type":"step","inputs":[],"clock":[]}\n', "does not begin with a head"),
    ],
)
def test_what_is_no_record_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "r").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_record(tmp_path / "r")


def test_a_record_of_another_version_is_refused(session: Record, tmp_path: Path) -> None:
    data = (tmp_path / "r").read_bytes()
    (tmp_path / "r").write_bytes(data.replace(b'"version":2', b'"version":7', 1))
    with pytest.raises(ConfigError, match="version 7"):
        read_record(tmp_path / "r")


def test_another_model_is_refused(session: Record) -> None:
    facts = session.head.facts
    for changes, message in (({"vocab_size": 7}, "vocab_size"), ({"pool_tokens": 4}, "pool of 32 tokens")):
        other = msgspec.structs.replace(facts, **changes)
        with pytest.raises(ConfigError, match=message):
            replay(session, ToyExecutor(other))


def test_a_digest_stands_for_all_of_a_plan() -> None:
    engine, device = make_engine()
    engine.submit(request("a"))
    run(engine)
    plan = device.plans[0]
    admission = plan.admissions[0]
    other = msgspec.structs.replace(plan, admissions=[msgspec.structs.replace(admission, seed=9)])
    assert digest_of(plan) == digest_of(msgspec.structs.replace(plan))
    assert digest_of(plan) != digest_of(other)
