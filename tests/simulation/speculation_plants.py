"""Bugs to plant into speculation. Added to the others on import."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from flover.engine import commit
from flover.engine.plan import RowResult, StepPlan, StepResult
from flover.engine.roster import InFlight, Roster
from flover.engine.sequence import Sequence as Sequence_
from flover.request import Delta
from flover.speculation.draft_planner import Told
from flover.speculation.drafter import ModelDrafter, NgramDrafter
from flover.speculation.speculator import Speculator

from .plants import Patch, plant


@plant("a refused proposal is delivered", "L7", flavour="calm")
def _deliver_refused(patch: Patch) -> None:
    original = commit.match_rows

    def match_rows(plan: StepPlan, result: StepResult) -> dict[int, RowResult]:
        rows = original(plan, result)
        for work in plan.work:
            row = rows.get(work.row)
            if row is not None and work.generates and 0 < len(row.token_ids) <= len(work.token_ids):
                proposed = work.token_ids[: len(row.token_ids)]
                rows[work.row] = msgspec.structs.replace(row, token_ids=proposed)
        return rows

    patch.setattr("flover.engine.loop.match_rows", match_rows)


@plant("tokens behind a refused proposal count as computed", "L3", "L5", "L7", "plan", flavour="cancels")
def _count_refused(patch: Patch) -> None:
    original = commit.commit

    def take(roster: Roster, landed: InFlight, rows: dict[int, RowResult]) -> list[Delta]:
        deltas = original(roster, landed, rows)
        for work, one in zip(landed.plan.work, landed.sequences, strict=True):
            if one.row is not None and work.generates:
                one.computed = work.start + work.num_tokens
        return deltas

    patch.setattr("flover.engine.loop.commit", take)


@plant("proposals are made past the pages of their row", "plan", flavour="calm")
def _no_pages(patch: Patch) -> None:
    original = Speculator._worthwhile

    def propose(
        self: Speculator, generating: Sequence[Any], planned: Any, pool: Any, grants: Any
    ) -> tuple[dict[Any, list[int]], dict[Any, Told]]:
        for row in generating:
            row.drafter = row.drafter or NgramDrafter(self._settings)
        return {row: drafted for row, drafted in original(self, generating, planned) if drafted}, {}

    patch.setattr(Speculator, "propose", propose)


@plant("a draft model is taken to have computed what it proposed", "plan", flavour="calm")
def _count_proposed(patch: Patch) -> None:
    original = ModelDrafter.take

    def take(self: ModelDrafter, length: int, proposed: list[int]) -> None:
        original(self, length, proposed)
        self.computed = length + len(proposed)

    patch.setattr(ModelDrafter, "take", take)


@plant("a sequence keeps its drafter when it loses its pages", "plan", flavour="thrash")
def _keep_drafter(patch: Patch) -> None:
    original = Roster._leave_row

    def leave_row(self: Roster, sequence: Sequence_) -> None:
        drafter = sequence.drafter
        original(self, sequence)
        sequence.drafter = drafter

    patch.setattr(Roster, "_leave_row", leave_row)
