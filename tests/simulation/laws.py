"""The laws of the engine, checked while it runs. A broken one raises `LawBroken` with its number.

L1  every submitted sequence ends exactly once, with a reason it has; nothing comes after the end; a cancelled
    sequence ends with the next iteration
L2  submitted = ended + alive, and the engine's counters agree with what was seen
L3  free, cached and owned pages are the pool; pages of a prefix belong to the salt that wrote them
L4  when idle nothing is left
L5  progress: the most that was ever computed rises, or a sequence ends; preemptions per sequence are bounded
L6  no sequence is admitted past an earlier sequence that waits
L7  tokens are those of the sequence alone (hence L10: no neighbour changes anything)
L8  the text of a sequence does not depend on how its deltas are cut: it is that of its tokens, cut at the first stop
    string (`texts.py`)
L9  budgets: tokens and rows per iteration, lengths, usage
L11 while any other sequence is here, none of backfill is computed, but for a fault that is being tracked down
fair shares: a client that has no row gets one soon while another has several; the engine's counters are those that
    arrivals, cancellations and plans come to (`shares.py`)
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from flover.engine.commit import MAX_LONE_FAULTS
from flover.engine.loop import Engine
from flover.engine.plan import StepPlan
from flover.engine.sequence import MAX_PREEMPTIONS
from flover.errors import InvariantError
from flover.request import Delta, FinishReason, Request, resolve_max_tokens

from .broken import LawBroken, require
from .device import Witness, planned_rows
from .hash_executor import HashRow
from .hash_model import Alone, alone
from .invariants import check_roster
from .shares import Counters, Newcomers
from .texts import Text
from .workload import Scenario

TEXT_EVERY = 4
"""One sequence in so many is read as text: it is the same for all, and takes time."""


@dataclass(slots=True, eq=False)
class Tracked:
    """One submitted sequence, as seen from outside."""

    request: Request
    index: int
    arrival: int
    expected: Alone
    tokens: list[int] = field(default_factory=list)
    ended: FinishReason | None = None
    end_by: int | None = None
    """The iteration by which it has to end, once it is cancelled."""
    admissions: int = 0
    resets: int = 0
    lone_faults: int = 0
    doomed: bool = False
    """Its own numbers failed, or it is poisoned."""
    ceiling: int = 0
    cached: int | None = None
    text: Text | None = None

    @property
    def preempted(self) -> int:
        """How often it came back after it had to leave for want of a row or of pages."""
        return self.admissions - 1 - self.resets

    def __str__(self) -> str:
        return f"{self.request.id}[{self.index}]"


class Laws(Witness):
    """Watches one run from both ends: what goes to the device, and what comes out of the engine."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.step = 0
        self.open: dict[tuple[str, int], Tracked] = {}
        self.counts: Counter[str] = Counter()
        self._by_seed: dict[int, Tracked] = {}
        self._by_row: dict[int, Tracked] = {}
        self._planned: dict[int, list[Tracked]] = {}
        """By step, the sequences that a plan computes."""
        self._page_owner: dict[int, tuple[str, str]] = {}
        self._slot_owner: dict[int, tuple[str, str]] = {}
        self._arrivals = 0
        self._clean_since = 0
        self._progress_at = 0
        self._committed = (0, 0)
        self._trying_alone = False
        self._newcomers = Newcomers(scenario.config)
        self._counters = Counters()
        self._sent: list[tuple[bool, Tracked]] = []
        """What the engine has not taken yet: arrivals (True) and cancellations."""
        config, facts = scenario.config, scenario.facts
        rate = config.max_num_batched_tokens if config.target_itl_ms == 0 else min(16, config.max_num_batched_tokens)
        most = min(facts.pool_tokens, config.max_num_seqs * facts.max_model_len)
        self._pool_check = 1 + facts.pool_tokens // facts.page_size // 32
        """Looking at all pages of a large pool after every iteration would take most of the time."""
        self._patience = 64 + 2 * most // rate

    # What the caller does.

    def submitted(self, request: Request) -> list[Tracked]:
        """The engine accepted a request."""
        request = resolve_max_tokens(request, self.scenario.facts)
        tracked = []
        self._newcomers.submitted(request.client, self.open.values(), self.step)
        for index in range(request.params.n):
            one = Tracked(request, index, self._arrivals, alone(request, index, self.scenario.facts))
            if self._arrivals % TEXT_EVERY == 0:
                one.text = Text(request, index, self.scenario.facts.eos_ids)
            self._arrivals += 1
            self.open[request.id, index] = one
            self._by_seed[request.seed + index] = one
            tracked.append(one)
            self._sent.append((True, one))
        self.counts["submitted"] += len(tracked)
        return tracked

    def cancelled(self, chosen: list[Tracked], by: int) -> None:
        """These sequences were cancelled and have to end in iteration `by` at the latest."""
        for one in chosen:
            self._sent.append((False, one))
            if one.ended is None and one.end_by is None:
                one.end_by = by
                self.counts["cancelled"] += 1

    def before_step(self) -> None:
        """The engine is about to take what was sent."""
        for arrives, one in self._sent:
            (self._counters.came if arrives else self._counters.left)(one)
        self._sent.clear()

    # What the device sees.

    def planned(self, plan: StepPlan) -> None:
        config = self.scenario.config
        live = any(not one.request.backfill and one.end_by is None for one in self.open.values())
        for row in plan.evictions:
            left = self._by_row.pop(row, None)
            if left is not None and left.ended is None and (self._trying_alone or (live and left.request.backfill)):
                left.resets += 1  # it made way for a suspect or for a live sequence, not for want of pages
                self.counts["backfill that made way"] += left.request.backfill
        for move in plan.moves:
            self._by_row[move.dst] = self._by_row.pop(move.src)
        kept = list(self._by_row.values())
        for copy in plan.copies:
            self.counts["loaded" if copy.loads else "stored"] += 1
            if copy.loads:
                self._page_owner[copy.page] = self._slot_owner[copy.slot]
            else:
                self._slot_owner[copy.slot] = self._page_owner[copy.page]
        for admission in plan.admissions:
            one = self._by_seed[admission.seed]
            one.admissions += 1
            require("L5", one.preempted <= MAX_PREEMPTIONS, "{} was preempted {} times", one, one.preempted)
            if one.admissions == 1:
                one.cached = admission.computed
            elif one.preempted:
                self.counts["preempted"] += 1
            self.counts["guaranteed"] += one.preempted == MAX_PREEMPTIONS
            self.counts["reused tokens"] += admission.computed
            self._by_row[admission.row] = one
            self._check_pages(one, admission.pages, admission.computed // config.page_size)
        for grant in plan.grants:
            self._check_pages(self._by_row[grant.row], grant.pages, 0)
        admitted = [self._by_seed[admission.seed] for admission in plan.admissions]
        if admitted:
            self._check_order(admitted)
        self.counts["dead rows"] += len(plan.dead)
        self.counts["moves"] += len(plan.moves)
        self.counts["proposed"] += sum(len(work.token_ids) for work in plan.work if work.generates)
        self._planned[plan.step] = [self._by_row[row] for row in planned_rows(plan)]
        self._planned.pop(plan.step - 3, None)
        self._counters.planned(plan, kept, admitted, self._planned[plan.step])
        for one in self._planned[plan.step]:
            require("L11", not (live and one.request.backfill) or self._trying_alone, "{} is computed", one)
        tokens, most = plan.num_tokens, config.max_num_batched_tokens
        require("L9", tokens <= most, "{} tokens in an iteration, {} are allowed", tokens, most)
        require("L9", len(self._by_row) <= config.max_num_seqs, "{} rows alive", len(self._by_row))

    def running(self, plan: StepPlan, rows: dict[int, HashRow]) -> None:
        expected = {number: one.request.seed + one.index for number, one in self._by_row.items()}
        actual = {number: row.seed for number, row in rows.items()}
        require("rows", expected == actual, "device has {}, the plans say {}", actual, expected)

    def computed(self, plan: StepPlan, rows: dict[int, HashRow]) -> None:
        for number in planned_rows(plan):
            one, computed = self._by_row[number], rows[number].computed
            if computed > one.ceiling:
                one.ceiling, self._progress_at = computed, self.step

    def finished(self, plan: StepPlan) -> None:
        self._committed = (plan.chunk_tokens, len(plan.generating))

    def failed(self, plan: StepPlan, kind: str) -> None:
        self._committed = (0, 0)
        self.counts["faults"] += 1
        self.counts[f"fault {kind}"] += 1
        self._clean_since = self._arrivals
        self._progress_at = self.step
        if len(self._planned[plan.step]) == 1:
            self._planned[plan.step][0].lone_faults += 1

    def row_failed(self, row: HashRow) -> None:
        self._by_seed[row.seed].doomed = True
        self.counts["fault failed row"] += 1

    def was_reset(self) -> None:
        for one in self._by_row.values():
            one.resets += 1
        self._by_row.clear()
        self._counters.was_reset()

    def _check_pages(self, one: Tracked, pages: list[int], shared: int) -> None:
        """Shared pages were written under the same salt, and without prefix caching by the same request."""
        owner = (one.request.salt, "" if self.scenario.config.enable_prefix_caching else one.request.id)
        for page in pages[:shared]:
            writer = self._page_owner[page]
            require("L3", writer == owner, "{} with (salt, request) {} reuses page {} of {}", one, owner, page, writer)
        for page in pages[shared:]:
            self._page_owner[page] = owner

    def _check_order(self, admitted: list[Tracked]) -> None:
        """L6, in runs of arrivals that no fault has put out of order."""
        last: dict[str, tuple[bool, int, int]] = {}
        for one in admitted:
            last[self._queue(one)] = max(last.get(self._queue(one), self._order(one)), self._order(one))
        running = set(self._by_row.values())
        clean = min(other.arrival for other in admitted) >= self._clean_since
        for one in self.open.values():
            if clean and one.arrival >= self._clean_since and one.end_by is None and one not in running:
                passed = self._queue(one) in last and self._order(one) < last[self._queue(one)]
                require("L6", not passed, "{} waits and is passed by {}", one, admitted[-1])

    def _order(self, one: Tracked) -> tuple[bool, int, int]:
        priority = one.request.priority if self.scenario.config.policy == "priority" else 0
        return one.request.backfill, priority, one.arrival

    def _queue(self, one: Tracked) -> str:
        """Whose sequences it must not pass or be passed by: its client's, and with priorities all."""
        return "" if self.scenario.config.policy == "priority" else one.request.client

    # What comes out.

    def delivered(self, deltas: list[Delta]) -> None:
        """The news of one iteration."""
        for delta in deltas:
            one = self.open.get((delta.request_id, delta.index))
            if one is None:
                raise LawBroken("L1", f"news of {delta.request_id}[{delta.index}], which is not alive: {delta}")
            self._check_tokens(one, delta)
            if one.text is not None:
                one.text.feed(delta)
            if delta.finish_reason is not None:
                self._check_end(one, delta, delta.finish_reason)

    def _check_tokens(self, one: Tracked, delta: Delta) -> None:
        start, end = len(one.tokens), len(one.tokens) + len(delta.token_ids)
        wanted = one.expected.token_ids[start:end]
        require("L7", delta.token_ids == wanted, "{} yields {} after {}, alone {}", one, delta.token_ids, start, wanted)
        if delta.token_ids:
            first = one.expected.prompt_logprobs if start == 0 else None
            require("L7", delta.prompt_logprobs == first, "{}: prompt_logprobs differ from alone at {}", one, start)
            chosen = one.expected.logprobs[start:end] if one.expected.logprobs is not None else None
            require("L7", delta.logprobs == chosen, "{}: logprobs differ from alone at {}", one, start)
            self.counts["several at once"] += len(delta.token_ids) > 1
            require("L9", delta.cached_tokens == one.cached, "{}: cached {}, {}", one, delta.cached_tokens, one.cached)
        one.tokens += delta.token_ids
        self.counts["tokens"] += len(delta.token_ids)
        done = len(one.tokens) == len(one.expected.token_ids)
        require("L1", not done or delta.finish_reason is not None, "{} has all its tokens and does not end", one)

    def _check_end(self, one: Tracked, delta: Delta, reason: FinishReason) -> None:
        one.ended = reason
        self._counters.left(one)
        del self.open[one.request.id, one.index]
        self.counts[f"ended {reason}"] += 1
        self._progress_at = self.step
        if reason is FinishReason.ABORT:
            require("L1", one.end_by is not None, "{} was aborted without a cancellation", one)
        elif reason is FinishReason.ERROR:
            guilty = one.doomed or one.lone_faults >= MAX_LONE_FAULTS
            require("L10", guilty, "{} ends with {!r} and {} faults of its own", one, delta.error, one.lone_faults)
            require("L1", bool(delta.error), "{} ends with an error that says nothing", one)
        else:
            same = (one.tokens, reason, delta.stop_reason) == (
                one.expected.token_ids,
                one.expected.finish_reason,
                one.expected.stop_reason,
            )
            require("L7", same, "{} ends with {} after {}, alone: {}", one, delta, one.tokens, one.expected)

    # After every iteration.

    def after_step(self, engine: Engine, rows: dict[int, HashRow]) -> None:
        """Everything that must hold between two iterations."""
        for one in self.open.values():
            late = one.end_by is not None and one.end_by <= self.step
            require("L1", not late, "{} was cancelled and still lives", one)
        self._trying_alone = bool(engine.roster.suspects)
        self._check_counters(engine)
        running = () if self._trying_alone else self._by_row.values()
        served = self._counters.served
        counted = {name: client.served for name, client in engine.roster.shares._clients.items()}
        same = counted == {name: served[name] for name in counted}
        require("fair shares", same, "the engine counts {}, the plans come to {}", counted, served)
        self.counts["newcomers that got a row"] += self._newcomers.check(self.step, self.open.values(), running, served)
        if self.step % self._pool_check == 0:
            self._check_pool(engine)
        waited = self.step - self._progress_at
        require("L5", not self.open or waited <= self._patience, "no progress in {} iterations", waited)
        self.step += 1

    def _check_counters(self, engine: Engine) -> None:
        stats, counts = engine.stats(), self.counts
        counts["prompt tokens"] += self._committed[0]
        self._committed = (0, 0)
        alive = stats.running + stats.waiting
        require("L2", alive == len(self.open), "engine has {} sequences alive, {} did not end", alive, len(self.open))
        ended = {str(reason): counts[f"ended {reason}"] for reason in FinishReason}
        require("L2", stats.finished == ended, "engine counts {}, seen {}", stats.finished, ended)
        require("L2", sum(ended.values()) + len(self.open) == counts["submitted"], "submitted = ended + alive")
        total = self.scenario.config.num_pages - 1
        require("L3", stats.pages_total == total, "pool of {} pages has {}", total, stats.pages_total)
        require("L2", stats.faults == counts["faults"], "engine counts {} faults of {}", stats.faults, counts["faults"])
        seen = (counts["prompt tokens"], counts["tokens"])
        told = (stats.prompt_tokens, stats.generation_tokens)
        require("L9", told == seen, "engine counts (prompt, generated) tokens {}, seen {}", told, seen)

    def _check_pool(self, engine: Engine) -> None:
        try:
            check_roster(engine.roster)
        except InvariantError as error:
            raise LawBroken("L3", str(error)) from error

    def at_idle(self, engine: Engine) -> None:
        """L4: nothing is left."""
        stats = engine.stats()
        left = {"rows": stats.running, "waiting": stats.waiting, "pages": stats.pages_used, "open": len(self.open)}
        require("L4", not any(left.values()), "idle, but left are {}", left)
        require("L4", not engine.roster.suspects, "idle, but there are suspects")
        self._by_seed.clear()
        self._progress_at = self.step
