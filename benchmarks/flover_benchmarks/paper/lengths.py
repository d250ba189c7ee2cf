"""Experiments on mixed lengths: E5 in a burst, E6 at an interval, and memory over time."""

from __future__ import annotations

from collections.abc import Mapping

from flover.bench.workload import Lengths, fixed_arrivals
from flover_benchmarks.paper import published
from flover_benchmarks.paper.bench import (
    FUSION,
    NO_REORDER,
    PROMPT_LEN,
    SERIAL,
    STATIC,
    Bench,
    Figure,
    Result,
    Table,
    number,
    times,
)
from flover_benchmarks.paper.outcome import Outcome

STRATEGIES = (FUSION, NO_REORDER, STATIC, SERIAL)


def burst(bench: Bench) -> Result:
    """E5: requests nearly at once, with lengths between a minimum and 2 to 6 times it."""
    return _spread(bench, "E5", "in a burst", published.E5_GAP_SHARE, published.E5_SPREADS)


def interval(bench: Bench) -> Result:
    """E6: requests at an interval of 0.05 lone times, with lengths up to 16 times the minimum."""
    return _spread(bench, "E6", "at an interval", published.E6_GAP_SHARE, published.E6_SPREADS)


def _spread(bench: Bench, name: str, how: str, gap_share: float, paper: Mapping[int, tuple[float, float]]) -> Result:
    num, lone = max(bench.scale.nums), bench.lone
    least = max(1, bench.scale.output_len * published.E6_LEAST_LEN // published.E6_OUTPUT_LEN)
    arrivals = fixed_arrivals(num, gap_share * lone)
    workloads = {spread: bench.jobs(arrivals, Lengths(least, spread * least)) for spread in paper}
    outcomes = {
        strategy: {
            spread: bench.run(jobs, strategy, f"{name}, lengths to {spread}x") for spread, jobs in workloads.items()
        }
        for strategy in STRATEGIES
    }
    gains = {spread: outcomes[NO_REORDER][spread].seconds / outcomes[FUSION][spread].seconds for spread in paper}
    rows = tuple(
        (
            f"{least}..{spread * least}",
            *(number(outcomes[strategy][spread].seconds) for strategy in STRATEGIES),
            times(gains[spread]),
            times(printed[1]),
            times(outcomes[STATIC][spread].seconds / outcomes[FUSION][spread].seconds),
            times(outcomes[SERIAL][spread].seconds / outcomes[FUSION][spread].seconds),
            times(printed[0]),
        )
        for spread, printed in paper.items()
    )
    header = (
        "lengths",
        *(f"{strategy.label}, s" for strategy in STRATEGIES),
        "gain",
        "paper",
        "over static",
        "over serial",
        "paper",
    )
    x = tuple(float(spread) for spread in paper)
    figure = Figure(
        f"{name.lower()}-reordering",
        f"{bench.model}: {num} requests {how}",
        "longest length / least length",
        "gain by reordering",
        (("measured", x, tuple(gains.values())), ("paper", x, tuple(printed[1] for printed in paper.values()))),
    )
    widest = max(paper)
    return Result(
        name,
        f"{name}: spread of lengths {how}, {bench.model}, {num} requests",
        (Table("Overall latency, and the gain by reordering", header, rows),),
        (figure, memory_figure(name, bench, outcomes[FUSION][widest], num, PROMPT_LEN + widest * least)),
        facts={
            "seconds": {strategy.label: [o.seconds for o in outcomes[strategy].values()] for strategy in STRATEGIES},
            "gain": list(gains.values()),
            "row_moves": [outcome.row_moves for outcome in outcomes[FUSION].values()],
        },
    )


def memory_figure(name: str, bench: Bench, outcome: Outcome, num: int, longest: int) -> Figure:
    """Pages in use over time, and the constant memory of worst-case slots (the paper's release)."""
    slots = num * -(-longest // bench.page_size)
    at = tuple(moment.at for moment in outcome.moments)
    return Figure(
        f"{name.lower()}-memory",
        f"{bench.model}: memory of keys and values, {num} requests",
        "seconds",
        f"pages of {bench.page_size} tokens",
        (
            ("fusion: pages in use", at, tuple(float(moment.pages) for moment in outcome.moments)),
            ("a slot of the longest length for each request", (0.0, outcome.seconds), (float(slots), float(slots))),
        ),
        steps=True,
    )
