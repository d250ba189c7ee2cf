"""Bugs to plant into asynchronous scheduling. Added to the others on import."""

from __future__ import annotations

from flover.engine import commit
from flover.engine.plan import RowResult, StepPlan
from flover.engine.roster import InFlight, Roster
from flover.request import Delta

from .plants import Patch, plant


@plant("a page is reused one step early", "L7", flavour="cancels")
def _reuse_early(patch: Patch) -> None:
    patch.setattr(Roster, "_hold", lambda self, step, pages: self._release(pages))


@plant("a prefix page is published while the iteration that fills it runs", "L3", flavour="calm")
def _publish_in_flight(patch: Patch) -> None:
    original = Roster.launch

    def launch(self: Roster, plan: StepPlan, now: float) -> None:
        original(self, plan, now)
        for sequence in self.in_flight[-1].sequences:
            computed, sequence.computed = sequence.computed, min(sequence.position, len(sequence.token_ids))
            commit._publish(self, sequence)
            sequence.computed = computed

    patch.setattr(Roster, "launch", launch)


@plant("a token that was computed after the end is delivered", "L1", flavour="calm")
def _one_too_many(patch: Patch) -> None:
    original = commit.commit

    def take_all(roster: Roster, landed: InFlight, rows: dict[int, RowResult]) -> list[Delta]:
        gone = [
            Delta(request_id=one.request.id, index=one.index, token_ids=rows[work.row].token_ids)
            for work, one in zip(landed.plan.work, landed.sequences, strict=True)
            if one.row is None and work.row in rows
        ]
        return original(roster, landed, rows) + gone

    patch.setattr("flover.engine.loop.commit", take_all)
