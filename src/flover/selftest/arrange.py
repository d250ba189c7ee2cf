"""Runs the probes on an engine under the conditions of a cell, and checks that the conditions were met.

Between iterations it submits, cancels and preempts sequences, and sets the cap on tokens so that prompts are computed
in chunks of the cell's size.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from flover.config import EngineConfig
from flover.engine.loop import Engine
from flover.errors import InvariantError
from flover.request import Delta, FinishReason, Request
from flover.selftest.matrix import Cell
from flover.selftest.probes import Answer, answer_of, make_background
from flover.service.build import build_engine

_PREEMPT_AFTER = (1, 2)
"""Output tokens after which a probe is preempted; also once after the first chunk of a prompt with several."""
_MOST_ITERATIONS = 10_000


@contextmanager
def open_engine(config: EngineConfig, cell: Cell, rows: int) -> Iterator[Engine]:
    """An engine for all cells with this cell's instruction set, threads, page size and ranks."""
    isa, threads, page_size, ranks = cell.engine
    chosen = dataclasses.replace(
        config,
        cpu_isa=isa,
        num_threads=threads,
        block_size=page_size,
        tensor_parallel_size=ranks,
        max_num_seqs=rows,
        max_num_batched_tokens=max(2048, rows),
        target_itl_ms=0.0,
        skip_tokenizer_init=True,
        async_scheduling=False,  # a row that is in flight cannot be preempted
    )
    engine = build_engine(chosen, lambda *progress: None)
    try:
        yield engine
    finally:
        engine.close()


def run_cell(engine: Engine, cell: Cell, probes: list[Request]) -> dict[str, Answer]:
    """The probes' outputs by name, each run in a batch with `batch - 1` other requests.

    Raises `InvariantError` if the conditions of the cell were not met.
    """
    engine.reset_prefix_cache()
    if cell.warm:
        quiet = dataclasses.replace(cell, batch=1, chunk=0, warm=False, preempted=False)
        _Arrangement(engine, quiet).run(probes)
    return _Arrangement(engine, cell).run(probes)


class _Arrangement:
    """One batch: the background requests generate before the first probe starts, until the last one has finished."""

    def __init__(self, engine: Engine, cell: Cell) -> None:
        self._engine = engine
        self._cell = cell
        self._config = engine.roster.config
        self._deltas: dict[str, list[Delta]] = defaultdict(list)
        self._background: set[str] = set()
        self._probe: Request | None = None
        self._preempted_at: set[int] = set()
        self._widest = 0
        self._iterations = 0

    def run(self, probes: list[Request]) -> dict[str, Answer]:
        """Run the probes one after another. Raises `InvariantError` if the cell's conditions were not met."""
        try:
            while not self._batch_full:
                self._submit_background()
                self._step()
            return {probe.id: self._answer(probe) for probe in probes}
        finally:
            self._cancel_all()

    def _answer(self, probe: Request) -> Answer:
        self._probe, self._preempted_at, self._widest = probe, set(), 0
        self._engine.submit(probe)
        while not self._ended(probe.id):
            self._submit_background()
            if self._cell.preempted:
                self._preempt()
            if self._cell.chunk:
                self._limit_chunks()
            self._step()
        self._check(probe)
        self._probe = None
        self._engine.roster.config = self._config
        return answer_of(self._deltas[probe.id])

    def _step(self) -> None:
        self._iterations += 1
        if self._iterations > _MOST_ITERATIONS:
            raise InvariantError(f"{self._cell}: not done after {_MOST_ITERATIONS} iterations")
        for delta in self._engine.step():
            self._deltas[delta.request_id].append(delta)
        running = self._engine.roster.running
        if any(member.request is self._probe for member in running):
            self._widest = max(self._widest, len(running))

    @property
    def _batch_full(self) -> bool:
        """Whether all background requests generate."""
        running = self._engine.roster.running
        return len(running) == self._cell.batch - 1 and all(member.ready for member in running)

    def _ended(self, name: str) -> bool:
        return any(delta.finish_reason is not None for delta in self._deltas[name])

    def _submit_background(self) -> None:
        """Submit background requests until the batch is full with the probe, replacing those that have ended."""
        running = sum(not self._ended(name) for name in self._background)
        for _ in range(self._cell.batch - 1 - running):
            request = make_background(len(self._background), self._engine.facts)
            self._background.add(request.id)
            self._engine.submit(request)

    def _preempt(self) -> None:
        """Preempt the probe at set numbers of output tokens; with a cold prefix, empty the prefix cache as well."""
        for member in list(self._engine.roster.running):
            if member.request is not self._probe:
                continue
            outputs = member.num_outputs
            due = 0 < member.computed < member.prompt_len if outputs == 0 else outputs in _PREEMPT_AFTER
            if due and outputs not in self._preempted_at:
                self._preempted_at.add(outputs)
                self._engine.roster.preempt(member)
                if not self._cell.warm:
                    self._engine.reset_prefix_cache()

    def _limit_chunks(self) -> None:
        """Cap the next iteration at one token per generating row and `chunk` tokens of prompts."""
        generating = sum(member.ready for member in self._engine.roster.running)
        cap = generating + self._cell.chunk
        self._engine.roster.config = dataclasses.replace(self._config, max_num_batched_tokens=cap)

    def _cancel_all(self) -> None:
        self._engine.roster.config = self._config
        for member in [*self._engine.roster.running, *self._engine.roster.waiting]:
            self._engine.cancel(member.request.id)
        while self._engine.has_work:
            self._engine.step()

    def _check(self, probe: Request) -> None:
        last = self._deltas[probe.id][-1]
        problem = ""
        if last.finish_reason is not FinishReason.LENGTH:
            problem = f"it ended with {last.finish_reason}: {last.error}"
        elif self._widest != self._cell.batch:
            problem = f"at most {self._widest} sequences ran at once"
        elif self._cell.warm and not last.cached_tokens and len(probe.prompt_ids) > self._cell.page_size:
            problem = "no prefix of it was in the cache"
        elif self._cell.preempted and not self._preempted_at >= set(_PREEMPT_AFTER):
            problem = f"it was preempted after {sorted(self._preempted_at)} output tokens only"
        if problem:
            raise InvariantError(f"{self._cell}: {probe.id}: {problem}")
