"""Each iteration as one frozen `Iteration`, for those who watch an engine.

`describe` makes it from the rows before, the plan, its outcome, and the state of the pool afterwards; it is pure.
`Timeline` is the observer that calls it for every iteration of a running engine.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from flover.engine.observer import ExecutedPlan, Observer
from flover.engine.plan import Move, StepPlan
from flover.engine.roster import Roster, row_of
from flover.observe.background_writer import MAX_WAITING_STEPS, Backlog
from flover.request import Delta

DEAD = -1
"""In `rows`: a row without a sequence."""
PREEMPTED = "preempted"
"""Why a sequence left its row when it has not ended; otherwise the reason is its finish reason."""

Name = tuple[str, int]
"""A sequence as the client knows it: request id and index."""
Leaving = tuple[int, str]
"""Sequence number, and its finish reason or `PREEMPTED`."""


class Iteration(msgspec.Struct, frozen=True, kw_only=True):
    """One iteration: the sequence in each row, what each row computed, which sequences came and went since the
    iteration before.

    A sequence that left is in `rows` if it was computed in this iteration, and not if it left before. The pages are
    counted at the end; pages taken are `pages_used` + `pages_freed` less the `pages_used` of the iteration before.
    """

    step: int
    started: float  # seconds since the engine started, by its clock
    milliseconds: float  # the executor's time
    first: int  # the row that rows[0] is; 0 with buffer reordering
    rows: list[int]  # sequence number in each row of the window, DEAD for a dead row
    generating: list[int]  # rows
    chunks: list[tuple[int, int]]  # row, tokens
    entered: list[tuple[int, int, str]]  # row, sequence number, request id
    left: list[Leaving]
    moves: list[Move]
    waiting: int  # sequences in the queue
    pages_used: int
    pages_cached: int
    pages_total: int
    pages_freed: int  # pages that lost their last owner since the iteration before
    tokens: int  # tokens sampled
    fault: str | None = None  # what was raised, if the iteration failed


@dataclass(frozen=True, slots=True)
class RowMap:
    """The sequence in each row between two iterations."""

    rows: Sequence[int]
    """Sequence number by row, as the device has it: one that has just ended is cleared by the next plan."""
    numbers: Mapping[Name, int]
    """Sequence numbers of those that have a row and have not ended."""


class PoolSnapshot(msgspec.Struct, frozen=True):
    """Queue and pages, counted. `pages_freed` only grows."""

    waiting: int
    pages_used: int
    pages_cached: int
    pages_total: int
    pages_freed: int

    @classmethod
    def of(cls, roster: Roster) -> PoolSnapshot:
        pool = roster.pool
        return cls(len(roster.waiting), pool.used, pool.cached, pool.total, roster.counts["pages_freed"])


def row_map_of(roster: Roster) -> RowMap:
    """The rows of an engine that is already at work."""
    rows = [DEAD] * roster.config.max_num_seqs
    for sequence in roster.running:
        rows[row_of(sequence)] = sequence.number
    return RowMap(rows, {(one.request.id, one.index): one.number for one in roster.running})


def admitted_names(roster: Roster, plan: StepPlan) -> dict[int, Name]:
    """Names of the sequences that a plan admits, by number; before anything is committed."""
    numbers = {admission.sequence for admission in plan.admissions}
    if not numbers:
        return {}
    return {one.number: (one.request.id, one.index) for one in roster.running if one.number in numbers}


def remove_finished(before: RowMap, deltas: Iterable[Delta]) -> tuple[RowMap, list[Leaving]]:
    """The rows without the sequences that have ended, and those with their finish reasons."""
    gone = [delta for delta in deltas if delta.finish_reason is not None and _name(delta) in before.numbers]
    if not gone:
        return before, []
    numbers = dict(before.numbers)
    return RowMap(before.rows, numbers), [(numbers.pop(_name(delta)), str(delta.finish_reason)) for delta in gone]


def apply_plan(before: RowMap, plan: StepPlan, names: Mapping[int, Name]) -> RowMap:
    """The sequence in each row while the plan runs."""
    if not (plan.evictions or plan.moves or plan.admissions):
        return before
    rows, numbers = list(before.rows), dict(before.numbers)
    for row in plan.evictions:
        rows[row] = DEAD
    for move in plan.moves:
        rows[move.dst], rows[move.src] = rows[move.src], DEAD
    for admission in plan.admissions:
        rows[admission.row] = admission.sequence
        numbers[names[admission.sequence]] = admission.sequence
    return RowMap(rows, numbers)


def describe(
    before: RowMap,
    run: ExecutedPlan,
    names: Mapping[int, Name],
    deltas: Iterable[Delta],
    pool: PoolSnapshot,
    *,
    born: float,
    freed_before: int,
) -> tuple[Iteration, RowMap]:
    """One iteration, and the rows after it. `names` are those of the admitted sequences, `deltas` those of the step,
    `pool` the state at its end; `freed_before` is the counter of freed pages at the end of the iteration before."""
    plan = run.plan
    during = apply_plan(before, plan, names)
    after, left = remove_finished(during, deltas)
    if plan.evictions:
        preempted = {before.rows[row] for row in plan.evictions} & set(after.numbers.values())
        left += [(number, PREEMPTED) for number in sorted(preempted)]
        after = RowMap(after.rows, {name: number for name, number in after.numbers.items() if number not in preempted})
    if run.fault is not None:  # every sequence is computed again, and the device was reset
        left += [(number, PREEMPTED) for number in after.numbers.values()]
        after = RowMap([DEAD] * len(after.rows), {})
    start, end = plan.window
    iteration = Iteration(
        step=plan.step,
        started=run.started - born,
        milliseconds=run.milliseconds,
        first=start,
        rows=list(during.rows[start:end]),
        generating=plan.generating,
        chunks=[(chunk.row, chunk.num_tokens) for chunk in plan.chunks],
        entered=[(one.row, one.sequence, names[one.sequence][0]) for one in plan.admissions],
        left=left,
        moves=plan.moves,
        waiting=pool.waiting,
        pages_used=pool.pages_used,
        pages_cached=pool.pages_cached,
        pages_total=pool.pages_total,
        pages_freed=pool.pages_freed - freed_before,
        tokens=sum(len(result.token_ids) for result in run.rows.values()),
        fault=run.fault,
    )
    return iteration, after


def _name(delta: Delta) -> Name:
    return delta.request_id, delta.index


class _ObservedStep(msgspec.Struct, frozen=True):
    """What is known at the end of a step; described when it is taken."""

    run: ExecutedPlan | None
    names: Mapping[int, Name]
    deltas: Sequence[Delta]
    pool: PoolSnapshot


class Timeline(Observer):
    """Describes every iteration of an engine.

    While the loop works it only notes what it is handed; iterations are made when they are taken, many at a time. That
    halves the cost: between two iterations of a model the processor forgets this code. One thread may note while
    another takes.
    """

    def __init__(self) -> None:
        self._steps: Backlog[_ObservedStep] = Backlog()
        self._born = 0.0
        self._freed = 0
        self._rows = RowMap([], {})
        self._left: list[Leaving] = []
        self._names: dict[int, Mapping[int, Name]] = {}
        self._run: ExecutedPlan | None = None
        self._run_names: Mapping[int, Name] = {}

    def take(self, most: int = MAX_WAITING_STEPS) -> list[Iteration]:
        """The iterations that were not taken yet, at most those of so many steps."""
        described = (self._describe(step) for step in self._steps.take(most))
        return [iteration for iteration in described if iteration is not None]

    def attached(self, roster: Roster, born: float) -> None:
        """Take the rows as they are."""
        self._born, self._rows, self._freed = born, row_map_of(roster), roster.counts["pages_freed"]

    def planned(self, roster: Roster, plan: StepPlan | None) -> None:
        """Note the names of the admitted sequences while they are surely there."""
        self._run = None
        if plan is not None:
            self._names[plan.step] = admitted_names(roster, plan)

    def ran(self, run: ExecutedPlan) -> None:
        """Keep it for the end of the step, unless it was planned before this observer was attached."""
        names = self._names.pop(run.plan.step, None)
        if names is not None:
            self._run, self._run_names = run, names
        if run.fault is not None:
            self._names.clear()

    def stepped(self, roster: Roster, deltas: Sequence[Delta]) -> None:
        """Note the step. One without a plan matters if a sequence left."""
        if self._run is not None or deltas:
            self._steps.put(_ObservedStep(self._run, self._run_names, deltas, PoolSnapshot.of(roster)))

    def _describe(self, step: _ObservedStep) -> Iteration | None:
        """The iteration of a step, if there was one; what leaves between two iterations leaves with the second."""
        if step.run is None:
            self._rows, left = remove_finished(self._rows, step.deltas)
            self._left += left
            return None
        iteration, self._rows = describe(
            self._rows, step.run, step.names, step.deltas, step.pool, born=self._born, freed_before=self._freed
        )
        self._freed = step.pool.pages_freed
        if self._left:
            iteration = msgspec.structs.replace(iteration, left=self._left + iteration.left)
            self._left = []
        return iteration
