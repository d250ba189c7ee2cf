"""One device as an executor: it applies a plan to its rows, runs one forward and one sampling, and reports.

It decides nothing: rows, tokens and pages are the plan's, and what it remembers of a row are the columns of
`memory/columns.py`. What kind of device it is shows in the decoder's operations and the cache that it is given
(`platform.py`). Text, queues and clocks are unknown to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np

from flover.engine.plan import RowResult, StepPlan, StepResult, Work
from flover.errors import InvariantError, RequestError
from flover.executor.adapters import DeviceAdapters
from flover.executor.device_batch import Layout, digest_of, dummy_batch, lay_out, make_batch
from flover.executor.device_grammars import DeviceGrammars
from flover.executor.device_rows import PromptTail, change_rows
from flover.executor.draft_model import DraftModel
from flover.executor.offload import copy_pages, error_of
from flover.executor.pooling import pool_prompt
from flover.executor.reports import add_tokens, with_proposals, with_reports
from flover.memory.buffers import RowBuffers, RowView
from flover.memory.columns import row_columns
from flover.memory.kvcache import PageCache
from flover.memory.offload import PageStore
from flover.memory.sizing import num_pages_for
from flover.model.batch import Batch
from flover.model.sampling import Sampled, advance, prompt_logprobs, sample
from flover.model.sampling.sampler import NO_TOKEN
from flover.ops import Array, HostArray, Ops, RaggedBatch
from flover.request import ModelFacts, Request, TokenLogprobs
from flover.speculation import Draft
from flover.structured_outputs import Vocabulary

_WARM_UP_TOKENS = 64
_WARM_UP_ROWS = 8


class Computes(Protocol):
    """What the executor asks of a decoder (`model/decoder.py`)."""

    def forward(self, batch: Batch, kv: PageCache) -> Array: ...

    def logits(self, hidden: Array) -> Array | None: ...

    @property
    def ops(self) -> Ops: ...


class Captures(Computes, Protocol):
    """A decoder whose forward can be captured."""

    def capture(self, example: Batch, kv: PageCache) -> Callable[[RaggedBatch], Array]: ...


@dataclass(frozen=True, slots=True)
class Started:
    """A plan whose forward has been started; no layout if it computes nothing."""

    step: int
    layout: Layout | None
    hidden: Array  # [T, H] of the batch's tokens
    kernel_seconds: float
    """Those of the operations before it."""
    drafts: list[Draft]


class DeviceExecutor:
    """Rows, pages and weights on one device. `eos_ids` of the facts are what `min_tokens` bans."""

    overlaps = False
    """Whether a plan may be started while the one before is not finished."""

    def __init__(
        self,
        decoder: Computes,
        kv: PageCache,
        facts: ModelFacts,
        num_rows: int,
        adapters: DeviceAdapters | None = None,
    ) -> None:
        """For rank 0 or the only one; another rank of the decoder's group chooses no tokens (`take`)."""
        self.facts = facts
        self._decoder = decoder
        self._ops = decoder.ops
        self._kv = kv
        self._buffers = RowBuffers(row_columns(num_pages_for(facts.max_model_len, facts.page_size)), num_rows)
        self._grammars = DeviceGrammars(facts)
        self._adapters = adapters
        self._closed = False
        self._leads = self._ops.group.rank == 0
        self._digest = 0
        self._started: Started | None = None
        self._draft_model: DraftModel | None = None
        self.store: PageStore | None = None
        """The host tier, which is closed with the executor."""

    def draft_with(self, draft_model: DraftModel) -> None:
        """Carry out the drafts of plans with this model, which is closed with the executor."""
        self._draft_model = draft_model

    def warm_up(self, progress: Callable[[int, int], None] = lambda done, total: None) -> None:
        """A chunk and a step of generation on the null page, so that the first request pays for no first use.
        `progress(done, total)` counts what else is made meanwhile."""
        chunk_len = min(_WARM_UP_TOKENS, self.facts.max_model_len)
        num_generating = min(_WARM_UP_ROWS, self._buffers.num_rows)
        for num_rows, query_len in ((1, chunk_len), (num_generating, 1)):
            batch = dummy_batch(num_rows, query_len, self.facts.page_size)
            hidden = self._forward(batch)
            # Of one row: the logits of eight take 8 MB for a vocabulary of 262,144.
            logits = self._decoder.logits(hidden[-1:])
            if logits is not None:
                self._choose(logits, self._buffers.view(np.arange(1)))
        if self._draft_model is not None:
            self._draft_model.warm_up()

    def prepare(self, request: Request, vocabulary: Vocabulary | None) -> Callable[[], None] | None:
        """Compile the request's constraint and read its adapter, if these are new."""
        constraint, adapter = request.params.structured_outputs, request.params.lora
        work = [] if constraint is None else [self._grammars.prepare(constraint, vocabulary)]
        if adapter is not None:
            if self._adapters is None:
                raise RequestError("an adapter needs --enable-lora", param="model")
            work.append(self._adapters.prepare(adapter))
        found = [one for one in work if one is not None]
        return partial(_do_all, found) if found else None

    def start(self, plan: StepPlan) -> None:
        """Change the rows and run the forward; masks are made beside it."""
        if self._started is not None:
            raise InvariantError(f"step {plan.step} is started before step {self._started.step} is finished")
        before = self._ops.kernel_seconds()
        copy_pages(plan, self.store)
        change_rows(self._buffers, plan, self.facts, self._grammars if self._leads else None, self._adapters)
        layout = lay_out(plan, self._buffers, self.facts.page_size)
        self._digest = 0
        if layout is not None:
            self._start_masks(layout)
        hidden = self._compute(plan, layout)
        if layout is not None:
            self._buffers["context_len"][layout.rows] = layout.context_lens
        self._started = Started(plan.step, layout, hidden, before, plan.drafts)

    def finish(self) -> StepResult:
        """Sample, and report on prompts."""
        started, self._started = self._started, None
        if started is None:
            raise InvariantError("no plan was started")
        layout, hidden = started.layout, started.hidden
        if layout is None:
            return StepResult(step=started.step, rows=[], offload_error=error_of(self.store))
        self._grammars.finish()
        results = self._sample(layout, hidden)
        rows = with_reports(results, self._report_prompts(layout, hidden))
        if self._draft_model is not None and started.drafts:
            rows = with_proposals(rows, self._draft_model.propose(started.drafts, results, self._buffers))
        seconds = self._ops.kernel_seconds() - started.kernel_seconds
        return StepResult(step=started.step, rows=rows, kernel_seconds=seconds, offload_error=error_of(self.store))

    @property
    def digest(self) -> int:
        """A checksum of what the last plan was computed on: ranks that ran the same plans have the same."""
        return self._digest

    def sample_started(self) -> None:
        """Nothing: sampling is part of `finish`."""

    def take(self, tokens: Iterable[tuple[int, int]]) -> None:
        """Rank 0 has chosen tokens: (row of the plan before, its newest token)."""
        for row, token in tokens:
            self._buffers["last_id"][row] = token

    def check(self) -> None:
        """Nothing can have happened to it."""

    def reset(self) -> None:
        """Forget all rows; what is in the pages is void."""
        self._started = None
        self._grammars.finish()
        self._buffers.clear(range(self._buffers.num_rows))

    def trim(self, free_pages: list[int]) -> None:
        """Give the memory behind these pages back, as far as the cache can."""
        self._kv.trim(free_pages)
        if self._draft_model is not None:
            self._draft_model.trim(free_pages)

    def close(self) -> None:
        """Free weights, pages and rows. Calling it twice is harmless."""
        if not self._closed:
            self._closed = True
            self._grammars.close()
            if self._adapters is not None:
                self._adapters.close()
            if self.store is not None:
                self.store.close()
            self._kv.close()
            if self._draft_model is not None:
                self._draft_model.close()
            del self._decoder, self._kv, self._buffers

    def _sample(self, layout: Layout, hidden: Array) -> dict[int, RowResult]:
        """A token for each row that samples; where that is what was proposed, the next one too.

        The logits of all samples are made together. What a proposal's successor is drawn with (random number,
        penalties, bans) depends on the tokens before it, so sampling goes in rounds: one, unless there are proposals.
        """
        work = [one for one in layout.work if one.num_samples]
        if not work:
            return {}
        at = np.arange(len(work))
        if len(work) < len(hidden):
            tokens, at = layout.sampled()
            hidden = hidden[tokens]
        logits = self._decoder.logits(hidden)
        if logits is None:
            return {}
        results, turn = dict[int, RowResult](), 0
        while work:
            drawn = self._draw(logits if len(at) == len(logits) else logits[at], work, results)
            again = [
                place
                for place, (one, token) in enumerate(zip(work, drawn, strict=True))
                if turn < len(one.token_ids) and one.generates and one.token_ids[turn] == token
            ]
            if not again:
                break
            work, at, turn = [work[place] for place in again], at[again] + 1, turn + 1
            self._grammars.make(work, self._buffers["grammar"])
        return results

    def _draw(self, logits: Array, work: list[Work], results: dict[int, RowResult]) -> list[int]:
        """One token for each row of `work`, added to what it has in `results`."""
        rows = np.array([one.row for one in work])
        sampled = self._choose(logits, self._buffers.view(rows))
        usable = sampled.token_ids != NO_TOKEN if sampled.errors else slice(None)
        advance(self._buffers, rows[usable], sampled.token_ids[usable])
        return add_tokens(sampled, work, results)

    def _report_prompts(self, layout: Layout, hidden: Array) -> list[RowResult]:
        """What chunks of prompts give beside tokens, to rows that ask for it; on the first rank alone."""
        reports: list[RowResult | None] = []
        for place, work in enumerate(layout.work):
            if not work.generates:
                own = hidden[layout.starts[place] : layout.starts[place + 1]]
                reports += [self._report_logprobs(work, own), self._report_embedding(work, own)]
        return [one for one in reports if one is not None] if self._leads else []

    def _report_logprobs(self, chunk: Work, own: Array) -> RowResult | None:
        """Of the tokens of a chunk with the hidden states `own`."""
        column = self._buffers["prompt_hidden"]
        tail: PromptTail | None = column[chunk.row]
        if tail is None:
            return None
        entries: list[TokenLogprobs | None] = [None] if chunk.start == 0 else []
        predicted = chunk.token_ids[1:] if tail.hidden is None else chunk.token_ids
        found = self._prompt_logprobs(tail.hidden, own, np.asarray(predicted, dtype=np.int64), tail.num_top)
        if chunk.num_samples:
            column[chunk.row] = None
        else:
            tail.hidden = own[[-1]]  # a copy: the next forward may write over the rest
        if found is None:
            return RowResult(row=chunk.row, error="the model's logits for the prompt are not finite numbers")
        return RowResult(row=chunk.row, prompt_logprobs=[*entries, *found])

    def _report_embedding(self, chunk: Work, own: Array) -> RowResult | None:
        """With the last chunk of a prompt."""
        column = self._buffers["pooled"]
        if column[chunk.row] is None:
            return None
        vector = pool_prompt(column, chunk, self._on_host(own))
        return None if vector is None else RowResult(row=chunk.row, embedding=vector)

    # What a kind of device does in its own way

    def _on_host(self, states: Array) -> HostArray:
        """Hidden states [N, H]."""
        return np.asarray(states)

    def _start_masks(self, layout: Layout) -> None:
        """Begin to make the masks of the rows that sample."""
        self._grammars.start(layout.work, self._buffers["grammar"])

    def _compute(self, plan: StepPlan, layout: Layout | None) -> Array | None:
        """The hidden states [T, H] of the layout's tokens, valid until the next forward."""
        if layout is None:
            return None
        batch = make_batch(layout, self._buffers, self.facts.page_size, with_adapters=self._adapters is not None)
        self._digest = digest_of(layout, batch) if self._ops.group.size > 1 else 0
        return self._forward(batch)

    def _forward(self, batch: Batch) -> Array:
        """The hidden states [T, H] of a batch whose arrays are on the host."""
        return self._decoder.forward(batch, self._kv)

    def _choose(self, logits: Array, rows: RowView) -> Sampled:
        """A token for each row of `logits` [S, V]; rows[s] has logits[s]."""
        return sample(logits, rows, self._ops)

    def _prompt_logprobs(
        self, before: Array | None, own: Array, next_ids: HostArray, num_top: int
    ) -> list[TokenLogprobs] | None:
        """Of `next_ids`, the successors of the tokens with the hidden states `before` [1, H] and own[:-1]."""
        hidden = own[:-1] if before is None else np.concatenate([before, own[:-1]])
        return prompt_logprobs(hidden, next_ids, num_top, self._decoder.logits, self.facts.vocab_size, self._ops)


def _do_all(work: list[Callable[[], None]]) -> None:
    for one in work:
        one()
