"""The accuracy of formats as a table and as facts for the JSON line."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from flover_benchmarks.accuracy import LIMITS, Accuracy


def accuracy_table(title: str, results: Mapping[str, Accuracy]) -> Group:
    """A line for each format."""
    table = Table()
    table.add_column("", no_wrap=True)
    for name in ("perplexity", "change", "mean KL", "max KL", "top 1"):
        table.add_column(name, justify="right")
    for name, result in results.items():
        table.add_row(
            name,
            "-" if math.isnan(result.perplexity) else f"{result.perplexity:.4f}",
            "-" if math.isnan(result.change) else f"{result.change:+.3%}",
            f"{result.mean_kl:.2e}",
            f"{result.max_kl:.2e}",
            f"{result.agreement:.2%}",
        )
    return Group(Text(title, style="bold"), table)


def limit_lines(results: Mapping[str, Accuracy]) -> Iterator[str]:
    """Every limit with its value, met or not; none without perplexity."""
    for name, limit in LIMITS.items():
        if name in results and not math.isnan(results[name].change):
            verdict = "met" if is_held(results[name], limit) else "NOT met"
            yield f"{name}: perplexity {results[name].change:+.3%}, limit {limit:+.1%}: {verdict}"


def is_held(result: Accuracy, limit: float) -> bool:
    """Whether the growth of perplexity is within the limit."""
    return result.change <= limit


def accuracy_facts(results: Mapping[str, Accuracy]) -> dict[str, Any]:
    """For the JSON line; divergences in nats."""
    return {
        name: {
            "perplexity": result.perplexity,
            "change": result.change,
            "mean_kl": result.mean_kl,
            "max_kl": result.max_kl,
            "agreement": result.agreement,
            "tokens": result.tokens,
            "held": None if name not in LIMITS or math.isnan(result.change) else is_held(result, LIMITS[name]),
        }
        for name, result in results.items()
    }
