"""Bugs to plant into the engine, each of which the laws must find. Every one patches a class of the engine for as long
as a test wants it; none of this is in the product."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from flover.engine import commit, rows, scheduler
from flover.engine.budget import Allowance
from flover.engine.loop import Engine
from flover.engine.pages import PagePool
from flover.engine.plan import RowResult, StepPlan, StepResult
from flover.engine.queue import Cancel, RequestQueue
from flover.engine.roster import Roster
from flover.engine.scheduler import Scheduler
from flover.engine.sequence import Sequence
from flover.errors import InvariantError
from flover.prefix.index import PrefixIndex
from flover.request import Delta, FinishReason, Request

from . import laws

Patch = pytest.MonkeyPatch


@dataclass(frozen=True, slots=True)
class Plant:
    """A bug, the law that it breaks (or laws, whichever a run meets first), and the flavour of run that meets it."""

    name: str
    laws: tuple[str, ...]
    flavour: str
    apply: Callable[[Patch], None]


PLANTS: list[Plant] = []


def plant(name: str, *broken: str, flavour: str) -> Callable[[Callable[[Patch], None]], Callable[[Patch], None]]:
    """Register a bug."""

    def register(apply: Callable[[Patch], None]) -> Callable[[Patch], None]:
        PLANTS.append(Plant(name, broken, flavour, apply))
        return apply

    return register


# Pages


@plant("a page leaks on cancel", "L3", flavour="cancels")
def _leak(patch: Patch) -> None:
    original = Roster.cancel

    def cancel(self: Roster, request_id: str, index: int | None = None) -> list[Delta]:
        for sequence in self.running:
            if sequence.request.id == request_id:
                sequence.pages = sequence.pages[:-1]
        return original(self, request_id, index)

    patch.setattr(Roster, "cancel", cancel)


@plant("a page leaks and the engine's own check is blind", "L4", flavour="cancels")
def _leak_unseen(patch: Patch) -> None:
    original = Roster.cancel

    def cancel(self: Roster, request_id: str, index: int | None = None) -> list[Delta]:
        # One page of many, so that nobody starves: only the idle engine shows that it is gone.
        if self.pool.available == self.pool.total > 100:
            self.pool.take(1)
        return original(self, request_id, index)

    patch.setattr(Roster, "cancel", cancel)
    patch.setattr(laws, "check_roster", lambda roster: None)


@plant("a prefix page is published before it is computed", "L7", "L3", flavour="calm")
def _publish_early(patch: Patch) -> None:
    original = Roster.admit

    def admit(self: Roster, sequence: Sequence) -> bool:
        admitted = original(self, sequence)
        if admitted:
            computed, sequence.computed = sequence.computed, len(sequence.token_ids)
            commit._publish(self, sequence)
            sequence.computed = computed
        return admitted

    patch.setattr(Roster, "admit", admit)


@plant("a sequence is admitted past the pool", "L3", flavour="starved")
def _past_the_pool(patch: Patch) -> None:
    original = PagePool.take

    def take(self: PagePool, count: int) -> list[int]:
        short = count - len(self._free) - len(self._cached)
        borrowed = [page for page, owners in enumerate(self._owners) if owners][: max(short, 0)]
        return original(self, count - len(borrowed)) + borrowed

    patch.setattr(PagePool, "take", take)
    patch.setattr(PagePool, "available", property(lambda self: self.total))


@plant("an evicted prefix page can still be found", "L7", "L3", flavour="calm")
def _reuse_freed(patch: Patch) -> None:
    patch.setattr(PrefixIndex, "forget", lambda self, page: None)


@plant("a page is freed while its last owner still reads it", "L3", flavour="calm")
def _free_early(patch: Patch) -> None:
    original = PagePool.share

    def share(self: PagePool, pages: list[int]) -> None:
        original(self, pages)
        for page in pages:
            self._owners[page] = 1

    patch.setattr(PagePool, "share", share)


@plant("salts are ignored", "L3", flavour="calm")
def _no_salt(patch: Patch) -> None:
    patch.setattr(Roster, "root", lambda self, request: self.prefix.root(""))


# Rows and tokens


@plant("two rows are swapped", "L7", flavour="calm")
def _swap_rows(patch: Patch) -> None:
    original = commit.match_rows

    def match_rows(plan: StepPlan, result: StepResult) -> dict[int, RowResult]:
        matched = original(plan, result)
        if len(matched) > 1 and all(row.token_ids for row in matched.values()):
            (a, first), (b, second), *_ = matched.items()
            matched[a], matched[b] = second, first
        return matched

    patch.setattr("flover.engine.loop.match_rows", match_rows)


@plant("holes between rows stay", "rows", flavour="calm")
def _holes(patch: Patch) -> None:
    def dense_layout(alive: list[bool], entering: int) -> rows.RowLayout:
        return rows.RowLayout([], [row for row, used in enumerate(alive) if not used][:entering])

    patch.setattr(rows, "dense_layout", dense_layout)


@plant("a sequence forgets a token when it is preempted", "L7", flavour="starved")
def _forget(patch: Patch) -> None:
    original = Roster.preempt

    def preempt(self: Roster, sequence: Sequence) -> None:
        if sequence.num_outputs > 0:
            sequence.token_ids.pop()
        original(self, sequence)

    patch.setattr(Roster, "preempt", preempt)


@plant("positions are a page off after a preemption", "L7", "L3", flavour="thrash")
def _wrong_position(patch: Patch) -> None:
    original = Roster.admit

    def admit(self: Roster, sequence: Sequence) -> bool:
        admitted = original(self, sequence)
        further = sequence.computed + self.config.page_size
        if admitted and sequence.preemptions and further < len(sequence.token_ids):
            sequence.computed = further
        return admitted

    patch.setattr(Roster, "admit", admit)


@plant("all sequences of a request sample with the same seed", "L7", "L6", flavour="calm")
def _same_seed(patch: Patch) -> None:
    original = scheduler._admission

    def admission(sequence: Sequence) -> Any:
        return msgspec.structs.replace(original(sequence), seed=sequence.request.seed)

    patch.setattr(scheduler, "_admission", admission)


# Ends and counters


@plant("a cancel is dropped", "L1", flavour="cancels")
def _drop_cancel(patch: Patch) -> None:
    original = RequestQueue.put

    def put(self: RequestQueue, item: Request | Cancel) -> None:
        if not isinstance(item, Cancel):
            original(self, item)

    patch.setattr(RequestQueue, "put", put)


@plant("a sequence ends twice", "L1", flavour="calm")
def _end_twice(patch: Patch) -> None:
    original = Engine.step

    def step(self: Engine) -> list[Delta]:
        deltas = original(self)
        return deltas + [delta for delta in deltas if delta.finish_reason is not None][:1]

    patch.setattr(Engine, "step", step)


@plant("an end is not counted", "L2", flavour="cancels")
def _uncounted(patch: Patch) -> None:
    original = Roster.end

    def end(self: Roster, sequence: Sequence, reason: FinishReason, **more: Any) -> Delta:
        delta = original(self, sequence, reason, **more)
        if reason is FinishReason.ABORT:
            self.counts[f"finished:{reason}"] -= 1
        return delta

    patch.setattr(Roster, "end", end)


@plant("a malformed result is taken", "L2", flavour="faults")
def _malformed(patch: Patch) -> None:
    original = commit.match_rows

    def match_rows(plan: StepPlan, result: StepResult) -> dict[int, RowResult]:
        try:
            return original(plan, result)
        except InvariantError:
            rows = {row.row: row for row in result.rows}
            return original(plan, StepResult(step=plan.step, rows=list(rows.values())))

    patch.setattr("flover.engine.loop.match_rows", match_rows)


# Who goes first, who waits, who is to blame


@plant("the last to come goes first", "L6", flavour="calm")
def _last_first(patch: Patch) -> None:
    original = Scheduler._admit

    def admit(self: Scheduler, queue: Iterable[Sequence], *rest: Any) -> Any:
        return original(self, list(queue)[::-1], *rest)

    patch.setattr(Scheduler, "_admit", admit)


@plant("backfill does not make way", "L11", flavour="calm")
def _backfill_stays(patch: Patch) -> None:
    patch.setattr(Roster, "yields", lambda self, sequence: False)


@plant("a prompt takes more than the iteration's budget", "L9", flavour="calm")
def _over_budget(patch: Patch) -> None:
    patch.setattr(Allowance, "afford", lambda self, start, pending, *rest: pending)


@plant("preemptions are not bounded", "L5", flavour="thrash")
def _unbounded(patch: Patch) -> None:
    patch.setattr(Sequence, "guaranteed", property(lambda self: False))


@plant("a suspect with one token left to compute is never run", "L5", flavour="poison")
def _stuck_suspect(patch: Patch) -> None:
    def plan_alone(self: Scheduler, suspect: Sequence) -> StepPlan:
        for other in [other for other in self._roster.running if other is not suspect]:
            self._roster.preempt(other)
        chunks, admitted = self._admit([suspect] if suspect.row is None else [], self._allowance([]))
        return self._freeze([], chunks, admitted, {}, ({}, {}))

    patch.setattr(Scheduler, "_plan_alone", plan_alone)


@plant("every sequence of an iteration ends with its fault", "L10", flavour="poison")
def _collective(patch: Patch) -> None:
    original = commit.recover

    def recover(roster: Roster, message: str) -> list[Delta]:
        deltas = original(roster, message)
        return deltas + [roster.end(one, FinishReason.ERROR, error=message) for one in list(roster.suspects)]

    patch.setattr("flover.engine.loop.recover", recover)


@plant("a failed device is not reset", "plan", "L10", flavour="faults")
def _no_reset(patch: Patch) -> None:
    def recover(self: Engine, error: Exception) -> list[Delta]:
        return commit.recover(self.roster, str(error))

    patch.setattr(Engine, "_recover", recover)
