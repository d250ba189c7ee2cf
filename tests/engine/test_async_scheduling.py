"""Asynchronous scheduling: the plan of an iteration is made and started before the one before it is finished."""

from __future__ import annotations

import pytest
from simulation.invariants import check_roster
from support.toy import ToyExecutor, make_engine, request, run, tokens_of

from flover.engine.loop import Engine
from flover.engine.plan import StepPlan
from flover.engine.strategy import Strategy
from flover.errors import InvariantError
from flover.request import FinishReason, ModelFacts


def rows_of(device: ToyExecutor) -> list[list[tuple[int, int]]]:
    """What each plan computes: (row, first position)."""
    return [[(work.row, work.start) for work in plan.work] for plan in device.plans]


def engine_of(**settings: object) -> tuple[Engine, ToyExecutor]:
    return make_engine(async_scheduling=True, **settings)  # type: ignore[arg-type]


def test_a_sequence_that_ends_by_its_length_is_not_computed_again() -> None:
    engine, device = engine_of()
    engine.submit(request("a", prompt_len=5, max_tokens=3))
    assert engine.step() == [], "its first iteration is in flight"
    deltas = run(engine)
    assert rows_of(device) == [[(0, 0)], [(0, 5)], [(0, 6)]]
    assert tokens_of(deltas, "a") == [5, 6, 7]
    assert engine.stats().iterations == 3


def test_a_sequence_that_stops_is_computed_once_more_and_its_pages_are_held_so_long() -> None:
    engine, device = engine_of()
    engine.submit(request("a", prompt_len=5, max_tokens=9, stop_token_ids=[6]))
    for _ in range(2):
        engine.step()
    (last,) = engine.step()
    assert (last.token_ids, last.finish_reason) == ([6], FinishReason.STOP)
    assert engine.roster.pool.used == 2, "its pages may still be written"
    check_roster(engine.roster)
    assert engine.has_work and engine.wait(0), "an iteration is in flight"
    assert engine.step() == []
    assert rows_of(device) == [[(0, 0)], [(0, 5)], [(0, 6)]]
    assert (engine.roster.pool.used, engine.has_work) == (0, False)


def test_a_cancelled_sequence_ends_at_once_and_its_pages_stay_until_its_iteration_is_finished() -> None:
    engine, _ = engine_of(pages=4)
    engine.submit(request("a", prompt_len=13, max_tokens=3))
    engine.step()
    engine.cancel("a")
    engine.submit(request("b", prompt_len=13, max_tokens=3, first=200))
    (delta,) = engine.step()
    assert delta.finish_reason is FinishReason.ABORT
    assert engine.roster.waiting and not engine.roster.running, "the pool is not free yet"
    assert tokens_of(run(engine), "b") == [13, 14, 15]


def test_preemption_waits_for_the_tokens_of_the_iteration_in_flight() -> None:
    engine, _ = engine_of(pages=6)
    for name in "abc":
        engine.submit(request(name, prompt_len=7, max_tokens=9, first=100 * ord(name)))
    deltas = run(engine)
    assert engine.stats().preemptions > 0
    for name in "abc":
        assert tokens_of(deltas, name) == list(range(7, 16))


def test_a_sequence_in_flight_cannot_be_preempted() -> None:
    engine, _ = engine_of()
    engine.submit(request("a"))
    engine.step()
    with pytest.raises(InvariantError, match="while it is computed"):
        engine.roster.preempt(engine.roster.running[0])


def test_after_a_fault_all_sequences_in_flight_are_suspects() -> None:
    failing = {3}

    def fail(plan: StepPlan, rows: dict[int, int]) -> None:
        if plan.step in failing:
            raise RuntimeError("boom")

    def executor(facts: ModelFacts) -> ToyExecutor:
        return ToyExecutor(facts, fail)

    engine, device = engine_of(executor=executor)
    for name in "ab":
        engine.submit(request(name, first=100 * ord(name), max_tokens=8))
    deltas = [delta for _ in range(4) for delta in engine.step()]
    assert (len(engine.roster.suspects), device.resets, engine.stats().faults) == (2, 1, 1)
    assert not engine.roster.in_flight and engine.roster.pool.used == 0
    deltas += run(engine)
    for name in "ab":
        assert tokens_of(deltas, name) == list(range(5, 13))
    alone = [len(plan.work) for plan in device.plans[4:6]]
    assert alone == [1, 1], "suspects are tried one at a time"


@pytest.mark.parametrize("strategy", Strategy)
@pytest.mark.parametrize("reorder", [True, False])
def test_every_strategy_gives_the_same_tokens(strategy: Strategy, reorder: bool) -> None:
    found = []
    for overlaps in (False, True):
        engine, _ = make_engine(rows=3, pages=12, strategy=strategy, reorder=reorder, async_scheduling=overlaps)
        for number in range(7):
            stops = [9] if number % 2 else None
            one = request(f"r{number}", 3 + number, 9, first=100 * number, n=1 + number % 2, stop_token_ids=stops)
            engine.submit(one)
        deltas = run(engine)
        found.append({(f"r{n}", i): tokens_of(deltas, f"r{n}", i) for n in range(7) for i in range(2)})
        assert engine.roster.pool.used == 0
    assert found[0] == found[1]
