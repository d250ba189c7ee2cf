"""E8: latency and memory compared with other engines, in a burst and at an interval, with equal and mixed lengths.

The paper's release compares with TensorRT-LLM's in-flight batching; here it is the installed engines.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from flover.bench.client import Client
from flover.bench.fusion import as_send, check_all_served
from flover.bench.metrics import summarise
from flover.bench.serving.memory import children, peak_memory
from flover.bench.workload import Job, Lengths, fixed, fixed_arrivals, random_jobs
from flover.errors import EngineError, FloverError
from flover_benchmarks.paper.bench import PROMPT_LEN, Progress, Result, Table, number, times
from flover_benchmarks.rivals.engines import MODEL_NAME, Contender
from flover_benchmarks.rivals.options import FLOVER, RivalLoad
from flover_benchmarks.rivals.run import LOWEST_ID, ServerPool, in_turn

GAP_SHARES = (0.0, 0.1 / 5.6, 0.5 / 5.6)
"""Intervals of 0, 100 and 500 ms as shares of a lone request's time, GPT-J's."""
NUMS = (32, 64)
MIB = 2**20
PRINTED = {
    # (fixed length, number, interval): TensorRT-LLM and Flover, seconds
    (True, 32, 0): (10.8, 7.8),
    (True, 64, 0): (15.4, 9.3),
    (True, 32, 1): (10.5, 10.3),
    (True, 64, 1): (18.5, 13.9),
    (True, 32, 2): (21.5, 22.2),
    (True, 64, 2): (37.6, 38.1),
    (False, 32, 0): (6.8, 7.1),
    (False, 64, 0): (12.0, 8.7),
    (False, 32, 1): (9.1, 9.3),
    (False, 64, 1): (13.3, 13.3),
    (False, 32, 2): (20.4, 20.9),
    (False, 64, 2): (35.7, 37.2),
}
"""Values of the release's charts."""


@dataclass(frozen=True, slots=True)
class Case:
    """One workload: requests of one length, or of lengths down to a quarter of it, at one of the intervals."""

    is_fixed: bool
    num: int
    interval: int

    @property
    def label(self) -> str:
        return "one length" if self.is_fixed else "many lengths"


def cases(nums: Sequence[int]) -> list[Case]:
    """All workloads for these numbers of requests."""
    return [Case(fix, num, gap) for fix in (True, False) for gap in range(len(GAP_SHARES)) for num in nums]


def jobs_of(case: Case, lone: float, output_len: int, ids: tuple[int, int], seed: int) -> list[Job]:
    """The requests of a case; `lone` is the time that one takes alone, in seconds."""
    lengths = fixed(output_len) if case.is_fixed else Lengths(max(1, output_len // 4), output_len)
    arrivals = fixed_arrivals(case.num, GAP_SHARES[case.interval] * lone)
    return random_jobs(seed, arrivals, fixed(PROMPT_LEN), lengths, ids)


def other_engines(
    contenders: Sequence[Contender], kind: str, nums: Sequence[int], output_len: int, vocab_size: int, say: Progress
) -> Result:
    """E8. An engine that fails is named in the remarks and left out."""
    ids = (min(LOWEST_ID, vocab_size // 2), vocab_size - 1)
    load = RivalLoad(max(nums), PROMPT_LEN, output_len)
    by_name = {contender.name: contender for contender in contenders}
    seconds: dict[tuple[Case, str], float] = {}
    memory: dict[str, int] = {}
    remarks: list[str] = []
    with ServerPool(patience=600.0) as fleet:
        urls: dict[str, str] = {}
        for name, contender in by_name.items():
            say(f"E8: {name} is starting")
            try:
                contender.prepare(kind, lambda what, done, total: say(f"{what} ({done}/{total})"))
                urls[name] = fleet.server(name, contender.command(kind, load))[0].url
                _run(urls[name], jobs_of(Case(True, 1, 0), 0.0, 8, ids, 1 << 20))
            except (FloverError, OSError) as error:
                remarks.append(f"{name} was left out: {error}")
                urls.pop(name, None)
        if FLOVER not in urls:
            raise EngineError(" ".join(remarks))
        lone = min(_run(urls[FLOVER], jobs_of(Case(True, 1, 0), 0.0, output_len, ids, s)) for s in (1 << 21, 1 << 22))
        for index, case in enumerate(cases(nums)):
            for name in in_turn(list(urls), index):
                say(f"E8, {case.num} requests of {case.label}: {name}")
                seconds[case, name] = _run(urls[name], jobs_of(case, lone, output_len, ids, index))
        for name in urls:
            pid = fleet.server(name, by_name[name].command(kind, load))[0].pid
            memory[name] = sum(peak_memory(process) for process in (pid, *children(pid)))
    names = list(urls)
    rows = [_row(case, names, seconds) for case in cases(nums)]
    peak = tuple((name, f"{memory[name] / MIB:,.0f} MiB") for name in names)
    gaps = " / ".join(f"{share * lone:.2g}" for share in GAP_SHARES)
    header = (
        "lengths",
        "interval",
        "N",
        *(f"{name}, s" for name in names),
        "best other / flover",
        "paper: TensorRT-LLM",
    )
    return Result(
        "E8",
        f"E8: other engines, {kind}, {output_len} tokens, intervals {gaps} s",
        (Table("Overall latency", header, tuple(rows)), Table("Peak memory of the server", ("engine", "peak"), peak)),
        remarks=tuple(remarks),
        facts={
            "kind": kind,
            "lone_s": lone,
            "seconds": {name: [seconds[case, name] for case in cases(nums)] for name in names},
            "peak_bytes": memory,
        },
    )


def _row(case: Case, names: Sequence[str], seconds: dict[tuple[Case, str], float]) -> tuple[str, ...]:
    others = [seconds[case, name] for name in names if name != FLOVER]
    ratio = times(min(others) / seconds[case, FLOVER]) if others else "-"
    printed = PRINTED.get((case.is_fixed, case.num, case.interval))
    paper = times(printed[0] / printed[1]) if printed else "-"
    gap = f"{GAP_SHARES[case.interval]:.3f} lone times"
    return (case.label, gap, str(case.num), *(number(seconds[case, name]) for name in names), ratio, paper)


def _run(url: str, jobs: Sequence[Job]) -> float:
    """Seconds from the first request to the last token. Raises `EngineError` if one fails."""

    async def measured() -> float:
        sends = [as_send(job, MODEL_NAME) for job in jobs]
        async with Client(url) as client:
            records = await client.all_at_their_time(sends)
        check_all_served(records, sends)
        return summarise(records).duration

    return asyncio.run(measured())
