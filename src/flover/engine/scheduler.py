"""The work scheduler: which sequences enter, how many prompt tokens join, which are preempted. Pure Python.

One iteration is planned so:

1. every generating row gets room for its next token; when the pool is empty, the last in the order of service is
   preempted (its pages go, its tokens stay, and it waits at its old position to be computed again);
2. rows that are pre-processing get chunks, as far as the token cap and the step budget allow;
3. waiting sequences enter in order (clients take turns: `fairness.py`), none past an earlier one, while there are
   rows, pages and budget (with a strategy other than fusion, those of its batch: `strategy.py`). Backfill comes
   last, runs while nothing else is here, and is preempted for what comes;
4. with speculation, generating rows get proposals, in what is left of tokens, time and pages (`speculation/`).

An iteration that is planned while another is in flight builds on what that one computes: its tokens are there, and not
known yet. A row may have ended with such a token, and is then computed in vain once; one that has all its max_tokens is
not. What cannot be decided without these tokens waits for them: whom to preempt, and which request causes a fault.

Progress: a request that cannot fit the empty pool never gets here, the first in the order of service is never preempted
for another, and none more than `MAX_PREEMPTIONS` times: from then on it enters only with all the pages it can need.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from operator import attrgetter

from flover.engine.budget import Allowance, CostModel
from flover.engine.plan import Admission, Grant, StepPlan, Work
from flover.engine.roster import Roster, row_of
from flover.engine.rows import NO_CHANGE
from flover.engine.sequence import Sequence
from flover.engine.strategy import Strategy, choose_batch, opens_at
from flover.speculation import Draft, Speculator

Chunks = dict[Sequence, int]
"""How many of its pending tokens each pre-processing sequence computes in this iteration."""
Grants = dict[Sequence, list[int]]
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

    def plan(self, now: float) -> StepPlan | None:
        """The iteration that begins at `now` (seconds). None if no sequence is here or may enter yet, or the iteration
        in flight has to be finished first."""
        roster, overlaps = self._roster, bool(self._roster.in_flight)
        if not roster or now < self.opens_at:
            return None
        if roster.suspects:
            return None if overlaps else self._plan_alone(roster.suspects[0])
        if roster.running and roster.yields(roster.running[-1]):
            if overlaps:
                return None
            for sequence in [one for one in roster.running if one.request.backfill]:
                roster.preempt(sequence)
        generating = [sequence for sequence in roster.running if sequence.ready]
        size = roster.config.page_size
        opening = [one for one in generating if len(one.token_ids) + one.sampling > len(one.pages) * size]
        if overlaps and len(opening) > roster.pool.available:
            return None
        grants, preempted = self._grow(opening)
        if preempted:
            generating = [sequence for sequence in generating if sequence.row is not None]
        allowance = self._allowance(generating)
        chunks = {} if len(generating) == len(roster.running) else self._continue_prompts(allowance)
        # Pages that a preemption has just freed are for the running rows; an admission would take them right back.
        admitted = [] if preempted else self._admit(self._candidates(), allowance, chunks)
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

    def _candidates(self) -> Iterable[Sequence]:
        """Waiting sequences that may enter now: with fusion all, else the rest of the batch, or a new batch."""
        roster = self._roster
        strategy = roster.config.strategy
        if strategy is Strategy.FUSION:
            if roster.config.policy == "fcfs" and roster.shares.counts:
                full = len(roster.running) >= roster.config.max_num_seqs
                return () if full else roster.shares.in_turn(one for one in roster.waiting if not roster.yields(one))
            return list(roster.waiting)
        if not roster.running and not self._waiting_of_batch():
            self._batch = set(choose_batch(strategy, roster.waiting, roster.config.max_num_seqs))
        return self._waiting_of_batch()

    def _waiting_of_batch(self) -> list[Sequence]:
        return [sequence for sequence in self._roster.waiting if sequence in self._batch]

    def _plan_alone(self, suspect: Sequence) -> StepPlan:
        """After an iteration that raised: one suspect by itself, until it has a token."""
        for other in [other for other in self._roster.running if other is not suspect]:
            self._roster.preempt(other)
        # A suspect that was generating is ready again as soon as one of its known tokens is left to compute.
        generating = [suspect] if suspect.ready else []
        allowance = self._allowance(generating)
        chunks = self._continue_prompts(allowance)
        admitted = self._admit([suspect], allowance, chunks) if suspect.row is None else []
        return self._freeze(generating, chunks, admitted, {}, ({}, {}))

    def _allowance(self, generating: list[Sequence]) -> Allowance:
        config, dead = self._roster.config, len(self._roster.rows.dead)
        return Allowance(
            model=self._cost,
            target_ms=config.target_itl_ms,
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
                victim.preemptions += 1
                roster.counts["preemptions"] += 1
                roster.preempt(victim)
                grants.pop(victim, None)
                preempted = True
            if sequence.row is not None:
                grants[sequence] = roster.pool.take(1)
                sequence.pages.extend(grants[sequence])
        return grants, preempted

    def _continue_prompts(self, allowance: Allowance) -> Chunks:
        """The next chunk of every row that is pre-processing."""
        chunks: Chunks = {}
        for sequence in self._roster.running:
            if not sequence.ready:
                _join(sequence, allowance, chunks)
        return chunks

    def _admit(self, queue: Iterable[Sequence], allowance: Allowance, chunks: Chunks) -> list[Sequence]:
        """Sequences of the queue that enter now, each with its first chunk."""
        admitted: list[Sequence] = []
        for sequence in queue:
            full = len(self._roster.running) >= self._roster.config.max_num_seqs
            blocked = full or self._roster.yields(sequence) or self._awaits_sibling(sequence)
            if blocked or not allowance.afford(0, 1) or not self._roster.admit(sequence):
                break
            _join(sequence, allowance, chunks)
            admitted.append(sequence)
        return admitted

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
        layout = roster.rows.enter(numbers) if evictions or admitted else NO_CHANGE
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
        )
        self._step += 1
        return plan


def _join(sequence: Sequence, allowance: Allowance, chunks: Chunks) -> None:
    """As much of a prompt as the iteration can afford."""
    count = allowance.afford(sequence.position, sequence.pending)
    if count:
        allowance.spend(sequence.position, count)
        chunks[sequence] = count


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
