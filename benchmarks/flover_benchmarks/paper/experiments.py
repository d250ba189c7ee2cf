"""The experiments by name, and their sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from flover_benchmarks.paper import arrivals, lengths
from flover_benchmarks.paper.bench import Bench, Result, Scale

EXPERIMENTS: Mapping[str, Callable[[Bench], Result]] = {
    "E1": arrivals.fixed_interval,
    "E2": arrivals.progress,
    "E3": arrivals.poisson,
    "E4": arrivals.samples,
    "E5": lengths.burst,
    "E6": lengths.interval,
}
"""Experiments for any runner. E7 needs several processes (`ranks.py`), E8 other engines (`engines.py`)."""
FULL = Scale(output_len=32, gaps=(20, 100, 300, 1000, 5000))
QUICK = Scale(output_len=96, gaps=(20, 300, 1000), samples=(1, 4), instances=2)
PAPER = Scale(output_len=512, instances=32, draws=24)
"""The paper's size, for simulated time."""


def run_experiments(bench: Bench, names: Sequence[str], show: Callable[[Result], None]) -> list[Result]:
    """Run experiments one after another; `show` is called with each result."""
    results = []
    for name in names:
        results.append(EXPERIMENTS[name](bench))
        show(results[-1])
    return results
