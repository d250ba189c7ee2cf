"""A `Runner` on engine processes, as a server has them but without HTTP; requests are submitted at their times.

Engines are kept for following runs under the same strategy, so a model is loaded once per strategy.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import time
from collections.abc import Callable, Sequence
from types import TracebackType

from flover.bench.metrics import RequestRecord
from flover.bench.workload import Job
from flover.config import EngineConfig, one_engine
from flover.engine.stats import EngineStats
from flover.errors import EngineError
from flover.memory.machine import compute_threads, usable_cores
from flover.request import GREEDY, FinishReason, Request, SamplingParams
from flover.service.client import EngineClient
from flover.service.listener import EngineListener
from flover_benchmarks.paper.outcome import BatchingStrategy, Moment, Outcome

OnLoading = Callable[[str], None]
WARM_UP = (Job(0.0, tuple(range(16, 24)), 16, 0),)
"""The warm-up of a new engine."""


def engine_config(config: EngineConfig, strategy: BatchingStrategy, cores: int) -> EngineConfig:
    """The configuration of one engine of a strategy. Concurrent instances divide the cores, for the strongest
    baseline."""
    name = "serial" if strategy.name == "concurrent" else strategy.name
    return dataclasses.replace(
        config,
        strategy=name,
        reorder=strategy.reorder,
        batch_window_ms=strategy.window_ms,
        num_threads=compute_threads(config.num_threads, strategy.instances * strategy.ranks, cores),
        tensor_parallel_size=max(strategy.ranks, config.tensor_parallel_size),
        enable_prefix_caching=False,
    )


class ProcessRunner:
    """A `Runner` on this machine. Use as a context manager, from one thread."""

    def __init__(self, config: EngineConfig, on_loading: OnLoading = lambda label: None) -> None:
        one_engine(config)
        self._config = config
        self._on_loading = on_loading
        self._strategy: BatchingStrategy | None = None
        self._engines: list[EngineClient] = []
        self._numbers = itertools.count()
        self._workload: _Workload | None = None

    def __enter__(self) -> ProcessRunner:
        self._asyncio = asyncio.Runner()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._asyncio.run(self._close())
        self._asyncio.close()

    def run(self, jobs: Sequence[Job], strategy: BatchingStrategy) -> Outcome:
        """Run one workload. Raises `EngineError` if a request fails."""
        return self._asyncio.run(self._run(jobs, strategy))

    async def _run(self, jobs: Sequence[Job], strategy: BatchingStrategy) -> Outcome:
        if strategy != self._strategy:
            await self._close()
            self._on_loading(strategy.label)
            cores = usable_cores()
            self._strategy = strategy
            for _ in range(strategy.instances):
                listener = EngineListener(on_stats=self._on_stats)
                engine = await EngineClient.start(engine_config(self._config, strategy, cores), listener)
                self._engines.append(engine)
                await _Workload([engine], self._numbers).run(WARM_UP)
        self._workload = _Workload(self._engines, self._numbers)
        return await self._workload.run(jobs)

    def _on_stats(self, stats: EngineStats) -> None:
        if self._workload is not None:
            self._workload.note()

    async def _close(self) -> None:
        engines, self._engines, self._strategy = self._engines, [], None
        for engine in engines:
            await engine.close()


class _Workload:
    """One workload on running engines. With several of them, a request goes to an idle one."""

    def __init__(self, engines: Sequence[EngineClient], numbers: itertools.count[int]) -> None:
        self._engines = engines
        self._numbers = numbers
        self._moments: list[Moment] = []
        self._start = 0.0

    async def run(self, jobs: Sequence[Job]) -> Outcome:
        free: asyncio.Queue[EngineClient] = asyncio.Queue()
        for engine in self._engines:
            free.put_nowait(engine)
        before = [engine.stats for engine in self._engines]
        self._start = time.perf_counter()
        records = await asyncio.gather(*(self._one(job, free) for job in jobs))
        after = [engine.stats for engine in self._engines]
        return Outcome(
            records=records,
            iterations=_grown(before, after, lambda stats: stats.iterations),
            row_moves=_grown(before, after, lambda stats: stats.row_moves),
            moments=self._moments,
        )

    def note(self) -> None:
        """Record the state of all engines."""
        at = time.perf_counter() - self._start
        pages = sum(engine.stats.pages_used for engine in self._engines)
        self._moments.append(Moment(at, pages, sum(engine.stats.generating for engine in self._engines)))

    async def _one(self, job: Job, free: asyncio.Queue[EngineClient]) -> RequestRecord:
        await asyncio.sleep(self._start + job.at - time.perf_counter())
        record = RequestRecord(sent=time.perf_counter(), prompt_tokens=len(job.prompt_ids))
        if len(self._engines) == 1:
            await self._follow(self._engines[0], job, record)
        else:
            engine = await free.get()
            await self._follow(engine, job, record)
            free.put_nowait(engine)
        return record

    async def _follow(self, engine: EngineClient, job: Job, record: RequestRecord) -> None:
        async for delta in engine.submit(as_request(job, f"job-{next(self._numbers)}")):
            if delta.finish_reason not in (None, FinishReason.LENGTH):
                raise EngineError(f"a request of the workload ended with {delta.finish_reason}: {delta.error}")
            record.end = time.perf_counter()
            record.output_tokens += len(delta.token_ids)
            if delta.token_ids:
                record.ticks.append(record.end)


def as_request(job: Job, name: str) -> Request:
    """The engine request of a job, with end-of-sequence ignored."""
    chosen = GREEDY if job.samples == 1 else {}
    params = SamplingParams(max_tokens=job.output_len, ignore_eos=True, n=job.samples, **chosen)
    return Request(id=name, prompt_ids=list(job.prompt_ids), params=params, seed=job.seed)


def _grown(before: Sequence[EngineStats], after: Sequence[EngineStats], counter: Callable[[EngineStats], int]) -> int:
    return sum(counter(late) - counter(early) for early, late in zip(before, after, strict=True))
