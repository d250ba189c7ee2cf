"""The device of the hash model: carries out plans without floats and without torch, and trusts nobody.

Slots start as poison and are poisoned again when their page is handed to a row, so whoever reads a page that is not
theirs, not written yet, at a wrong position, or of another sequence computes other tokens from there on, as a
transformer would. On top of that each row carries what its memory *should* be: the first read that differs raises
`LawBroken`, saying where it was and what lay there. Plans are checked against the rules of `engine/plan.py`.

It knows nothing of the engine except its plans.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import msgspec
import numpy as np
import numpy.typing as npt

from flover.engine.executor import BlockingExecutor
from flover.engine.plan import NULL_PAGE, Admission, RowResult, StepPlan, StepResult, Work
from flover.executor.reports import with_proposals
from flover.request import ModelFacts, SamplingParams, TokenLogprobs
from flover.speculation import Draft

from .broken import LawBroken, require
from .hash_model import (
    LONGEST,
    POISON,
    WEIGHT_ARRAY,
    extend,
    forbidden_ids,
    logprobs_of,
    prompt_logprobs_of,
    sample,
    sampling_key,
    value_of,
)

EMPTY_SLOTS = np.zeros(0, dtype=np.int64)


@dataclass(slots=True)
class HashRow:
    """The columns of one row."""

    sequence: int
    seed: int
    params: SamplingParams
    known: list[int]
    """Prompt and output; the last entry is the last-id column."""
    prompt_len: int
    computed: int
    memory: int
    """What reading `computed` slots must give."""
    key: int
    forbidden: frozenset[int]
    pages: list[int] = field(default_factory=list)
    slots: npt.NDArray[np.int64] = field(default_factory=lambda: EMPTY_SLOTS)


class HashExecutor(BlockingExecutor):
    """Implements `Executor` (engine/executor.py). `facts` says how large the model and its pool are.

    Raises `LawBroken` where a real device would compute nonsense.
    """

    def __init__(self, facts: ModelFacts, *, max_num_seqs: int, reorder: bool, num_slots: int = 0) -> None:
        require("setup", facts.max_model_len < LONGEST, "max_model_len must be below {}", LONGEST)
        self.facts = facts
        self.rows: dict[int, HashRow] = {}
        self.num_pages = facts.pool_tokens // facts.page_size + 1
        self._max_num_seqs = max_num_seqs
        self._reorder = reorder
        self._step: int | None = None
        self._void = False
        size = self.num_pages * facts.page_size
        self._holders = [0] * self.num_pages
        """How many rows have a page in their page table."""
        self._slots = np.arange(size, dtype=np.int64).reshape(self.num_pages, facts.page_size)
        self._values = np.full(size, POISON, dtype=np.uint64)
        self._written = np.full(size, -1, dtype=np.int64)
        """token * LONGEST + position: what a slot was written for; only read to explain a wrong value."""
        self._drafted = np.full(size, -1, dtype=np.int64)
        """The same of a draft model, which writes to pages of the same numbers."""
        self._tier = np.zeros((3, num_slots, facts.page_size), dtype=np.uint64)
        """What the three hold of a page, for each slot of the host tier."""
        self._void_tier()
        self._in_flight: deque[list[tuple[npt.NDArray[np.int64], npt.NDArray[np.uint64]]]] = deque()
        """Slots and values that each plan in flight writes."""

    # The Executor protocol.

    def run(self, plan: StepPlan) -> StepResult:
        self._number(plan)
        self._leave_and_move(plan)
        self._copy(plan)
        self._enter_and_grant(plan)
        self._check_window(plan)
        rows = self._forward(plan)
        proposals = {row: token_ids for row, token_ids in map(self._draft, plan.drafts) if token_ids}
        return StepResult(step=plan.step, rows=with_proposals(rows, proposals))

    def reset(self) -> None:
        super().reset()
        self.rows.clear()
        self._in_flight.clear()
        self._holders = [0] * self.num_pages
        self._poison(self._slots)
        self._void_tier()
        self._void = False

    def trim(self, free_pages: list[int]) -> None:
        for page in free_pages:
            self._poison(self._slots_of([page]))

    def check(self) -> None: ...

    def close(self) -> None:
        self.rows.clear()

    def start(self, plan: StepPlan) -> None:
        self._in_flight.append([])
        super().start(plan)

    @property
    def newest(self) -> StepResult:
        """What the plan that was started last comes to."""
        return self._results[-1]

    def finish(self) -> StepResult:
        """Writes once more what the plan wrote: a device may do so as long as the plan is not finished."""
        result = super().finish()
        for slots, values in self._in_flight.popleft():
            self._values[slots] = values
        return result

    def fail(self, step: int) -> None:
        """The device broke down in this step: its rows are void until `reset`."""
        self._void, self._step = True, step

    # Steps 1 to 4 of a plan.

    def _number(self, plan: StepPlan) -> None:
        require("plan", not self._void, "step {} runs on a device that failed and was not reset", plan.step)
        follows = self._step is None or plan.step == self._step + 1
        require("plan", follows, "step {} follows step {}", plan.step, self._step)
        self._step = plan.step

    def _leave_and_move(self, plan: StepPlan) -> None:
        for number in plan.evictions:
            require("plan", number in self.rows, "row {} is evicted but not alive", number)
            for page in self.rows.pop(number).pages:
                self._holders[page] -= 1
        # A survivor beyond the new number of rows has to move, no other does, and it moves into a hole.
        size = len(self.rows) + len(plan.admissions)
        outside = {number for number in self.rows if number >= size} if self._reorder else set()
        require(
            "rows", {move.src for move in plan.moves} == outside, "moves {}, rows {} have to move", plan.moves, outside
        )
        for move in plan.moves:
            require("rows", move.dst not in self.rows, "row {} is the target of {} but alive", move.dst, move)
            self.rows[move.dst] = self.rows.pop(move.src)

    def _copy(self, plan: StepPlan) -> None:
        """Pages to the host tier and back. None that a plan in flight writes, and none that a row has is written."""
        for page, slot, loads in map(msgspec.structs.astuple, plan.copies):
            require("L3", NULL_PAGE < page < self.num_pages, "page {} is copied", page)
            require("L3", 0 <= slot < self._tier.shape[1], "slot {} is copied", slot)
            require("L3", page not in self._unfinished(), "page {} is copied, still being written", page)
            require("L3", self._holders[page] == 0, "page {} is copied, and a row has it", page)
            at = self._slots_of([page])
            arrays = self._values, self._written.view(np.uint64), self._drafted.view(np.uint64)
            for array, held in zip(arrays, self._tier, strict=True):
                if loads:
                    array[at] = held[slot]
                else:
                    held[slot] = array[at]

    def _void_tier(self) -> None:
        self._tier[0], self._tier[1:] = POISON, np.uint64(2**64 - 1)

    def _enter_and_grant(self, plan: StepPlan) -> None:
        for admission in plan.admissions:
            self._admit(admission)
        for grant in plan.grants:
            self._append_pages(self._row(grant.row), grant.pages, shared=0)

    def _admit(self, admission: Admission) -> None:
        number = admission.row
        require("rows", 0 <= number < self._max_num_seqs, "row {} does not exist", number)
        require("rows", number not in self.rows, "row {} is admitted to but alive", number)
        known = admission.prompt_ids + admission.output_ids
        size, computed = self.facts.page_size, admission.computed
        require(
            "plan", 0 <= computed < len(known), "row {}: {} of {} tokens already computed", number, computed, len(known)
        )
        require("plan", computed % size == 0, "row {}: reuse of {} tokens ends inside a page", number, computed)
        require(
            "plan", computed <= len(admission.pages) * size, "row {}: too few pages for {} tokens", number, computed
        )
        row = HashRow(
            sequence=admission.sequence,
            seed=admission.seed,
            params=admission.params,
            known=known,
            prompt_len=len(admission.prompt_ids),
            computed=computed,
            memory=extend(0, known[:computed], 0)[1],
            key=sampling_key(admission.params, admission.seed),
            forbidden=forbidden_ids(admission.params, self.facts.eos_ids),
        )
        self._append_pages(row, admission.pages, shared=computed // size)
        self.rows[number] = row

    def _append_pages(self, row: HashRow, pages: list[int], *, shared: int) -> None:
        """The first `shared` pages hold a prefix; the others are this row's alone, and poisoned."""
        unfinished = self._unfinished() & set(pages[:shared]) if shared else ()
        require("L3", not unfinished, "sequence {} reuses pages {}, still being written", row.sequence, unfinished)
        for number, page in enumerate(pages):
            require("L3", NULL_PAGE < page < self.num_pages, "sequence {} is given page {}", row.sequence, page)
            held = page in row.pages or (number >= shared and self._holders[page] > 0)
            require("L3", not held, "sequence {} is given page {}, which is another row's", row.sequence, page)
            row.pages.append(page)
            self._holders[page] += 1
        row.slots = np.concatenate([row.slots, self._slots_of(pages)])
        self._poison(self._slots_of(pages[shared:]))

    def _unfinished(self) -> set[int]:
        """Pages that plans in flight write."""
        written = [slots for one in self._in_flight for slots, _ in one]
        return set((np.concatenate(written) // self.facts.page_size).tolist()) if written else set()

    def _check_window(self, plan: StepPlan) -> None:
        live, (start, end) = sorted(self.rows), plan.window
        if self._reorder:
            require("rows", live == list(range(len(live))), "live rows are not dense: {}", live)
            require("rows", plan.window == (0, len(live)) and not plan.dead, "window {} for rows {}", plan.window, live)
        dead = [number for number in range(start, end) if number not in self.rows]
        require("rows", sorted(plan.dead) == dead, "dead rows are {}, the plan says {}", dead, plan.dead)
        inside = all(start <= number < end for number in live)
        require("rows", inside, "window {} leaves out some of the rows {}", plan.window, live)

    # Steps 5 and 6: read everything, then write everything, then sample.

    def _forward(self, plan: StepPlan) -> list[RowResult]:
        numbers = [work.row for work in plan.work]
        require("plan", numbers == sorted(set(numbers)), "a row appears twice, or out of order, among {}", numbers)
        inputs = [self._inputs(work) for work in plan.work]
        memories = [self._read(self.rows[number]) for number in numbers]
        results = map(self._write, plan.work, inputs, memories)
        return [result for result in results if result is not None]

    def _inputs(self, work: Work) -> list[int]:
        """The tokens that a row computes; those of a generating row begin with its newest one."""
        row, number, start = self._row(work.row), work.row, work.start
        inputs = row.known[-1:] + work.token_ids if work.generates else work.token_ids
        end, known = start + len(inputs), len(row.known)
        require("plan", start == row.computed, "row {}: work at {}, {} are computed", number, start, row.computed)
        require("plan", end > start, "row {}: empty chunk", number)
        require("plan", end <= len(row.slots), "row {}: {} tokens, pages for {}", number, end, len(row.slots))
        if work.generates:
            require("plan", start == known - 1, "row {} generates at {} of {} known tokens", number, start, known)
            require("plan", work.num_samples == len(inputs), "row {}: {} samples", number, work.num_samples)
        else:
            wanted = row.known[start:end]
            require("plan", inputs == wanted, "row {}: chunk {} instead of {}", number, inputs, wanted)
            samples = work.num_samples
            require("plan", samples == (end == known), "row {}: {} samples at {} of {}", number, samples, end, known)
        return inputs

    def _read(self, row: HashRow) -> int:
        """Attention: fold all earlier slots through the page table; complain at once if it is not what it should be."""
        values = self._values[row.slots[: row.computed]]
        memory = int(values @ WEIGHT_ARRAY[: row.computed]) if row.computed else 0
        if memory != row.memory:
            raise LawBroken("L7", self._explain(row))
        return memory

    def _write(self, work: Work, inputs: list[int], memory: int) -> RowResult | None:
        row, start = self.rows[work.row], work.start
        values, after = extend(memory, inputs, start)
        position = start + len(values)
        if self._in_flight:
            self._in_flight[-1].append((row.slots[start:position], np.array(values, dtype=np.uint64)))
        if len(values) == 1:
            slot = row.slots[start]
            self._values[slot] = values[0]
            self._written[slot] = inputs[0] * LONGEST + start
        else:
            slots = row.slots[start:position]
            self._values[slots] = np.array(values, dtype=np.uint64)
            self._written[slots] = np.array(inputs) * LONGEST + np.arange(start, position)
        if work.generates and work.token_ids:
            return self._verify(work.row, work.token_ids)
        row.computed, row.memory = position, after
        report = prompt_logprobs_of(inputs, values, start, row.params.prompt_logprobs)
        if not work.num_samples:
            return RowResult(row=work.row, prompt_logprobs=report) if report is not None else None
        # After its first token a row has nothing more to say about its prompt.
        return self._sample(work.row, report if len(row.known) == row.prompt_len else None)

    def _verify(self, number: int, proposals: list[int]) -> RowResult:
        """Sample after the newest token, and after each proposal as long as it is what was sampled."""
        row, results = self.rows[number], []
        for proposal in [*proposals, None]:
            _, row.memory = extend(row.memory, row.known[-1:], row.computed)
            row.computed += 1
            results.append(self._sample(number, None))
            if row.known[-1] != proposal:
                break
        logprobs = [entry for result in results for entry in result.logprobs or []]
        return RowResult(
            row=number,
            token_ids=[token for result in results for token in result.token_ids],
            logprobs=logprobs if row.params.logprobs is not None else None,
        )

    def _draft(self, draft: Draft) -> tuple[int, list[int]]:
        """What follows, three times of four, after the draft model has read what it wrote for the row before."""
        row, number, start = self._row(draft.row), draft.row, draft.start
        known, size = len(row.known), self.facts.page_size
        end = known if draft.count else start + len(draft.token_ids)
        sampled = row.known[start + len(draft.token_ids) : end]
        inputs = [*draft.token_ids, *sampled]
        require("plan", start < end <= known, "row {}: draft of {} to {}, {} known", number, start, end, known)
        require("plan", inputs == row.known[start:end], "row {}: draft of {} at {}", number, inputs, start)
        require("plan", len(sampled) > 0 or not draft.count, "row {} proposes, and has sampled nothing", number)
        if end > len(row.pages) * size:
            return number, []
        written = np.array(row.known[:end]) * LONGEST + np.arange(end)
        self._drafted[row.slots[start:end]] = written[start:]
        held = self._drafted[row.slots[:end]]
        require("plan", bool((held == written).all()), "row {}: the draft model reads what it did not write", number)
        proposals, memory, position = list[int](), row.memory, row.computed
        newest = row.known[-1]
        for _ in range(min(draft.count, len(row.pages) * size - end + 1)):
            _, memory = extend(memory, [newest], position)
            position += 1
            newest = sample(memory, row.key, self.facts.vocab_size)
            newest = newest if memory % 4 else (newest + 1) % self.facts.vocab_size
            proposals.append(newest)
        return number, proposals

    def _sample(self, number: int, prompt_logprobs: list[TokenLogprobs | None] | None) -> RowResult:
        row = self.rows[number]
        free = len(row.known) - row.prompt_len >= row.params.min_tokens
        token = sample(row.memory, row.key, self.facts.vocab_size, frozenset() if free else row.forbidden)
        wanted = row.params.logprobs
        row.known.append(token)
        return RowResult(
            row=number,
            token_ids=[token],
            logprobs=[logprobs_of(row.memory, token, wanted)] if wanted is not None else None,
            prompt_logprobs=prompt_logprobs,
        )

    # Help.

    def _row(self, number: int) -> HashRow:
        row = self.rows.get(number)
        if row is None:
            raise LawBroken("plan", f"row {number} is used but not alive")
        return row

    def _slots_of(self, pages: list[int]) -> npt.NDArray[np.int64]:
        return self._slots[pages].reshape(-1)

    def _poison(self, slots: npt.NDArray[np.int64]) -> None:
        self._values[slots] = POISON
        self._written[slots] = -1
        self._drafted[slots] = -1

    def _explain(self, row: HashRow) -> str:
        """The first slot that does not hold what the row's tokens call for."""
        memory, size = 0, self.facts.page_size
        for position, token in enumerate(row.known[: row.computed]):
            slot = int(row.slots[position])
            if int(self._values[slot]) != value_of(memory, token, position):
                token_held, at = divmod(int(self._written[slot]), LONGEST)
                found = "poison" if token_held < 0 else f"token {token_held} at position {at}"
                place = f"page {slot // size} offset {slot % size}"
                return f"sequence {row.sequence} reads {found} in {place}, wants token {token} at position {position}"
            _, memory = extend(memory, (token,), position)
        return f"sequence {row.sequence} has a wrong memory though all its slots are right"
