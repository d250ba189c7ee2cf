"""The paper's E1 and E6 on one GPU: strategies of the same engine in this process, and engine processes for concurrent
instances. Intervals are in units of the time that one request takes alone, as everywhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from flover.bench.metrics import RequestRecord
from flover.bench.workload import TOKEN_IDS, Job, Lengths, fixed, fixed_arrivals, random_jobs
from flover.engine.loop import Engine
from flover.errors import EngineError
from flover.request import GREEDY, FinishReason, Request, SamplingParams
from flover_benchmarks.gpu.model import OnDevice, on_device
from flover_benchmarks.gpu.parts import PartSpec, Sizes
from flover_benchmarks.paper import published
from flover_benchmarks.paper.arrivals import E1_GAP_SHARE, E1_WINDOW_SHARE
from flover_benchmarks.paper.bench import FUSION, NO_REORDER, PROMPT_LEN, SERIAL
from flover_benchmarks.paper.outcome import BatchingStrategy, Outcome

Emit = Callable[..., None]
Skip = Callable[[str], None]
LONE_RUNS = 3
WARM_UP = (Job(0.0, tuple(range(16, 24)), 2, 0),)
_IDLE = 1e-3
"""Seconds of a wait for the next arrival, at most."""


class EngineRunner:
    """A `Runner` on one engine in this process; requests are submitted at their times."""

    def __init__(self, model: OnDevice) -> None:
        self._model = model

    def run(self, jobs: Sequence[Job], strategy: BatchingStrategy) -> Outcome:
        """Run one workload. Raises `EngineError` if a request fails."""
        engine = self._model.engine(
            strategy=strategy.name, reorder=strategy.reorder, batch_window_ms=strategy.window_ms
        )
        self._run(engine, WARM_UP)  # memory that the last engine left is taken again
        before = engine.stats()
        records = self._run(engine, jobs)
        after = engine.stats()
        return Outcome(records, after.iterations - before.iterations, after.row_moves - before.row_moves, ())

    def _run(self, engine: Engine, jobs: Sequence[Job]) -> list[RequestRecord]:
        start = time.perf_counter()
        records = [RequestRecord(start + job.at, prompt_tokens=len(job.prompt_ids)) for job in jobs]
        waiting = list(range(len(jobs)))
        while waiting or engine.has_work:
            while waiting and time.perf_counter() >= records[waiting[0]].sent:
                engine.submit(as_request(jobs[waiting[0]], str(waiting[0])))
                waiting.pop(0)
            if engine.wait(_IDLE if waiting else 0.1):
                step(engine, records)
        return records


def step(engine: Engine, records: Sequence[RequestRecord]) -> None:
    """One iteration into the records of its requests. Raises `EngineError` if a request fails."""
    for delta in engine.step():
        if delta.finish_reason not in (None, FinishReason.LENGTH):
            raise EngineError(f"a request of the workload ended with {delta.finish_reason}: {delta.error}")
        record = records[int(delta.request_id)]
        record.end = time.perf_counter()
        record.output_tokens += len(delta.token_ids)
        record.ticks.append(record.end)


def as_request(job: Job, name: str) -> Request:
    """The engine's request, greedy, without an end of its own."""
    params = SamplingParams(max_tokens=job.output_len, ignore_eos=True, **GREEDY)
    return Request(id=name, prompt_ids=list(job.prompt_ids), params=params, seed=job.seed)


def jobs_of(sizes: Sizes, gap: float, lengths: Lengths | None = None) -> list[Job]:
    """The paper's requests: 8 prompt tokens, equal lengths or some of a range, one every `gap` seconds."""
    lengths = lengths or fixed(sizes.output_len)
    return random_jobs(0, fixed_arrivals(sizes.num_requests, gap), fixed(PROMPT_LEN), lengths, TOKEN_IDS)


def lone_seconds(runner: EngineRunner, sizes: Sizes) -> float:
    """Seconds of one request alone: the best of a few, after one that is not counted."""
    jobs = jobs_of(sizes, 0.0)[:1]
    runner.run(jobs, FUSION)
    return min(runner.run(jobs, FUSION).seconds for _ in range(LONE_RUNS))


def fixed_interval(spec: PartSpec, left: Callable[[], float], emit: Emit, skip: Skip) -> None:
    """E1 with the most requests: fusion, dynamic batching, one after another."""
    sizes = spec.sizes
    longest = PROMPT_LEN + sizes.output_len + 1
    with on_device(spec.model, spec.device, max_num_seqs=sizes.num_requests, max_model_len=longest) as model:
        runner = EngineRunner(model)
        lone = lone_seconds(runner, sizes)
        emit(lone_s=lone, interval_s=E1_GAP_SHARE * lone, requests=sizes.num_requests, output_len=sizes.output_len)
        jobs = jobs_of(sizes, E1_GAP_SHARE * lone)
        window = BatchingStrategy("dynamic-batching", window_ms=1e3 * E1_WINDOW_SHARE * lone)
        for strategy in (FUSION, window, SERIAL):
            measure(runner, strategy, jobs, lone, sizes, left, emit, skip)


def mixed_lengths(spec: PartSpec, left: Callable[[], float], emit: Emit, skip: Skip) -> None:
    """E6: lengths between a least one and 4 to 16 times as much, with and without reordering, and one after another."""
    sizes = spec.sizes
    least = max(1, sizes.output_len * published.E6_LEAST_LEN // published.E6_OUTPUT_LEN)
    longest = PROMPT_LEN + least * max(sizes.spreads) + 1
    with on_device(spec.model, spec.device, max_num_seqs=sizes.num_requests, max_model_len=longest) as model:
        runner = EngineRunner(model)
        lone = lone_seconds(runner, sizes)
        emit(lone_s=lone, interval_s=published.E6_GAP_SHARE * lone, requests=sizes.num_requests, least_len=least)
        for strategy in (FUSION, NO_REORDER, SERIAL):
            for spread in sizes.spreads:
                jobs = jobs_of(sizes, published.E6_GAP_SHARE * lone, Lengths(least, spread * least))
                measure(runner, strategy, jobs, lone, sizes, left, emit, skip, spread=spread)


def measure(
    runner: EngineRunner,
    strategy: BatchingStrategy,
    jobs: Sequence[Job],
    lone: float,
    sizes: Sizes,
    left: Callable[[], float],
    emit: Emit,
    skip: Skip,
    **facts: object,
) -> None:
    """Emit one run, unless it would take longer than what is left."""
    lens = [job.output_len for job in jobs]
    tokens, arrivals = (sum(lens), 0.0) if strategy is SERIAL else (max(lens), jobs[-1].at)
    expected = arrivals + lone * tokens / sizes.output_len
    what = ", ".join([strategy.label, *(f"{name} {value}" for name, value in facts.items())])
    if expected > left():
        skip(f"{what}: it would take {expected:.0f} s, and {max(0.0, left()):.0f} s were left")
        return
    outcome = runner.run(jobs, strategy)
    emit(
        strategy=strategy.name,
        reorder=strategy.reorder,
        label=strategy.label,
        seconds=outcome.seconds,
        mean_latency_s=outcome.mean_latency,
        iterations=outcome.iterations,
        row_moves=outcome.row_moves,
        **facts,
    )
