"""Runs the probes through an engine under the arrangement of a cell, and makes sure that the arrangement was real.

It steers from outside, between iterations: it submits and cancels, takes rows away, and sets the cap on tokens so that
prompts join in chunks of the size that is wanted.
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
from flover.selftest.probes import Answer, answer_of, make_companion
from flover.service.build import build_engine

_PREEMPT_AFTER = (1, 2)
"""Output tokens after which a probe is thrown out, besides once after the first chunk of a prompt that has several."""
_MOST_ITERATIONS = 10_000


@contextmanager
def open_engine(config: EngineConfig, cell: Cell, rows: int) -> Iterator[Engine]:
    """An engine for all cells with the instruction set, threads and page size of this one."""
    isa, threads, page_size = cell.engine
    chosen = dataclasses.replace(
        config,
        cpu_isa=isa,
        num_threads=threads,
        block_size=page_size,
        max_num_seqs=rows,
        max_num_batched_tokens=max(2048, rows),
        target_itl_ms=0.0,
        skip_tokenizer_init=True,
    )
    engine = build_engine(chosen, lambda done, total: None)
    try:
        yield engine
    finally:
        engine.close()


def run_cell(engine: Engine, cell: Cell, probes: list[Request]) -> dict[str, Answer]:
    """The probes' answers by name: each in its turn beside `batch - 1` others.

    Raises `InvariantError` if the engine did not do what the cell says.
    """
    engine.reset_prefix_cache()
    if cell.warm:
        quiet = dataclasses.replace(cell, batch=1, chunk=0, warm=False, preempted=False)
        _Arrangement(engine, quiet).run(probes)
    return _Arrangement(engine, cell).run(probes)


class _Arrangement:
    """One crowd: the company is generating when a probe comes, and leaves when all probes are done."""

    def __init__(self, engine: Engine, cell: Cell) -> None:
        self._engine = engine
        self._cell = cell
        self._config = engine.roster.config
        self._deltas: dict[str, list[Delta]] = defaultdict(list)
        self._company: set[str] = set()
        self._probe: Request | None = None
        self._preempted_at: set[int] = set()
        self._widest = 0
        self._iterations = 0

    def run(self, probes: list[Request]) -> dict[str, Answer]:
        """Let it happen. Raises `InvariantError` if it did not happen as the cell says."""
        try:
            while not self._settled:
                self._invite()
                self._step()
            return {probe.id: self._answer(probe) for probe in probes}
        finally:
            self._dismiss()

    def _answer(self, probe: Request) -> Answer:
        self._probe, self._preempted_at, self._widest = probe, set(), 0
        self._engine.submit(probe)
        while not self._ended(probe.id):
            self._invite()
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
    def _settled(self) -> bool:
        """Everybody who should be here for company generates."""
        running = self._engine.roster.running
        return len(running) == self._cell.batch - 1 and all(member.ready for member in running)

    def _ended(self, name: str) -> bool:
        return any(delta.finish_reason is not None for delta in self._deltas[name])

    def _invite(self) -> None:
        """So much company that with the probe the batch is full; for those who have left others come."""
        here = sum(not self._ended(name) for name in self._company)
        for _ in range(self._cell.batch - 1 - here):
            companion = make_companion(len(self._company), self._engine.facts)
            self._company.add(companion.id)
            self._engine.submit(companion)

    def _preempt(self) -> None:
        """Take the probe's row and pages away at its moments; with a cold prefix, what is in the pages as well."""
        for member in list(self._engine.roster.running):
            if member.request is not self._probe:
                continue
            moment = member.num_outputs
            half_way = 0 < member.computed < member.prompt_len if moment == 0 else moment in _PREEMPT_AFTER
            if half_way and moment not in self._preempted_at:
                self._preempted_at.add(moment)
                self._engine.roster.preempt(member)
                if not self._cell.warm:
                    self._engine.reset_prefix_cache()

    def _limit_chunks(self) -> None:
        """The next iteration has room for everybody who generates and for `chunk` tokens of prompts."""
        generating = sum(member.ready for member in self._engine.roster.running)
        cap = generating + self._cell.chunk
        self._engine.roster.config = dataclasses.replace(self._config, max_num_batched_tokens=cap)

    def _dismiss(self) -> None:
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
