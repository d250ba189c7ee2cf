"""The executor of a GPU: rows, pages, forward and sampling there.

An iteration copies to the device what its plan changes, and what rows ask for beyond the largest logit; tokens and
log-probabilities come back in one copy. A plan may be started while the one before it is not finished: its forward
takes the newest tokens from the device. The host's columns follow when the tokens are there.

    start(1)   finish(0)            start(2)                           finish(1)
    forward 1  tokens of iteration 0  sampling 1, rows change, forward 2  tokens of iteration 1

On several ranks the first one samples, and gives the others its tokens where their next forwards find them too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from flover.engine.plan import RowResult, StepPlan, StepResult, Work
from flover.errors import InvariantError
from flover.executor.cuda_graphs import Graphs
from flover.executor.cuda_memory import UnusedMemory
from flover.executor.cuda_rows import DeviceRows, Prepared
from flover.executor.device import Captures, DeviceExecutor, Started
from flover.executor.device_batch import Layout, digest_of_rows
from flover.executor.reports import add_tokens, with_reports
from flover.executor.row_cells import rows_after
from flover.memory.buffers import RowBuffers, RowView
from flover.memory.columns import NO_LOGPROBS, Feature
from flover.memory.graph_sizes import warm_up_batches
from flover.memory.kvcache import PageCache
from flover.model.sampling import advance, sampling_values
from flover.model.sampling.logprobs import SLICE_LOGITS
from flover.model.sampling.packed import pack
from flover.model.sampling.sampler import NO_TOKEN, Sampled, tell_errors
from flover.ops import Array, HostArray
from flover.ops.cuda.choose import choose, logprobs
from flover.ops.cuda.choose import to_device as choices_to_device
from flover.ops.cuda.device import Fetched, Gpu, joined, new_array, to_device, to_host
from flover.ops.cuda.launch import Compilations
from flover.ops.cuda.order import argmax
from flover.request import ModelFacts, SamplingParams, TokenLogprobs

_WARM_UP_PARAMS = SamplingParams(logprobs=1), SamplingParams(logit_bias={0: 1.0}, logprobs=0)
"""Rows that draw, without and with edits."""


@dataclass(frozen=True, slots=True)
class _Choice:
    """Tokens on their way. `places` are, for each number of alternatives that is asked for, who asks."""

    fetched: Fetched
    places: list[list[int]]
    ids: Array
    """The tokens on the device, int64 [S]."""

    def wait(self, rows: RowView) -> Sampled:
        """When they are there; rows[s] has the logits s."""
        ids, best, *found = self.fetched.wait()
        sampled = Sampled(ids)
        tell_errors(sampled, best, rows)
        for number, places in enumerate(self.places):
            entries = _entries(found[3 * number : 3 * number + 3])
            sampled.logprobs |= {
                place: entry for place, entry in zip(places, entries, strict=True) if ids[place] != NO_TOKEN
            }
        return sampled


@dataclass(slots=True)
class _Sampling:
    """The sampling of a plan has been started. work[s] was planned for a row that is rows[s] now; -1: it has left."""

    step: int
    work: list[Work] = field(default_factory=list)
    rows: HostArray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    choice: _Choice | None = None
    reports: list[RowResult] = field(default_factory=list)


class CudaExecutor(DeviceExecutor):
    """Rows, pages and weights on one GPU; `device` of its `gpu` has all tensors."""

    overlaps = True
    _decoder: Captures

    def __init__(
        self,
        decoder: Captures,
        kv: PageCache,
        facts: ModelFacts,
        num_rows: int,
        gpu: Gpu,
        compilations: Compilations,
        *,
        eager: bool = False,
    ) -> None:
        """`compilations` counts what is compiled. `eager`: no forward is captured."""
        super().__init__(decoder, kv, facts, num_rows)
        self._device = gpu.device
        self._unused = UnusedMemory(gpu)
        max_pages = self._buffers["page_table"].shape[1]
        self._rows = DeviceRows(num_rows, max_pages, facts.page_size, gpu)
        self._graphs = Graphs(self._rows, num_rows, facts.max_model_len)
        self._compilations = compilations
        self._ready_compilations = self._reported = 0
        self._eager = eager or self._ops.capture is None
        self._prepared: Prepared | None = None
        self._sampling: _Sampling | None = None

    def warm_up(self, progress: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Launch every kernel there is, on rows that nobody has, so that none is compiled later; then capture forwards.
        `progress(done, total)` counts these. Raises `ConfigError` if there is no memory for them."""
        with self._unused.at_start():
            self._launch_all()
            if not self._eager:
                self._graphs.capture(self._decoder, self._kv, progress)
        self._ready_compilations = self._compilations.count

    def _launch_all(self) -> None:
        for query_lens, longest in warm_up_batches(self.facts.max_model_len):
            hidden = self._forward(self._rows.prepare_nothing(query_lens, longest))
            self._decoder.logits(hidden)
        buffers = RowBuffers(tuple(self._buffers.columns.values()), len(_WARM_UP_PARAMS) + 1)
        for row, params in enumerate(_WARM_UP_PARAMS):
            own = sampling_values(params, prompt_ids=[0], output_ids=[], seed=0, bad_words_ids=[], eos_ids=[])
            buffers.insert(row, **own)
        rows = buffers.view(np.arange(buffers.num_rows))
        logits, nobody = self._decoder.logits(hidden[np.zeros(len(rows), dtype=np.int64)]), self._rows.nobody(len(rows))
        choice = None if logits is None else self._start_choice(logits, rows, nobody)
        self._share(None if choice is None else choice.ids, nobody)
        if choice is not None:
            choice.wait(rows)

    @property
    def num_graphs(self) -> int:
        """Captured forwards."""
        return self._graphs.count

    @property
    def late_compilations(self) -> int:
        """Kernels that were compiled after the warm-up: none, unless something was forgotten there."""
        return self._compilations.count - self._ready_compilations

    def start(self, plan: StepPlan) -> None:
        """Sample what was started before; then change the rows, and start the forward."""
        self.sample_started()
        if self._sampling is not None:
            self._sampling.rows = rows_after(plan, self._sampling.rows)
        super().start(plan)

    def sample_started(self) -> None:
        """Start the sampling of the newest plan, if that is not done."""
        if self._started is not None:
            if self._sampling is not None:
                raise InvariantError(f"another step is started, and two up to {self._started.step} are not finished")
            self._sampling, self._started = self._sample_all(self._started), None

    def finish(self) -> StepResult:
        """Wait for the tokens of the oldest plan; the host's columns follow."""
        started, sampling, self._sampling = self._started, self._sampling, None
        if sampling is None:
            if started is not None and started.layout is not None and _proposes(started.layout):
                return super().finish()  # sampled in rounds: nothing else can be in flight
            if started is None:
                raise InvariantError("no plan was started")
            sampling, self._started = self._sample_all(started), None
        results: dict[int, RowResult] = {}
        if sampling.choice is not None:
            sampled = sampling.choice.wait(self._buffers.view(sampling.rows))
            here = (sampled.token_ids != NO_TOKEN) & (sampling.rows >= 0)
            advance(self._buffers, sampling.rows[here], sampled.token_ids[here])
            add_tokens(sampled, sampling.work, results)
        if self._started is not None and self._started.layout is not None:
            super()._start_masks(self._started.layout)
        before, self._reported = self._reported, self.late_compilations
        rows = with_reports(results, sampling.reports)
        return StepResult(step=sampling.step, rows=rows, compilations=self._reported - before)

    def take(self, tokens: Iterable[tuple[int, int]]) -> None:
        """They are on the device already."""

    def reset(self) -> None:
        """After running out of memory too: what nothing uses any more is given back, to be taken in other pieces."""
        self._sampling = self._prepared = None
        super().reset()
        self._rows.reset()
        self._unused.free()

    def trim(self, free_pages: list[int]) -> None:
        """Give back what forwards of many tokens have left. Pages stay."""
        self._unused.trim()

    def close(self) -> None:
        """Captured forwards and rows too."""
        if not self._closed:
            self._sampling = self._prepared = None
            del self._graphs, self._rows
        super().close()

    def _start_masks(self, layout: Layout) -> None:
        """Grammars must have seen every token before: those in flight come first."""
        if self._sampling is None:
            super()._start_masks(layout)

    def _sample_all(self, started: Started) -> _Sampling:
        """Everything that the plan's rows ask for, without waiting for tokens. (Reports on prompts are waited for.)"""
        layout, prepared = started.layout, self._prepared
        if layout is None or prepared is None:
            return _Sampling(started.step)
        self._grammars.finish()
        work = [one for one in layout.work if one.num_samples]
        rows, choice = np.array([one.row for one in work], dtype=np.int64), None
        if work:
            hidden = started.hidden if prepared.tokens is None else started.hidden[prepared.tokens]
            logits = self._decoder.logits(hidden)
            if logits is not None:
                choice = self._start_choice(logits, self._buffers.view(rows), prepared.rows)
            self._share(None if choice is None else choice.ids, prepared.rows)
        return _Sampling(started.step, work, rows, choice, self._report_prompts(layout, started.hidden))

    def _compute(self, plan: StepPlan, layout: Layout | None) -> Array | None:
        if layout is None:
            self._prepared = self._rows.prepare(plan, None, 0, self._buffers)
            return None
        size = self._graphs.size_for(layout)
        width = len(layout.rows) if size is None else size[0]
        self._prepared = prepared = self._rows.prepare(plan, layout, width, self._buffers)
        assert prepared is not None
        batch = prepared.batch
        self._digest = digest_of_rows(layout, self._buffers, self.facts.page_size) if self._ops.group.size > 1 else 0
        hidden = self._forward(batch) if size is None else self._graphs.run(size, batch)
        return hidden[: layout.starts[-1]]

    def _on_host(self, states: Array) -> HostArray:
        return to_host([states.float()])[0]

    def _choose(self, logits: Array, rows: RowView) -> Sampled:
        on_device = to_device({"rows": rows.rows.astype(np.int32)}, self._device)["rows"]
        return self._start_choice(logits, rows, on_device).wait(rows)

    def _start_choice(self, logits: Array, rows: RowView, on_device: Array) -> _Choice:
        """Tokens of the rows, which are `on_device` too, where the next forward finds them."""
        chosen, largest = choose(logits, choices_to_device(pack(rows, logits.shape[1]), self._device))
        self._rows.keep(on_device, chosen)
        num_top = np.where(rows["features"] & Feature.LOGPROBS != 0, rows["logprobs"], NO_LOGPROBS)
        asked = {
            count: np.flatnonzero(num_top == count) for count in np.unique(num_top).tolist() if count != NO_LOGPROBS
        }
        on_the_way = [chosen, largest]
        if asked:
            places = to_device({str(count): places for count, places in asked.items()}, self._device)
            for count in asked:
                at = places[str(count)]
                ids = chosen[at].clamp(min=0)  # a row without a token has no entry in the end
                on_the_way += logprobs(logits[at], ids, logits.shape[1] if count < 0 else count)
        return _Choice(Fetched(on_the_way), [places.tolist() for places in asked.values()], chosen)

    def _share(self, ids: Array | None, rows: Array) -> None:
        """Give the tokens `ids` int64 [S] of `rows` to the other ranks' next forwards; they themselves have None."""
        if self._ops.group.size > 1:
            shared = new_array((len(rows),), "int64", self._device).zero_() if ids is None else ids
            self._ops.group.all_reduce("sum", shared)  # to which the others add nothing
            if ids is None:
                self._rows.keep(rows, shared)

    def _sample(self, layout: Layout, hidden: Array) -> dict[int, RowResult]:
        """In rounds. How many there are the first rank alone knows."""
        results = super()._sample(layout, hidden)
        rows = np.array([one.row for one in layout.work if one.num_samples], dtype=np.int64)
        if len(rows) and self._prepared is not None:
            newest = self._buffers["last_id"][rows].astype(np.int64)
            self._share(to_device({"ids": newest}, self._device)["ids"] if self._leads else None, self._prepared.rows)
        return results

    def _prompt_logprobs(
        self, before: Array | None, own: Array, next_ids: HostArray, num_top: int
    ) -> list[TokenLogprobs] | None:
        hidden, entries = own[:-1] if before is None else joined(before, own[:-1]), list[TokenLogprobs]()
        usable = True
        step = max(1, SLICE_LOGITS // self.facts.vocab_size)
        for first in range(0, len(next_ids), step):
            # Every rank asks for every slice, whatever is in it: the head is computed by all of them together.
            logits = self._decoder.logits(hidden[first : first + step])
            if logits is None or not usable:
                usable = False
                continue
            chosen = to_device({"ids": next_ids[first : first + step]}, self._device)["ids"]
            largest, _ = argmax(logits)
            found = logprobs(logits, chosen, logits.shape[1] if num_top < 0 else num_top)
            best, *columns = to_host([largest, *found])
            usable = bool(np.isfinite(best).all())
            entries += _entries(columns)
        return entries if usable else None


def _proposes(layout: Layout) -> bool:
    return any(one.generates and one.token_ids for one in layout.work)


def _entries(found: Sequence[HostArray]) -> list[TokenLogprobs]:
    columns = zip(*(array.tolist() for array in found), strict=True)
    return [TokenLogprobs(ids, values, ranks) for ids, values, ranks in columns]
