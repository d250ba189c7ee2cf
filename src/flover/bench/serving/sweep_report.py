"""The table, the plot and the facts of `bench sweep`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from flover.bench.report import milliseconds
from flover.bench.serving.plots import new_figure
from flover.bench.serving.sweep import Point, combinations, knee

TAIL = 99.0
"""The percentile that table and plot show."""


def sweep_table(title: str, points: Sequence[Point], attainment: float) -> Table:
    """A line for each point; a star marks the knee of each combination."""
    caption = f"* the knee: up to this rate {100 * attainment:g} % of the requests are good"
    table = Table(title=title, title_justify="left", title_style="bold", caption=caption, caption_justify="left")
    for heading in ("", "rate", "req/s", "good/s", "good", "tok/s", "TTFT", "TPOT", "failed"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=bool(heading))
    for name, some in combinations(points).items():
        best = knee(some, attainment)
        for place, point in enumerate(some):
            table.add_row(
                name if place == 0 else "",
                *_cells(point, best),
                style="bold" if point is best else None,
                end_section=place == len(some) - 1,
            )
    return table


def _cells(point: Point, best: Point | None) -> list[str]:
    figures = point.figures
    tails = (figures.metrics[metric].percentiles[TAIL] for metric in ("ttft", "tpot"))
    return [
        f"{point.rate:g}" + (" *" if point is best else ""),
        f"{figures.request_throughput:.2f}",
        f"{figures.goodput:.2f}",
        f"{100 * figures.attainment:.0f} %",
        f"{figures.output_throughput:,.0f}",
        *(milliseconds(tail) for tail in tails),
        str(figures.failed),
    ]


def knee_lines(points: Sequence[Point], attainment: float) -> list[str]:
    """A sentence for each combination."""
    lines = []
    for name, some in combinations(points).items():
        best = knee(some, attainment)
        if best is None:
            result = f"even {some[0].rate:g} requests per second are too many"
        else:
            beyond = [point.rate for point in some if best.rate < point.rate < math.inf]
            result = f"{best.rate:g} requests per second" + (f", fewer than {beyond[0]:g}" if beyond else " or more")
        lines.append(f"goodput knee ({100 * attainment:g} % of the requests good), {name}: {result}")
    return lines


def knee_facts(points: Sequence[Point], attainment: float) -> dict[str, float | None]:
    """The knee's rate by combination, null where there is none."""
    found = {name: knee(some, attainment) for name, some in combinations(points).items()}
    return {name: None if best is None else best.rate for name, best in found.items()}


def plot_sweep(points: Sequence[Point], attainment: float, limits: str, path: Path) -> None:
    """Three panels: goodput over the rate, with the knee; p99 of TTFT and of TPOT over the throughput."""
    figure, axes = new_figure(1, 3, 15, 4.5)
    goodput, ttft, tpot = axes[0]
    for name, some in combinations(points).items():
        paced = [point for point in some if not math.isinf(point.rate)]
        (line,) = goodput.plot(
            [point.rate for point in paced], [point.figures.goodput for point in paced], "o-", label=name
        )
        if best := knee(some, attainment):
            goodput.axvline(best.rate, color=line.get_color(), linestyle=":")
        rates = [point.figures.output_throughput for point in some]
        for axis, metric in ((ttft, "ttft"), (tpot, "tpot")):
            tails = [point.figures.metrics[metric].percentiles[TAIL] for point in some]
            axis.plot(rates, tails, "o-", color=line.get_color(), label=name)
    ends = [point.rate for point in points if not math.isinf(point.rate)]
    goodput.plot([0, max(ends, default=1)], [0, max(ends, default=1)], color="lightgrey", label="all good")
    goodput.set(xlabel="requests per second", ylabel="good requests per second", title=f"goodput: {limits}")
    ttft.set(xlabel="output tokens per second", ylabel="ms", title="p99 time to first token", yscale="log")
    tpot.set(xlabel="output tokens per second", ylabel="ms", title="p99 time per output token")
    goodput.legend()
    figure.savefig(path, dpi=100)
