"""The roster: every live sequence, and the row and pages that it holds. The scheduler decides which sequences enter and
leave; this is the only way in and the only way out, so that no row or page is held without a sequence."""

from __future__ import annotations

from bisect import insort
from collections import Counter, deque
from dataclasses import dataclass

from flover.config.speculative import Speculation
from flover.engine.fairness import FairShares
from flover.engine.pages import PagePool
from flover.engine.plan import StepPlan
from flover.engine.rows import RowTable
from flover.engine.sequence import Sequence
from flover.engine.strategy import Strategy
from flover.errors import InvariantError
from flover.prefix.entry import Entry
from flover.prefix.index import PrefixIndex
from flover.request import Delta, FinishReason, Request, is_long


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerConfig:
    """Limits that the engine keeps."""

    max_num_seqs: int
    max_num_batched_tokens: int
    page_size: int
    num_pages: int  # of the pool, the null page included
    num_slots: int = 0  # pages of the host tier behind it
    page_bytes: int = 0
    max_model_len: int
    eos_ids: tuple[int, ...] = ()
    switch_len: int | None = None  # `ModelFacts.switch_len`
    enable_prefix_caching: bool = True
    policy: str = "fcfs"
    strategy: Strategy = Strategy.FUSION
    batch_window: float = 0.0  # seconds that a batch waits for company; dynamic batching only
    reorder: bool = True
    target_itl_ms: float = 0.0
    async_scheduling: bool = False  # plan and start an iteration while the one before runs
    speculation: Speculation | None = None  # not with `async_scheduling`: the newest token has to be known


@dataclass(frozen=True, slots=True)
class InFlight:
    """A plan that was started at time `started` and is not finished; `sequences[i]` does its work[i]."""

    plan: StepPlan
    sequences: list[Sequence]
    started: float


class Roster:
    """`waiting` and `running` are kept in the order of service: backfill last, priority if asked for, arrival."""

    def __init__(self, config: SchedulerConfig) -> None:
        self.config = config
        self.prefix = PrefixIndex(config.page_size, num_slots=config.num_slots)
        self.pool = PagePool(config.num_pages, self.prefix)
        self.rows = RowTable(config.max_num_seqs, reorder=config.reorder, hold=config.strategy.holds_rows)
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.suspects: list[Sequence] = []  # of an iteration that raised, each to be tried alone
        self.in_flight: deque[InFlight] = deque()  # plans that were started and are not finished, in order
        self.shares = FairShares()
        self.counts: Counter[str] = Counter()
        self._arrivals = 0
        self._held: list[tuple[int, list[int]]] = []
        """Pages of sequences that have left, and the step until whose end a device may write them."""

    def __bool__(self) -> bool:
        return bool(self.running or self.waiting)

    def yields(self, sequence: Sequence) -> bool:
        """Whether this is backfill, and a sequence that is not runs or waits. While suspects are tried, none does."""
        may = sequence.request.backfill and not self.suspects and self.config.strategy is Strategy.FUSION
        return may and not all(first.request.backfill for first in (*self.running[:1], *self.waiting[:1]))

    def knows(self, request_id: str) -> bool:
        """Whether a sequence of this request is still here."""
        return any(sequence.request.id == request_id for sequence in (*self.running, *self.waiting))

    def add(self, request: Request, now: float) -> None:
        """A checked request joins the queue as `n` sequences at time `now`."""
        self.shares.arrive(request)
        for index in range(request.params.n):
            outputs = request.output_ids[index] if request.output_ids else []
            self._enqueue(Sequence(self._arrivals, request, index, [*request.prompt_ids, *outputs], now))
            self._arrivals += 1

    def admit(self, sequence: Sequence) -> bool:
        """Give a waiting sequence the pages for all tokens it knows, those of a known prefix shared with their
        owners. False, and nothing changed, if these or rows are not enough. It has no row yet."""
        if len(self.running) >= self.config.max_num_seqs:
            return False
        chain = self._known_prefix(sequence)
        shared = [entry.page for entry in chain if entry.page is not None]
        wanted = self.pages_to_enter(sequence) - len(shared)
        self.pool.share(shared)
        if wanted > self.pool.available:
            self.pool.release(shared, keep=True)
            return False
        self.waiting.remove(sequence)
        sequence.pages = self.pool.take_after(chain, wanted)
        sequence.chain = chain
        sequence.computed = len(chain) * self.config.page_size
        if sequence.cached_tokens is None:
            sequence.cached_tokens = min(sequence.computed, sequence.prompt_len)
            self.counts["cached_tokens"] += sequence.cached_tokens
            self.counts["queried_tokens"] += sequence.prompt_len
        insort(self.running, sequence, key=self._order)
        self.shares.change(sequence.request.client, 0, 1)
        return True

    def launch(self, plan: StepPlan, now: float) -> None:
        """A plan is about to be started. Until it lands, the next one may build on what it computes."""
        in_row = {sequence.row: sequence for sequence in self.running}
        sequences = [in_row[work.row] for work in plan.work]
        if self.shares.counts:
            for work, sequence in zip(plan.work, sequences, strict=True):
                known = 0 if work.generates else work.num_tokens
                self.shares.charge(sequence.request.client, known, work.num_samples)
        if self.config.async_scheduling:
            _count(plan, sequences, 1)
        self.in_flight.append(InFlight(plan, sequences, now))

    def land(self) -> InFlight:
        """The oldest plan in flight is finished: nothing of it is written any more."""
        landed = self.in_flight.popleft()
        if self.config.async_scheduling:
            _count(landed.plan, landed.sequences, -1)
        while self._held and self._held[0][0] <= landed.plan.step:
            self._release(self._held.pop(0)[1])
        return landed

    def abandon(self) -> None:
        """The device was reset: no plan is in flight any more, and no result will come."""
        while self.in_flight:
            self.land()

    def preempt(self, sequence: Sequence) -> None:
        """Take row and pages away; the sequence waits at its old place to be computed again. Not while an iteration
        in flight computes it: its tokens have to be known."""
        if sequence.computing:
            raise InvariantError(f"sequence {sequence.number} is preempted while it is computed")
        self._leave_row(sequence)
        self.shares.change(sequence.request.client, 0, -1)
        sequence.computed = 0
        sequence.prompt_logprobs = []
        self._enqueue(sequence)

    def cancel(self, request_id: str, index: int | None = None) -> list[Delta]:
        """End the sequences of a request, or one of them. Those that have ended are left alone."""
        return [
            self.end(sequence, FinishReason.ABORT)
            for sequence in (*self.running, *self.waiting)
            if sequence.request.id == request_id and index in (None, sequence.index)
        ]

    def end(self, sequence: Sequence, reason: FinishReason, error: str | None = None) -> Delta:
        """End a sequence that got no token with it; returns its last delta."""
        self.leave(sequence, reason)
        return Delta(
            request_id=sequence.request.id,
            index=sequence.index,
            finish_reason=reason,
            cached_tokens=sequence.cached_tokens or 0,
            error=error,
        )

    def leave(self, sequence: Sequence, reason: FinishReason) -> None:
        """The one way out: frees row and pages."""
        if held := sequence.row is not None:
            self._leave_row(sequence)
        else:
            self.waiting.remove(sequence)
        if sequence in self.suspects:
            self.suspects.remove(sequence)
        self.shares.change(sequence.request.client, -1, -held)
        self.counts[f"finished:{reason}"] += 1

    def root(self, request: Request) -> Entry:
        """Where this request's prefixes begin. Without prefix caching only its own sequences share pages; keys that are
        turned by other angles are never shared."""
        if not self.config.enable_prefix_caching:
            return self.prefix.root(f"own:{request.id}")
        long = is_long(len(request.prompt_ids), request.params, self.config.switch_len)
        return self.prefix.root(f"long:{request.salt}" if long else f"shared:{request.salt}")

    def pages_for(self, tokens: int) -> int:
        """Pages that so many tokens fill or begin."""
        return -(-tokens // self.config.page_size)

    def pages_to_enter(self, sequence: Sequence) -> int:
        """Pages that a waiting sequence needs, shared ones included."""
        return self.pages_for(sequence.max_len if sequence.guaranteed else len(sequence.token_ids))

    def _known_prefix(self, sequence: Sequence) -> list[Entry]:
        # The last known token is always computed: its logits are what the next token is drawn from.
        all_states = sequence.wants_prompt_logprobs or sequence.request.params.pooling == "mean"
        usable = 0 if all_states else len(sequence.token_ids) - 1
        return self.prefix.match(self.root(sequence.request), sequence.token_ids, usable // self.config.page_size)

    def _enqueue(self, sequence: Sequence) -> None:
        insort(self.waiting, sequence, key=self._order)

    def _order(self, sequence: Sequence) -> tuple[bool, int, int]:
        priority = sequence.request.priority if self.config.policy == "priority" else 0
        return sequence.request.backfill, priority, sequence.number

    def _leave_row(self, sequence: Sequence) -> None:
        self.rows.leave(row_of(sequence))
        self.running.remove(sequence)
        if sequence.computing:
            self._hold(self.in_flight[-1].plan.step, sequence.pages)
        else:
            self._release(sequence.pages)
        sequence.row, sequence.pages, sequence.chain, sequence.drafter = None, [], [], None

    def _hold(self, step: int, pages: list[int]) -> None:
        self._held.append((step, pages))

    def _release(self, pages: list[int]) -> None:
        used = self.pool.used
        self.pool.release(pages, keep=self.config.enable_prefix_caching)
        self.counts["pages_freed"] += used - self.pool.used


def _count(plan: StepPlan, sequences: list[Sequence], sign: int) -> None:
    """Add what a plan in flight computes and samples to its sequences, or take it back."""
    for work, sequence in zip(plan.work, sequences, strict=True):
        sequence.computing += sign * work.num_tokens
        sequence.sampling += sign * work.num_samples


def row_of(sequence: Sequence) -> int:
    """The row of a running sequence."""
    if sequence.row is None:
        raise InvariantError(f"sequence {sequence.number} runs without a row")
    return sequence.row
