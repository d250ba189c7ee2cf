"""What a draft model computes in an iteration, and for which rows: as much as brings more tokens per second.

How long its forwards take is learnt from what iterations with drafts take beyond those without; so that these are
known, two iterations of 64 have none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from flover.speculation.cost import GenerationCost
from flover.speculation.draft import Draft
from flover.speculation.drafter import Drafter, ModelDrafter

MOST_PROMPT_TOKENS = 512
"""Of prompts, in one iteration: all others wait for it."""
CYCLE, WITHOUT = 64, 2
"""Of so many iterations, so many without drafts."""
PROBE_EVERY, PROBES = 256, (4, 5)
"""Of so many iterations these have drafts that seem to cost too much: what they cost was learnt from other batches. In
the first of the two a row may have to be caught up with."""


class DraftedRow(Protocol):
    """A generating sequence."""

    token_ids: list[int]
    drafter: Drafter | None

    @property
    def max_len(self) -> int: ...


AnyRow = TypeVar("AnyRow", bound=DraftedRow)
Told = tuple[int, list[int], int]
"""`start`, `token_ids` and `count` of a `Draft`: rows are numbered when a plan is frozen."""


class DraftPlanner:
    """Plans drafts, iteration by iteration, from its inputs alone."""

    def __init__(self, num_tokens: int, max_model_len: int) -> None:
        self._num_tokens = num_tokens
        self._max_model_len = max_model_len
        self._cost = GenerationCost()
        self._iterations = 0

    def observe(self, drafts: Sequence[Draft], milliseconds: float) -> None:
        """The drafts of an iteration took so long."""
        forwards = max(one.count for one in drafts)
        if forwards and all(one.count and len(one.token_ids) <= self._num_tokens for one in drafts):
            self._cost.observe(len(drafts), max(milliseconds, 0.0) / forwards)

    def plan(self, generating: Sequence[AnyRow], base_ms: float, token_ms: float, worth: float) -> dict[AnyRow, Told]:
        """For the rows that proposals are worth making for. The iteration takes `base_ms` without proposals, and
        `token_ms` longer with one more token; `worth` is how much more they have to bring than they cost."""
        self._iterations += 1
        if self._iterations % CYCLE < WITHOUT:
            return {}
        rows = [(row, drafter) for row in generating if (drafter := self._awake(row)) is not None]
        step_ms = self._cost.expect(len(rows), self._cost.token_ms) + len(rows) * token_ms
        chances = [drafter.acceptance.chance for _, drafter in rows]
        most = draft_length(chances, self._num_tokens, len(generating), base_ms, step_ms, worth)
        if self._iterations % PROBE_EVERY in PROBES:
            most = max(most, 1)
        told: dict[AnyRow, Told] = {}
        left = MOST_PROMPT_TOKENS
        for row, drafter in rows if most else ():
            known, start = len(row.token_ids), drafter.computed
            count = min(most, self._room(row))
            if known - start > left:
                known, count = start + left, 0
                drafter.computed = known
            if known > start or count:
                told[row] = start, row.token_ids[start:known], count
                left -= known - start
        return told

    def _awake(self, row: DraftedRow) -> ModelDrafter | None:
        drafter = row.drafter
        assert isinstance(drafter, ModelDrafter), "a row is drafted for by the draft model"
        return None if drafter.acceptance.rests(len(row.token_ids)) or self._room(row) < 1 else drafter

    def _room(self, row: DraftedRow) -> int:
        """Proposals that can be of use after the token that this iteration brings; the one after them comes anyway."""
        return min(row.max_len, self._max_model_len) - len(row.token_ids) - 2


def draft_length(
    chances: Sequence[float], most: int, generating: int, base_ms: float, step_ms: float, worth: float
) -> int:
    """How many proposals are made for each row, at most `most`. `chances` are those of the rows that are drafted for,
    of `generating` rows; one more proposal for each of them takes `step_ms`, verifying it included."""
    brought, spent = float(generating), base_ms
    for place in range(1, most + 1):
        gain = sum(chance**place for chance in chances)
        if gain * spent <= worth * brought * step_ms:
            return place - 1
        brought += gain
        spent += step_ms
    return most
