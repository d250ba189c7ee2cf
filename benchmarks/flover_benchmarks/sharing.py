"""The overhead of tensor parallelism: one iteration on one rank and on several, with collectives and frames.

All ranks share the cores of this machine, so N ranks have no more arithmetic than one, and the difference is overhead.
ARCHITECTURE.md has the formula for ranks on machines of their own.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.table import Table

from flover.bench.workload import TOKEN_IDS, fixed, fixed_arrivals, random_jobs
from flover.config import EngineConfig
from flover.engine.executor import Executor
from flover.engine.loop import Engine
from flover.parallel.ranks import Leader
from flover.service.build import load_executor, scheduler_config
from flover_benchmarks.paper.processes import as_request

PROMPT_LEN = 16
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Shared:
    """Means of an iteration with `rows` generating rows; seconds and bytes of rank 0. `alone` is the iteration on
    one rank with all cores."""

    rows: int
    alone: float
    seconds: float
    calls: float
    bytes: float
    collective_seconds: float
    frame_bytes: float
    frame_seconds: float

    @property
    def model(self) -> float:
        """The sum of the parts in seconds: arithmetic, collectives, frames."""
        return self.alone + self.collective_seconds + self.frame_seconds


@dataclass(slots=True)
class _Counts:
    calls: int = 0
    bytes: int = 0
    collective_seconds: float = 0.0
    frame_bytes: int = 0
    frame_seconds: float = 0.0

    @classmethod
    def of(cls, executor: Executor) -> _Counts:
        if not isinstance(executor, Leader):
            return cls()
        group = executor.group
        return cls(group.calls, group.num_bytes, group.seconds, executor.frame_bytes, executor.frame_seconds)


def measure_sharing(config: EngineConfig, rows: Sequence[int], steps: int, progress: Progress) -> list[Shared]:
    """One `Shared` for each number of rows, `config.tensor_parallel_size` ranks. Raises what loading raises."""
    several = dataclasses.replace(config, max_num_seqs=max(config.max_num_seqs, *rows), target_itl_ms=0.0)
    one = dataclasses.replace(several, tensor_parallel_size=1)
    total = 2 * len(rows)
    alone = _iterations(one, rows, steps, lambda done: progress(done, total))
    shared = _iterations(several, rows, steps, lambda done: progress(len(rows) + done, total))
    return [
        Shared(
            rows=count,
            alone=before[0],
            seconds=seconds,
            calls=counts.calls / steps,
            bytes=counts.bytes / steps,
            collective_seconds=counts.collective_seconds / steps,
            frame_bytes=counts.frame_bytes / steps,
            frame_seconds=counts.frame_seconds / steps,
        )
        for count, before, (seconds, counts) in zip(rows, alone, shared, strict=True)
    ]


def _iterations(
    config: EngineConfig, rows: Sequence[int], steps: int, done: Callable[[int], None]
) -> list[tuple[float, _Counts]]:
    """The mean iteration and the counters, for each number of rows."""
    executor = load_executor(config, lambda part, whole: None)
    engine = Engine(executor, scheduler_config(config, executor.facts), time.perf_counter)
    found = []
    try:
        for number, count in enumerate(rows):
            done(number)
            jobs = random_jobs(number, fixed_arrivals(count, 0.0), fixed(PROMPT_LEN), fixed(2 * steps), TOKEN_IDS)
            for index, job in enumerate(jobs):
                engine.submit(as_request(job, f"{number}-{index}"))
            while engine.stats().generating < count:
                engine.step()
            found.append(_measure(engine, executor, steps))
            for index in range(count):
                engine.cancel(f"{number}-{index}")
            engine.step()
        done(len(rows))
    finally:
        engine.close()
    return found


def _measure(engine: Engine, executor: Executor, steps: int) -> tuple[float, _Counts]:
    before, took = _Counts.of(executor), []
    for _ in range(steps):
        began = time.perf_counter()
        engine.step()
        took.append(time.perf_counter() - began)
    after = _Counts.of(executor)
    grown = {name: getattr(after, name) - getattr(before, name) for name in _Counts.__slots__}
    return statistics.fmean(took), _Counts(**grown)


def sharing_table(title: str, results: Sequence[Shared]) -> Table:
    """A row for each number of rows."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for name in (
        *("rows", "one rank, ms", "shared, ms", "collectives", "KiB", "ms", "frame, bytes", "frame, us"),
        "parts / measured",
    ):
        table.add_column(name, justify="right")
    for result in results:
        table.add_row(
            str(result.rows),
            f"{1e3 * result.alone:.2f}",
            f"{1e3 * result.seconds:.2f}",
            f"{result.calls:.0f}",
            f"{result.bytes / 1024:.1f}",
            f"{1e3 * result.collective_seconds:.2f}",
            f"{result.frame_bytes:.0f}",
            f"{1e6 * result.frame_seconds:.0f}",
            f"{result.model / result.seconds:.2f}",
        )
    return table
