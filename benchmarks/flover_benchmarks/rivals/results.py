"""The comparison of repeated runs: medians, ratios to the best rival, losses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Literal

from rich.table import Table

from flover.bench.metrics import Summary
from flover.bench.report import milliseconds
from flover_benchmarks.rivals.options import FLOVER, RivalLoad

NOISY = 1.25
"""Ratio of an engine's best to its worst run above which the median is marked as noisy."""
Verdict = Literal["", "held", "short", "LOST"]


@dataclass(frozen=True, slots=True)
class Failure:
    """The failure of an engine and its error."""

    name: str
    kind: str
    load: str | None
    """None if its server did not start."""
    message: str


@dataclass(slots=True)
class RivalResults:
    """All measurements; `cells` by format, load and engine, a summary for each seed."""

    names: tuple[str, ...]
    cells: dict[tuple[str, RivalLoad, str], list[Summary]] = field(default_factory=dict)
    forms: dict[tuple[str, str], str] = field(default_factory=dict)
    """An engine's name of a format; by format and engine."""
    ready_s: dict[tuple[str, str], float] = field(default_factory=dict)
    """Seconds until a server was ready; by format and engine, of the last start."""
    failures: list[Failure] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the comparison. `figures`: output tokens per second, or seconds to the first token."""

    kind: str
    load: RivalLoad
    figures: Mapping[str, float]
    wanted: float | None = None
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Minimum and maximum of every engine's runs."""

    @property
    def noisy(self) -> dict[str, tuple[float, float]]:
        """The engines whose runs vary too much, with their ranges."""
        return {name: (least, most) for name, (least, most) in self.ranges.items() if most > NOISY * least}

    @property
    def best(self) -> str | None:
        """The best rival; None if none was measured."""
        rivals = {name: value for name, value in self.figures.items() if name != FLOVER}
        if not rivals:
            return None
        return (min if self.load.first_token else max)(rivals, key=rivals.__getitem__)

    @property
    def ratio(self) -> float:
        """Flover over the best rival: above 1 is better for throughput, below 1 for time; NaN without both."""
        best, own = self.best, self.figures.get(FLOVER)
        return math.nan if best is None or own is None else own / self.figures[best]

    @property
    def verdict(self) -> Verdict:
        """LOST to the best rival, short of the target, or held (met); empty without a comparison."""
        ratio = 1 / self.ratio if self.load.first_token else self.ratio
        if math.isnan(ratio):
            return ""
        if ratio < 1:
            return "LOST"
        if self.wanted is None:
            return ""
        return "held" if ratio >= (1 / self.wanted if self.load.first_token else self.wanted) else "short"


def rows(results: RivalResults, wanted: Mapping[tuple[str, str], float]) -> list[Row]:
    """The rows of the comparison, in the order of measurement."""
    places: dict[tuple[str, RivalLoad], dict[str, list[float]]] = {}
    for (kind, load, name), summaries in results.cells.items():
        if summaries:
            places.setdefault((kind, load), {})[name] = [figure(load, summary) for summary in summaries]
    return [
        Row(
            kind,
            load,
            {name: median(values) for name, values in found.items()},
            wanted.get((kind, load.key)),
            {name: (min(values), max(values)) for name, values in found.items()},
        )
        for (kind, load), found in places.items()
    ]


def figure(load: RivalLoad, summary: Summary) -> float:
    """The compared value of one run."""
    return summary.ttft.p50 / 1e3 if load.first_token else summary.output_throughput


def table(title: str, results: RivalResults, lines: Sequence[Row]) -> Table:
    """A line for each format and load, a column for each engine, then the ratio to the best rival and its target."""
    drawn = Table(title=title, title_justify="left", title_style="bold")
    drawn.add_column("weights", no_wrap=True)
    for name in (*results.names, "to the best"):
        drawn.add_column(name, justify="right", no_wrap=True)
    with_wanted = any(row.wanted is not None for row in lines)
    if with_wanted:
        drawn.add_column("wanted", justify="right")
    drawn.add_column("")
    shown = None
    for row in lines:
        if row.kind != shown:
            drawn.add_section()
            forms = [f"[dim]{results.forms.get((row.kind, name), '')}[/dim]" for name in results.names]
            drawn.add_row(f"[bold]{row.kind}[/bold]", *forms)
            shown = row.kind
        ratio = "" if row.best is None or math.isnan(row.ratio) else f"{row.best} [bold]{row.ratio:.2f}[/bold]"
        wanted = [f"{row.wanted:g}" if row.wanted is not None else ""] if with_wanted else []
        style = {"LOST": "bold red", "short": "yellow"}.get(row.verdict, "")
        verdict = f"[{style}]{row.verdict}[/{style}]" if style else row.verdict
        verdict = f"{verdict} noisy".strip() if row.noisy else verdict
        drawn.add_row(row.load.label, *(_cell(row, name) for name in results.names), ratio, *wanted, verdict)
    return drawn


def _cell(row: Row, name: str) -> str:
    value = row.figures.get(name)
    return "-" if value is None else _figure(row, value)


def _figure(row: Row, value: float) -> str:
    return milliseconds(1e3 * value) if row.load.first_token else f"{value:,.1f}"


def losses(lines: Sequence[Row]) -> list[str]:
    """A sentence for every row that is lost or short of its target."""
    said = []
    for row in lines:
        if row.verdict in ("LOST", "short"):
            aim = f", wanted {row.wanted:g}" if row.wanted is not None else ""
            said.append(f"{row.verdict}: {row.kind}, {row.load.label}: {row.ratio:.2f} of {row.best}{aim}")
    return said


def noise(lines: Sequence[Row]) -> list[str]:
    """A sentence for every row whose runs vary too much."""
    said = []
    for row in lines:
        if row.noisy:
            spans = (
                f"{name} {_figure(row, least)} to {_figure(row, most)}" for name, (least, most) in row.noisy.items()
            )
            said.append(f"noisy, measure again: {row.kind}, {row.load.label}: {', '.join(spans)}")
    return said


def facts(results: RivalResults, lines: Sequence[Row]) -> dict[str, Any]:
    """The results for the JSON line; durations in milliseconds unless a key names another unit."""
    return {
        "rows": [
            {
                "weights": row.kind,
                **asdict(row.load),
                "unit": "s" if row.load.first_token else "tok/s",
                "medians": dict(row.figures),
                "best_rival": row.best,
                "ratio": row.ratio,
                "wanted": row.wanted,
                "verdict": row.verdict,
                "noisy": sorted(row.noisy),
                "engines": {
                    name: _summaries(results.cells[row.kind, row.load, name], results.forms[row.kind, name])
                    for name in row.figures
                },
            }
            for row in lines
        ],
        "ready_s": [
            {"engine": name, "weights": kind, "seconds": seconds} for (kind, name), seconds in results.ready_s.items()
        ],
        "failures": [asdict(failure) for failure in results.failures],
    }


def _summaries(summaries: Sequence[Summary], form: str) -> dict[str, Any]:
    return {
        "form": form,
        "output_tok_s": [summary.output_throughput for summary in summaries],
        "wall_s": [summary.duration for summary in summaries],
        "ttft_ms": [{"p50": summary.ttft.p50, "p99": summary.ttft.p99} for summary in summaries],
        "itl_ms": [{"p50": summary.itl.p50, "p99": summary.itl.p99} for summary in summaries],
        "cached_tokens": [summary.cached_tokens for summary in summaries],
    }
