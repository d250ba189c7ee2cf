"""How many proposals of each row are verified: as many as bring more tokens per second.

An iteration without proposals takes `base_ms` and brings a token for each generating row; one more token in its
forward takes `token_ms`. The j-th proposal of a row with acceptance p brings p^j tokens. Proposals join, the likeliest
first, as long as they bring more for their time than the iteration does without them. So a batch that is bound by
arithmetic has none, whatever repeats in it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol, TypeVar

from flover.config.speculative import Speculation
from flover.speculation.cost import GenerationCost
from flover.speculation.draft import Draft
from flover.speculation.draft_planner import DraftPlanner, Told
from flover.speculation.drafter import Drafter, ModelDrafter, NgramDrafter

WORTH = 1.15
"""A proposal has to bring so much more than it costs: the cost is an estimate."""
PROBE_EVERY = 256
"""So often proposals that are likely right are verified though they seem to cost too much: costs learnt from other
iterations may be wrong, and only iterations with proposals correct them."""
LIKELY = 0.7


class Row(Protocol):
    """A generating sequence."""

    token_ids: list[int]
    pages: list[int]
    drafter: Drafter | None

    @property
    def max_len(self) -> int: ...


class Planned(Protocol):
    """The iteration so far (`engine/budget.py`)."""

    @property
    def target_ms(self) -> float: ...
    @property
    def limit_ms(self) -> float: ...
    @property
    def tokens_left(self) -> int: ...
    @property
    def tokens(self) -> int: ...


class Ran(Protocol):
    """A plan that has been carried out (`engine/plan.py`)."""

    @property
    def drafts(self) -> list[Draft]: ...
    @property
    def num_tokens(self) -> int: ...
    @property
    def chunk_tokens(self) -> int: ...


class Pages(Protocol):
    """The pool of pages."""

    @property
    def available(self) -> int: ...
    def take(self, count: int) -> list[int]: ...


class Limits(Protocol):
    """What of the scheduler's settings matters here."""

    @property
    def speculation(self) -> Speculation | None: ...
    @property
    def page_size(self) -> int: ...
    @property
    def max_model_len(self) -> int: ...


AnyRow = TypeVar("AnyRow", bound=Row)


class Speculator:
    """Decides on proposals, iteration by iteration, from its inputs alone."""

    def __init__(self, limits: Limits) -> None:
        assert limits.speculation is not None, "made only where speculation is on"
        self._settings = limits.speculation
        self._page_size = limits.page_size
        self._max_model_len = limits.max_model_len
        self._cost = GenerationCost()
        self._iterations = 0
        drafts = self._settings.model is not None
        self._planner = DraftPlanner(self._settings.num_tokens, self._max_model_len) if drafts else None

    def observe(self, ran: Ran, milliseconds: float) -> None:
        """Learn from an iteration, if it computed no prompt."""
        if ran.chunk_tokens:
            return
        if not ran.drafts:
            self._cost.observe(ran.num_tokens, milliseconds)
        elif self._planner is not None:
            beyond = milliseconds - self._cost.expect(ran.num_tokens, self._cost.token_ms)
            self._planner.observe(ran.drafts, beyond)

    def propose(
        self, generating: Sequence[AnyRow], planned: Planned, pool: Pages, grants: dict[AnyRow, list[int]]
    ) -> tuple[dict[AnyRow, list[int]], dict[AnyRow, Told]]:
        """Tokens that may come next, for rows that have some, and what a draft model computes afterwards. Rows that
        open a page take it from the pool, if it has one, into `grants`."""
        for row in generating:
            if row.drafter is None:
                row.drafter = NgramDrafter(self._settings) if self._planner is None else ModelDrafter()
        proposals = {row: drafted for row, drafted in self._worthwhile(generating, planned) if drafted}
        for row, drafted in proposals.items():
            self._grant(row, len(row.token_ids) + len(drafted), pool, grants)
            del drafted[len(row.pages) * self._page_size - len(row.token_ids) :]
        if self._planner is None:
            return proposals, {}
        token_ms = self._cost.token_ms
        base_ms = self._cost.expect(planned.tokens, token_ms)
        drafts = self._planner.plan(generating, base_ms, token_ms, WORTH)
        for row, (_, _, count) in drafts.items():
            if count:  # the last proposal is not computed, the sampled tokens before the first are
                self._grant(row, len(row.token_ids) + len(proposals.get(row, ())) + count, pool, grants)
        return proposals, drafts

    def _grant(self, row: AnyRow, length: int, pool: Pages, grants: dict[AnyRow, list[int]]) -> None:
        """The pages that a row of so many tokens needs, if the pool has them."""
        wanted = -(-length // self._page_size) - len(row.pages)
        if 0 < wanted <= pool.available:
            pages = pool.take(wanted)
            row.pages.extend(pages)
            grants[row] = grants.get(row, []) + pages

    def _worthwhile(self, generating: Sequence[AnyRow], planned: Planned) -> list[tuple[AnyRow, list[int]]]:
        self._iterations += 1
        if not generating:
            return []
        most = self._settings.num_tokens
        token_ms = self._cost.token_ms
        base_ms = self._cost.expect(planned.tokens, token_ms)
        probes = self._iterations % PROBE_EVERY == 0
        if base_ms <= WORTH * len(generating) * token_ms and not probes:
            return []
        drafts = [draft for row in generating if (draft := self._draft(row, most)) is not None]
        if not drafts:
            return []
        if probes and max(chance for _, chance, _ in drafts) >= LIKELY:
            token_ms = 0.0
        limit_ms = planned.limit_ms if planned.target_ms else math.inf
        fitting = math.inf if token_ms <= 0 else (limit_ms - base_ms) / token_ms
        lengths = choose_lengths(
            [(chance, len(drafted)) for _, chance, drafted in drafts],
            int(max(min(planned.tokens_left, fitting), 0)),
            len(generating),
            base_ms,
            token_ms,
        )
        return [(row, list(drafted[:length])) for (row, _, drafted), length in zip(drafts, lengths, strict=True)]

    def _draft(self, row: AnyRow, most: int) -> tuple[AnyRow, float, Sequence[int]] | None:
        """What may come next in a row, and how likely it is: no more than it may have tokens, less the one that it gets
        anyway."""
        drafter, length = row.drafter, len(row.token_ids)
        assert drafter is not None, "every generating row has one"
        drafted = drafter.draft(row.token_ids, min(most, row.max_len - length - 1, self._max_model_len - length - 1))
        return (row, drafter.acceptance.chance, drafted) if drafted else None


def choose_lengths(
    drafts: Sequence[tuple[float, int]], most: int, generating: int, base_ms: float, token_ms: float
) -> list[int]:
    """How many proposals of each row are verified, at most `most` together. `drafts` are rows' acceptance, and how many
    proposals they have; `generating` is the number of all generating rows."""
    gains = sorted(
        [(-(chance**place), row) for row, (chance, count) in enumerate(drafts) for place in range(1, count + 1)]
    )
    lengths, brought, spent = [0] * len(drafts), float(generating), base_ms
    for loss, row in gains[:most]:
        if -loss * spent <= WORTH * brought * token_ms:
            break
        lengths[row] += 1
        brought -= loss
        spent += token_ms
    return lengths
