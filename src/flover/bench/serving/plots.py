"""PNG plots of serving benchmarks, with matplotlib (extra `bench`)."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flover.bench.metrics import RequestRecord
from flover.errors import ConfigError

SLOW_GAPS = ((50.0, "tab:red"), (25.0, "tab:orange"), (0.0, "tab:green"))
"""Colours by minimum gap in milliseconds."""


def need_matplotlib(flag: str) -> None:
    """Raise `ConfigError` if matplotlib is missing; called before measuring."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError(f"{flag} needs matplotlib: pip install 'flover[bench]'")


def new_figure(rows: int, columns: int, width: float, height: float) -> tuple[Any, Any]:
    """An empty figure of `rows` x `columns` axes, sizes in inches, without a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def plot_timeline(records: Sequence[RequestRecord], path: Path, title: str) -> None:
    """A line for each request over time: grey until its first token, then coloured by the length of gaps."""
    done = sorted((record for record in records if record.ok), key=lambda record: record.sent)
    figure, axes = new_figure(1, 1, 12, min(40.0, 2 + 0.12 * len(done)))
    lanes, start = axes[0][0], min((record.sent for record in done), default=0.0)
    for place, record in enumerate(done):
        lanes.broken_barh([(record.sent - start, record.ttft)], (place, 0.8), facecolors="lightgrey")
        spans = [(tick - start, gap) for tick, gap in zip(record.ticks, record.gaps, strict=False)]
        lanes.broken_barh(spans, (place, 0.8), facecolors=[_colour(gap) for _, gap in spans])
    lanes.set(title=title, xlabel="seconds", ylabel="request", ylim=(-0.2, max(1, len(done))))
    lanes.invert_yaxis()
    names = ("to the first token", *(f"gaps from {limit:g} ms" for limit, _ in reversed(SLOW_GAPS)))
    colours = ("lightgrey", *(colour for _, colour in reversed(SLOW_GAPS)))
    for name, colour in zip(names, colours, strict=True):
        lanes.plot([], [], color=colour, linewidth=6, label=name)
    lanes.legend(loc="upper right")
    figure.savefig(path, dpi=100)


def _colour(gap: float) -> str:
    return next(colour for limit, colour in SLOW_GAPS if 1e3 * gap >= limit)
