"""E7: reordering under tensor parallelism, compared with one rank on this machine."""

from __future__ import annotations

from collections.abc import Sequence

from flover.bench.workload import Lengths, fixed_arrivals
from flover_benchmarks.paper import published
from flover_benchmarks.paper.bench import FUSION, Bench, Result, Table, number, times
from flover_benchmarks.paper.outcome import BatchingStrategy

Case = tuple[int, int, int]
"""Ranks, longest length in the paper, requests."""
FULL_CASES: tuple[Case, ...] = ((2, 1000, 16), (2, 1000, 32), (4, 2400, 16))
QUICK_CASES: tuple[Case, ...] = ((2, 1000, 16),)


def tensor_parallel(bench: Bench, cases: Sequence[Case]) -> Result:
    """Requests nearly at once, with the paper's lengths, with and without reordering, and on one rank."""
    least = max(1, bench.scale.output_len * published.E6_LEAST_LEN // published.E6_OUTPUT_LEN)
    rows, seconds = [], []
    for ranks, longest, num in cases:
        arrivals = fixed_arrivals(num, published.E7_GAP_SHARE * bench.lone)
        most = least * longest // published.E7_LEAST_LEN
        jobs = bench.jobs(arrivals, Lengths(least, most))
        what = f"E7, {num} requests, lengths to {most}"
        reordered = bench.run(jobs, BatchingStrategy("fusion", ranks=ranks), what)
        plain = bench.run(jobs, BatchingStrategy("fusion", ranks=ranks, reorder=False), what)
        alone = bench.run(jobs, FUSION, what)
        without, with_it = published.E7_SECONDS[ranks, longest, num]
        rows.append(
            (
                str(ranks),
                str(num),
                f"{least}..{most}",
                number(reordered.seconds),
                number(plain.seconds),
                times(plain.seconds / reordered.seconds),
                times(without / with_it),
                number(alone.seconds),
            )
        )
        seconds.append({"ranks": ranks, "requests": num, "fusion": reordered.seconds, "no_reorder": plain.seconds})
    header = ("ranks", "N", "lengths", "fusion, s", "no reordering, s", "gain", "paper", "fusion on one rank, s")
    title = f"E7: tensor parallel, {bench.model}"
    return Result(
        "E7",
        title,
        (Table("Overall latency, and the gain by reordering", header, tuple(rows)),),
        facts={"cases": seconds},
    )
