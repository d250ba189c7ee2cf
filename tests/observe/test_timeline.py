"""Iterations as observers see them: a schedule known by heart, and the engine's own books on any other."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from simulation.simulator import Simulation
from support.toy import ToyExecutor, make_engine, request

from flover.engine.loop import Engine
from flover.engine.observer import ExecutedPlan, Observer
from flover.engine.plan import Move, StepPlan
from flover.engine.roster import Roster
from flover.observe.timeline import DEAD, PREEMPTED, Iteration, Timeline
from flover.request import Delta


def watch(engine: Engine, steps: int) -> list[Iteration]:
    """The iterations of so many steps."""
    timeline = Timeline()
    engine.observe(timeline)
    seen: list[Iteration] = []
    for _ in range(steps):
        engine.step()
        seen += timeline.take()
        assert timeline.take() == []
    engine.unobserve(timeline)
    return seen


def test_a_schedule_known_by_heart() -> None:
    engine, _ = make_engine(rows=3, page_size=4)
    for name, first, max_tokens in (("a", 100, 2), ("b", 200, 9), ("c", 300, 3)):
        engine.submit(request(name, 5, max_tokens, first=first))
    first, second = watch(engine, 2)
    assert (first.step, first.first, first.rows) == (0, 0, [0, 1, 2])
    assert first.entered == [(0, 0, "a"), (1, 1, "b"), (2, 2, "c")]
    assert (first.chunks, first.generating, first.tokens) == ([(0, 5), (1, 5), (2, 5)], [], 3)
    assert (first.started, first.milliseconds) == (0.0, pytest.approx(1.0))
    assert (first.pages_used, first.pages_total, first.pages_freed, first.waiting) == (6, 64, 0, 0)
    assert (second.generating, second.chunks, second.entered, second.tokens) == ([0, 1, 2], [], [], 3)
    assert second.rows == [0, 1, 2], "who ends in an iteration was computed in it"
    assert (second.left, second.pages_freed, second.pages_used, second.pages_cached) == ([(0, "length")], 2, 4, 1)
    third, fourth = watch(engine, 2)
    assert (third.moves, third.rows, third.generating) == ([Move(2, 0)], [2, 1], [0, 1])
    assert (third.left, third.started) == ([(2, "length")], pytest.approx(0.002))
    assert (fourth.rows, fourth.moves) == ([1], [Move(1, 0)])


def test_without_reordering_dead_rows_are_in_the_window() -> None:
    engine, _ = make_engine(rows=3, reorder=False)
    for name, max_tokens in (("a", 2), ("b", 3), ("c", 9)):
        engine.submit(request(name, 5, max_tokens, first=ord(name)))
    seen = watch(engine, 4)
    assert [(one.first, one.rows) for one in seen] == [(0, [0, 1, 2]), (0, [0, 1, 2]), (1, [1, 2]), (2, [2])]
    engine, _ = make_engine(rows=3, reorder=False)
    for name, max_tokens in (("a", 9), ("b", 2), ("c", 9)):
        engine.submit(request(name, 5, max_tokens, first=ord(name)))
    assert watch(engine, 3)[-1].rows == [0, DEAD, 2]


def test_who_is_cancelled_or_preempted_was_not_computed() -> None:
    engine, _ = make_engine(rows=2, pages=4, page_size=4, max_model_len=16)
    engine.submit(request("a", 7, 9, first=100))
    engine.submit(request("b", 7, 9, first=200))
    *_, before, last = watch(engine, 3)
    assert before.rows == [0, 1]
    assert (last.rows, last.left, last.waiting) == ([0], [(1, PREEMPTED)], 1)
    assert last.pages_used == before.pages_used + 1 - last.pages_freed, "one page taken, those of b freed"
    engine.cancel("a")
    (after,) = watch(engine, 1)
    assert after.left == [(0, "abort")]
    assert (after.entered, after.rows) == ([(0, 1, "b")], [1])


def test_a_cancellation_with_nobody_left_comes_with_the_next_iteration() -> None:
    engine, _ = make_engine()
    engine.submit(request("a"))
    timeline = Timeline()
    engine.observe(timeline)
    engine.step()
    engine.cancel("a")
    engine.step()
    assert [one.entered for one in timeline.take()] == [[(0, 0, "a")]]
    engine.submit(request("b"))
    engine.step()
    (iteration,) = timeline.take()
    assert (iteration.left, iteration.entered) == ([(0, "abort")], [(0, 1, "b")])


def test_an_iteration_that_fails_is_told_and_everybody_leaves() -> None:
    def fail(plan: StepPlan, rows: dict[int, int]) -> None:
        if plan.step == 1:
            raise RuntimeError("boom")

    engine, _ = make_engine(executor=lambda facts: ToyExecutor(facts, fail))
    engine.submit(request("a", first=100))
    engine.submit(request("b", first=200))
    _, failed, alone = watch(engine, 3)
    assert (failed.fault, failed.tokens, failed.rows) == ("RuntimeError: boom", 0, [0, 1])
    assert sorted(failed.left) == [(0, PREEMPTED), (1, PREEMPTED)]
    assert (alone.fault, alone.rows, alone.entered) == (None, [0], [(0, 0, "a")])


def test_watching_may_begin_while_an_iteration_is_in_flight() -> None:
    engine, _ = make_engine(rows=3, async_scheduling=True)
    for name, max_tokens in (("a", 3), ("b", 9)):
        engine.submit(request(name, 5, max_tokens, first=ord(name)))
    engine.step()
    engine.step()
    engine.submit(request("c", 5, 2, first=300))
    seen = watch(engine, 4)
    assert [one.rows for one in seen] == [[0, 1, 2], [0, 1, 2], [2, 1]]
    assert [one.left for one in seen] == [[(0, "length")], [(2, "length")], []]
    assert [one.entered for one in seen] == [[(2, 2, "c")], [], []]


def test_watching_may_begin_at_any_time() -> None:
    engine, _ = make_engine(rows=3)
    for name, max_tokens in (("a", 3), ("b", 9)):
        engine.submit(request(name, 5, max_tokens, first=ord(name)))
    engine.step()
    engine.step()
    (iteration,) = watch(engine, 1)
    assert (iteration.rows, iteration.left, iteration.entered) == ([0, 1], [(0, "length")], [])


class Bookkeeper(Observer):
    """Holds what a timeline says against the roster."""

    def __init__(self) -> None:
        self.timeline = Timeline()
        self.seated: set[int] = set()
        self.planned_rows: dict[int, dict[int | None, int]] = {}
        self.used = 0
        self.iterations = 0
        self.kinds: set[str] = set()

    def attached(self, roster: Roster, born: float) -> None:
        self.timeline.attached(roster, born)

    def planned(self, roster: Roster, plan: StepPlan | None) -> None:
        self.timeline.planned(roster, plan)
        if plan is not None:
            self.planned_rows[plan.step] = {sequence.row: sequence.number for sequence in roster.running}

    def ran(self, run: ExecutedPlan) -> None:
        self.timeline.ran(run)

    def stepped(self, roster: Roster, deltas: Sequence[Delta]) -> None:
        self.timeline.stepped(roster, deltas)
        described = self.timeline.take()
        if not described:
            return
        (one,) = described
        self.iterations += 1
        self.kinds |= {reason for _, reason in one.left}
        shown = {one.first + place: number for place, number in enumerate(one.rows) if number != DEAD}
        assert shown == self.planned_rows[one.step]
        entered, left = [number for _, number, _ in one.entered], [number for number, _ in one.left]
        assert len(set(left)) == len(left)
        assert not self.seated & set(entered)
        self.seated = (self.seated | set(entered)) - set(left)
        coming = {admission.sequence for flight in roster.in_flight for admission in flight.plan.admissions}
        assert self.seated == {sequence.number for sequence in roster.running} - coming
        assert (one.pages_used, one.waiting) == (roster.pool.used, len(roster.waiting))
        assert one.pages_freed >= 0
        taken = one.pages_used + one.pages_freed - self.used
        assert taken >= 0
        self.used = one.pages_used


@pytest.mark.parametrize("seed", range(21))
def test_the_timeline_and_the_roster_agree_on_any_schedule(seed: int) -> None:
    simulation = Simulation(seed, steps=150)
    keeper = Bookkeeper()
    simulation.engine.observe(keeper)
    simulation.run()
    assert keeper.iterations > 0
