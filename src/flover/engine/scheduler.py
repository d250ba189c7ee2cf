"""The work scheduler: which sequences enter, how many prompt tokens join, which are preempted. Pure Python.

One iteration is planned so:

1. every generating row gets room for its next token; when the pool is empty, the last in the order of service is
   preempted (its pages go, its tokens stay, and it waits at its old position to be computed again);
2. rows that are pre-processing get chunks, as far as the token cap and the step budget allow;
3. waiting sequences enter in order, none past an earlier one, while there are rows, pages and budget (with a strategy
   other than fusion, those of its batch: `strategy.py`). Clients take turns, and one with many rows gives one up for
   one with few (`fairness.py`). Backfill comes last, runs while nothing else is here, and makes way for what comes;
4. with speculation, generating rows get proposals, in what is left of tokens, time and pages (`speculation/`).

What cannot be decided without the tokens of an iteration in flight waits for them: whom to preempt, and which request
causes a fault. Everything else builds on what it computes (docs/scheduling.md).

Progress: a request that cannot fit the empty pool never gets here, the first in the order of service is never preempted
for a page, and none more than `MAX_PREEMPTIONS` times: from then on it enters only with all the pages it can need.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable
from operator import attrgetter

from flover.engine.budget import Allowance, CostModel
from flover.engine.plan import Admission, Grant, StepPlan, Work
from flover.engine.roster import Roster, row_of
from flover.engine.rows import RowLayout
from flover.engine.sequence import Sequence
from flover.engine.strategy import Strategy, choose_batch, opens_at
from flover.speculation import Draft, Speculator

Chunks = dict[Sequence, int]
"""How many of its pending tokens each pre-processing sequence computes in this iteration."""
Grants = dict[Sequence, list[int]]
SHARED_SECONDS = 60.0
"""So long after several clients were here at once, iterations are kept short for the one that may come."""
Guessed = tuple[dict[Sequence, list[int]], dict[Sequence, tuple[int, list[int], int]]]
"""Of sequences, proposals that are verified, and what of them a draft model computes (`Speculator.propose`)."""


class Scheduler:
    """Plans iterations over a roster."""

    def __init__(self, roster: Roster, cost: CostModel) -> None:
        self._roster = roster
        self._cost = cost
        self.speculator = Speculator(roster.config) if roster.config.speculation is not None else None
        self._step = 0
        self._batch: set[Sequence] = set()
        self._shared_until = -math.inf

    def plan(self, now: float) -> StepPlan | None:
        """The iteration that begins at `now` (seconds). None if no sequence is here or may enter yet, or the iteration
        in flight has to be finished first."""
        roster, overlaps, gave = self._roster, bool(self._roster.in_flight), set[str]()
        if not roster or now < self.opens_at:
            return None
        if roster.suspects:
            return None if overlaps else self._plan_alone(roster.suspects[0])
        while (victim := self._in_the_way()) is not None:
            if overlaps:
                return None
            self._preempt(victim)
            gave.add(victim.request.client)
        generating = [sequence for sequence in roster.running if sequence.ready]
        size = roster.config.page_size
        opening = [one for one in generating if len(one.token_ids) + one.sampling > len(one.pages) * size]
        if overlaps and len(opening) > roster.pool.available:
            return None
        grants, preempted = self._grow(opening)
        if preempted:
            generating = [sequence for sequence in generating if sequence.row is not None]
        if roster.shares.compete:
            self._shared_until = now + SHARED_SECONDS
        allowance = self._allowance(generating, shared=self._takes_turns and now < self._shared_until)
        prompts = [] if len(generating) == len(roster.running) else [one for one in roster.running if not one.ready]
        # Pages that a preemption has just freed are for the running rows; an admission would take them right back.
        queue = prompts if preempted else [*prompts, *self._candidates()]
        if gave:  # what has just left does not come back at once
            queue = [one for one in queue if one.row is not None or one.request.client not in gave]
        chunks, admitted = self._admit(roster.shares.in_turn(queue) if self._takes_turns else queue, allowance)
        for sequence in prompts:
            if sequence not in chunks:
                _join(sequence, allowance, chunks)
        if overlaps and not (generating or chunks or admitted):
            return None
        guessed: Guessed = ({}, {})
        if self.speculator is not None and not preempted:
            guessed = self.speculator.propose(generating, allowance, roster.pool, grants)
        return self._freeze(generating, chunks, admitted, grants, guessed)

    @property
    def opens_at(self) -> float:
        """When there is something to plan at the earliest, in seconds; in the past while a sequence runs."""
        roster, config = self._roster, self._roster.config
        if roster.running or self._waiting_of_batch():
            return -math.inf
        return opens_at(config.strategy, roster.waiting, config.max_num_seqs, config.batch_window)

    @property
    def _takes_turns(self) -> bool:
        """Whether clients take turns."""
        config = self._roster.config
        return config.strategy is Strategy.FUSION and config.policy == "fcfs" and self._roster.shares.counts

    def _in_the_way(self) -> Sequence | None:
        """What has to leave its row: backfill for a request that is not, or the last of the client that has most, if
        there is no room for the client that is next."""
        roster = self._roster
        if roster.running and roster.yields(roster.running[-1]):
            return roster.running[-1]
        if not roster.waiting or not self._takes_turns or (claim := roster.shares.claim()) is None:
            return None
        first = next(one for one in roster.waiting if one.request.client == claim[0])
        full = len(roster.running) >= roster.config.max_num_seqs
        if not (full or roster.pages_to_enter(first) > roster.pool.available) or self._awaits_sibling(first):
            return None
        rows = [one for one in roster.running if one.request.client == claim[1] and not one.guaranteed]
        return rows[-1] if rows else None

    def _candidates(self) -> list[Sequence]:
        """Waiting sequences that may enter now: with fusion all, else the rest of the batch, or a new batch."""
        roster, config = self._roster, self._roster.config
        if config.strategy is not Strategy.FUSION:
            if not roster.running and not self._waiting_of_batch():
                self._batch = set(choose_batch(config.strategy, roster.waiting, config.max_num_seqs))
            return self._waiting_of_batch()
        if not roster.waiting or len(roster.running) >= config.max_num_seqs or roster.yields(roster.waiting[0]):
            return []
        live = bisect_left(roster.waiting, True, key=lambda one: one.request.backfill)
        return roster.waiting[:live] or list(roster.waiting)

    def _waiting_of_batch(self) -> list[Sequence]:
        return [sequence for sequence in self._roster.waiting if sequence in self._batch]

    def _plan_alone(self, suspect: Sequence) -> StepPlan:
        """After an iteration that raised: one suspect by itself, until it has a token."""
        for other in [other for other in self._roster.running if other is not suspect]:
            self._roster.preempt(other)
        # A suspect that was generating is ready again as soon as one of its known tokens is left to compute.
        generating = [suspect] if suspect.ready else []
        chunks, admitted = self._admit([] if generating else [suspect], self._allowance(generating))
        return self._freeze(generating, chunks, admitted, {}, ({}, {}))

    def _allowance(self, generating: list[Sequence], *, shared: bool = False) -> Allowance:
        config, dead = self._roster.config, len(self._roster.rows.dead)
        return Allowance(
            model=self._cost,
            target_ms=config.target_itl_ms,
            turns=self._takes_turns,
            shared=shared,
            tokens_left=config.max_num_batched_tokens - len(generating) - dead,
            tokens=len(generating) + dead if generating else 0,
            attention=sum([len(sequence.token_ids) + sequence.sampling for sequence in generating]),
        )

    def _grow(self, opening: list[Sequence]) -> tuple[Grants, bool]:
        """A page for every sequence whose next token opens one; whether a sequence was preempted for it."""
        roster = self._roster
        grants: Grants = {}
        preempted = False
        for sequence in opening:
            while roster.pool.available == 0 and sequence.row is not None:
                victim = next(other for other in reversed(roster.running) if not other.guaranteed)
                self._preempt(victim)
                grants.pop(victim, None)
                preempted = True
            if sequence.row is not None:
                grants[sequence] = roster.pool.take(1)
                sequence.pages.extend(grants[sequence])
        return grants, preempted

    def _preempt(self, victim: Sequence) -> None:
        """For want of a row or of pages, which is counted, or since backfill makes way, as often as it has to."""
        if not self._roster.yields(victim):
            victim.preemptions += 1
            self._roster.counts["preemptions"] += 1
        self._roster.preempt(victim)

    def _admit(self, queue: Iterable[Sequence], allowance: Allowance) -> tuple[Chunks, list[Sequence]]:
        """Chunks of the queue, as far as the iteration can afford, and what enters: none past one that waits."""
        roster, chunks = self._roster, Chunks()
        admitted: list[Sequence] = []
        for sequence in queue:
            enters = sequence.row is None
            if enters and (self._awaits_sibling(sequence) or not allowance.afford(0, 1) or not roster.admit(sequence)):
                break
            _join(sequence, allowance, chunks)
            if enters:
                admitted.append(sequence)
        return chunks, admitted

    def _awaits_sibling(self, sequence: Sequence) -> bool:
        """Whether an earlier sequence of the same request is still computing the pages that both will share."""
        size = self._roster.config.page_size
        shared = (sequence.prompt_len - 1) // size * size
        running = self._roster.running
        return any(other.request is sequence.request and other.computed < shared for other in running)

    def _freeze(
        self, generating: list[Sequence], chunks: Chunks, admitted: list[Sequence], grants: Grants, guessed: Guessed
    ) -> StepPlan:
        """Give rows to the admitted sequences, close the holes, and make the plan."""
        roster, (proposals, drafts) = self._roster, guessed
        evictions = roster.rows.take_left()
        numbers = [sequence.number for sequence in admitted]
        layout = roster.rows.enter(numbers) if evictions or admitted else RowLayout([], [])
        if layout.moves:
            moved: dict[int | None, int] = {move.src: move.dst for move in layout.moves}
            for sequence in roster.running:
                sequence.row = moved.get(sequence.row, sequence.row)
        for sequence, row in zip(admitted, layout.entries, strict=True):
            sequence.row = row
        roster.counts["row_moves"] += len(layout.moves)
        generates = [_generate(sequence, proposals.get(sequence, [])) for sequence in generating]
        plan = StepPlan(
            step=self._step,
            evictions=evictions,
            moves=layout.moves,
            admissions=[_admission(sequence) for sequence in admitted],
            grants=[Grant(row=row_of(sequence), pages=pages) for sequence, pages in grants.items()],
            work=sorted([*generates, *map(_chunk, chunks, chunks.values())], key=attrgetter("row")),
            window=roster.rows.window,
            dead=roster.rows.dead,
            drafts=[Draft(row_of(sequence), *told) for sequence, told in drafts.items()],
            copies=roster.prefix.tier.take_copies(),
        )
        self._step += 1
        return plan


def _join(sequence: Sequence, allowance: Allowance, chunks: Chunks) -> None:
    """As much of a prompt as the iteration can afford."""
    client, pending = sequence.request.client, sequence.pending
    if count := allowance.afford(sequence.position, pending, client):
        allowance.spend(sequence.position, count)
        chunks[sequence] = count
        if allowance.turns and count == pending:
            allowance.ends = allowance.ends or (client, pending)


def _admission(sequence: Sequence) -> Admission:
    request = sequence.request
    params = request.params
    if params.prompt_logprobs is not None and not sequence.wants_prompt_logprobs:
        params = params.replace(prompt_logprobs=None)
    return Admission(
        row=row_of(sequence),
        sequence=sequence.number,
        prompt_ids=request.prompt_ids,
        output_ids=sequence.output_ids,
        params=params,
        seed=(request.seed + sequence.index + 2**63) % 2**64 - 2**63,
        bad_words_ids=request.bad_words_ids,
        computed=sequence.computed,
        pages=list(sequence.pages),
    )


def _generate(sequence: Sequence, proposed: list[int]) -> Work:
    """The next token after the newest one, and after each that is proposed."""
    return Work(row_of(sequence), sequence.computed + sequence.computing, proposed, 1 + len(proposed))


def _chunk(sequence: Sequence, count: int) -> Work:
    """The next `count` known tokens."""
    start = sequence.position
    return Work(row_of(sequence), start, sequence.token_ids[start : start + count], int(count == sequence.pending))
