"""Experiments on arrivals: E1 fixed interval, E2 progress, E3 Poisson, E4 interval and samples."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from flover.bench.metrics import percentile
from flover.bench.workload import fixed_arrivals
from flover_benchmarks.paper import published
from flover_benchmarks.paper.bench import FUSION, SERIAL, Bench, Figure, Result, Table, number, times
from flover_benchmarks.paper.outcome import BatchingStrategy, Outcome

E1_GAP_SHARE = published.GAP_SHARE["GPT-J"]
E1_WINDOW_SHARE = 0.25
PERCENTILES = (50, 90, 99)
Line = tuple[float, ...]


def fixed_interval(bench: Bench) -> Result:
    """E1: N requests, one every 0.09 lone times."""
    lone, nums = bench.lone, bench.scale.nums
    workloads = {num: bench.jobs(fixed_arrivals(num, E1_GAP_SHARE * lone)) for num in nums}

    def run(strategy: BatchingStrategy, num: int) -> Outcome:
        return bench.run(workloads[num], strategy, f"E1, {num} requests")

    window = bench.dynamic(E1_WINDOW_SHARE * lone)
    fused = {num: run(FUSION, num) for num in nums}
    serial = {num: run(SERIAL, num) for num in nums}
    dynamic = {num: run(window, num) for num in nums}
    concurrent = {num: run(bench.concurrent(num), num) for num in nums}
    paper = dict(zip(published.NUMS, published.E1_SPEEDUP["GPT-J"], strict=True))
    rows = tuple(
        (
            str(num),
            number(fused[num].seconds),
            *(
                f"{number(other[num].seconds)} ({times(other[num].seconds / fused[num].seconds)})"
                for other in (serial, concurrent, dynamic)
            ),
            times(paper[num]) if num in paper else "-",
            f"{number(num * bench.scale.output_len / fused[num].seconds)}",
        )
        for num in nums
    )
    header = ("N", "fusion, s", "serial, s", "concurrent, s", f"{window.label}, s", "paper (GPT-J)", "fusion, tok/s")
    most = max(nums)
    series = {"fusion": fused, "serial": serial, "concurrent": concurrent, "dynamic batching": dynamic}
    seconds = Figure(
        f"e1-seconds-{bench.model}",
        f"{bench.model}: overall latency, one request every {E1_GAP_SHARE:.2f} lone times",
        "requests",
        "seconds",
        tuple((name, tuple(map(float, nums)), tuple(o[num].seconds for num in nums)) for name, o in series.items()),
        log_y=True,
    )
    return Result(
        "E1",
        f"E1: fixed interval, {bench.model}; a lone request takes {lone:.3g} s",
        (Table("Overall latency, first arrival to last token", header, rows), _latency_table(bench, series)),
        (seconds, _latency_figure(bench, {name: runs[most] for name, runs in series.items()})),
        facts={
            "lone_s": lone,
            "interval_s": E1_GAP_SHARE * lone,
            "seconds": {name: {num: runs[num].seconds for num in nums} for name, runs in series.items()},
            "speedup": {
                name: {num: runs[num].seconds / fused[num].seconds for num in nums}
                for name, runs in series.items()
                if name != "fusion"
            },
            "latency_ratio": {num: fused[num].mean_latency / lone for num in nums},
        },
    )


def _latency_table(bench: Bench, series: dict[str, dict[int, Outcome]]) -> Table:
    """Latency of a request relative to a lone one: the mean beside the paper's, and its spread for the largest N."""
    printed = published.E1_LATENCY_RATIO
    rows = []
    for num in bench.scale.nums:
        means = (times(runs[num].mean_latency / bench.lone) for runs in series.values())
        papers = (times(printed[model][num]) if num in printed[model] else "-" for model in printed)
        rows.append((str(num), *means, *papers))
    most = max(bench.scale.nums)
    for q in PERCENTILES:
        spread = (percentile([r.e2el for r in runs[most].records], q) / bench.lone for runs in series.values())
        rows.append((f"{most}, p{q}", *map(times, spread), *("-" for _ in printed)))
    header = ("N", *series, *(f"paper, {model}" for model in printed))
    return Table("Mean latency of a request / lone latency", header, tuple(rows))


def _latency_figure(bench: Bench, outcomes: dict[str, Outcome]) -> Figure:
    series = []
    for name, outcome in outcomes.items():
        values = sorted(record.e2el / bench.lone for record in outcome.records)
        shares = tuple((index + 1) / len(values) for index in range(len(values)))
        series.append((name, tuple(values), shares))
    title = f"{bench.model}: latency of {max(bench.scale.nums)} requests"
    return Figure(
        f"e1-latency-{bench.model}", title, "latency / lone latency", "share of requests", tuple(series), log_x=True
    )


def progress(bench: Bench) -> Result:
    """E2: tokens generated over time, against dynamic batching with four windows."""
    num, lone = max(bench.scale.nums), bench.lone
    gap = published.GAP_SHARE["13B"] * lone
    jobs = bench.jobs(fixed_arrivals(num, gap))
    strategies = [FUSION, *(bench.dynamic(share * lone) for share in published.E2_WINDOW_SHARES), bench.concurrent(num)]
    outcomes = {strategy: bench.run(jobs, strategy, "E2") for strategy in strategies}
    end = outcomes[FUSION].seconds
    rows, series = [], []
    paper = {FUSION: published.E2_FLOVER_END, strategies[4]: published.E2_WINDOW_16_END}
    for strategy, outcome in outcomes.items():
        ticks, shares = made_over_time(outcome)
        done = sum(tick <= end for tick in ticks) / len(ticks)
        early = sum(record.e2el for record in outcome.records[: num // 4]) / max(1, num // 4)
        in_lone = paper[strategy] / published.E2_LONE if strategy in paper else None
        rows.append(
            (
                strategy.label,
                number(outcome.seconds),
                number(outcome.seconds / lone),
                number(in_lone) if in_lone is not None else "-",
                f"{done:.0%}",
                times(early / lone),
            )
        )
        series.append((strategy.label, tuple(ticks), tuple(100 * share for share in shares)))
    header = (
        "strategy",
        "all done, s",
        "in lone times",
        "paper (13B)",
        "done when fusion is",
        "first quarter, latency",
    )
    return Result(
        "E2",
        f"E2: cumulative progress, {bench.model}, {num} requests, one every {gap / lone:.3f} lone times",
        (Table("Progress", header, tuple(rows)),),
        (Figure("e2-progress", "Tokens made", "seconds", "% of all tokens", tuple(series)),),
        facts={"seconds": {strategy.label: outcome.seconds for strategy, outcome in outcomes.items()}},
    )


def made_over_time(outcome: Outcome) -> tuple[list[float], list[float]]:
    """Times of all tokens, in seconds from the first arrival, and the cumulative share of tokens."""
    first = min(record.sent for record in outcome.records)
    ticks = sorted(tick - first for record in outcome.records for tick in record.ticks)
    return ticks, [(index + 1) / len(ticks) for index in range(len(ticks))]


def poisson(bench: Bench) -> Result:
    """E3: Poisson arrivals, the mean gap in units of the lone request's time."""
    num, lone = max(bench.scale.nums), bench.lone
    gaps = bench.scale.gaps or published.E3_GAPS_MS
    shares = {gap: gap / 1e3 / published.E3_LONE for gap in gaps}
    baseline = bench.concurrent(num)

    def run(gap: float, strategy: BatchingStrategy, draw: int = 0) -> Outcome:
        jobs = bench.jobs(bench.poisson(num, shares[gap] * lone, draw))
        return bench.run(jobs, strategy, f"E3, gap {shares[gap]:.3f}")

    fused = {gap: [run(gap, FUSION, draw) for draw in range(bench.scale.draws)] for gap in gaps}
    over_serial = {gap: run(gap, SERIAL).seconds / fused[gap][0].seconds for gap in gaps}
    over_other = {gap: run(gap, baseline).seconds / fused[gap][0].seconds for gap in gaps}
    iterations = {gap: [float(one.iterations) for one in fused[gap]] for gap in gaps}
    # Of all draws together: a mean of quotients would count the lucky draws twice.
    overlap = {gap: sum(one.tokens for one in fused[gap]) / sum(iterations[gap]) for gap in gaps}
    rows = []
    for gap in gaps:
        place = published.E3_GAPS_MS.index(int(gap))
        rows.append(
            (
                f"{shares[gap]:.4f}",
                f"{gap:g} ms",
                *_iteration_cells([one / bench.scale.output_len for one in iterations[gap]], place),
                f"{overlap[gap] / num:.1%}",
                f"{published.E3_OVERLAP[place] / 32:.1%}",
                times(over_serial[gap]),
                times(over_other[gap]),
                times(published.E3_SPEEDUP[place]),
            )
        )
    header = (
        "gap / lone",
        "paper's gap",
        "iterations / length",
        "paper",
        "difference",
        "overlap",
        "paper",
        "over serial",
    )
    table = Table("Overlap and speedup by mean gap", (*header, f"over {baseline.label}", "paper"), tuple(rows))
    x = tuple(shares[gap] for gap in gaps)
    printed = tuple(published.E3_SPEEDUP[published.E3_GAPS_MS.index(int(gap))] for gap in gaps)
    return Result(
        "E3",
        f"E3: Poisson arrivals, {bench.model}, {num} requests",
        (table,),
        (_speedup_figure(bench, x, tuple(over_serial.values()), tuple(over_other.values()), printed),),
        facts={
            "gap_shares": x,
            "iterations": [statistics.fmean(iterations[gap]) for gap in gaps],
            "overlap": list(overlap.values()),
            "speedup_serial": list(over_serial.values()),
            "speedup_concurrent": list(over_other.values()),
        },
    )


def _iteration_cells(lengths: Sequence[float], place: int) -> tuple[str, str, str]:
    """Iterations over the length of a request: mean and spread of some draws, the paper's value, the difference."""
    mean = statistics.fmean(lengths)
    spread = f" (± {statistics.stdev(lengths) / mean:.0%})" if len(lengths) > 1 else ""
    paper = published.E3_ITERATIONS[place] / published.E3_OUTPUT_LEN
    return number(mean) + spread, number(paper), f"{mean / paper - 1:+.0%}"


def _speedup_figure(bench: Bench, x: Line, serial: Line, concurrent: Line, paper: Line) -> Figure:
    series = (("over serial", x, serial), ("over concurrent instances", x, concurrent), ("paper", x, paper))
    title = f"{bench.model}: {max(bench.scale.nums)} requests, Poisson arrivals"
    return Figure("e3-poisson", title, "mean gap / lone time", "speedup of fusion", series, log_x=True)


def samples(bench: Bench) -> Result:
    """E4: three intervals, one to four samples per request, few requests."""
    lone, nums = bench.lone, published.E4_NUMS
    cases = [(place, n) for place in range(len(published.E4_GAP_SHARES)) for n in bench.scale.samples]

    def run(case: tuple[int, int], num: int, strategy: BatchingStrategy) -> Outcome:
        gap = published.E4_GAP_SHARES[case[0]] * lone
        return bench.run(bench.jobs(fixed_arrivals(num, gap), samples=case[1]), strategy, f"E4, {num} requests")

    fused = {(case, num): run(case, num, FUSION) for case in cases for num in nums}
    serial = {(case, num): run(case, num, SERIAL) for case in cases for num in nums}
    rows = []
    for case in cases:
        theirs, flover = published.E4_SECONDS[case]
        cells = []
        for num in nums:
            ours = serial[case, num].seconds / fused[case, num].seconds
            cells.append(f"{ours:.2f} | {theirs[num - 1] / flover[num - 1]:.2f}")
        rows.append((f"{published.E4_GAP_SHARES[case[0]]:.2f}", str(case[1]), *cells))
    header = ("interval / lone time", "samples", *(f"N = {num}" for num in nums))
    return Result(
        "E4",
        f"E4: interval and samples per request, {bench.model}",
        (Table("Serial over fusion, ours | paper's FasterTransformer over Flover", header, tuple(rows)),),
        facts={
            "speedup": {
                f"interval {case[0]}, samples {case[1]}": [
                    serial[case, num].seconds / fused[case, num].seconds for num in nums
                ]
                for case in cases
            }
        },
    )
