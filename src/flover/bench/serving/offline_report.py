"""Tables of the benchmarks that run the engine without a server."""

from __future__ import annotations

from rich.table import Table

from flover.bench.report import milliseconds
from flover.bench.serving.offline import Latency, Throughput


def latency_table(title: str, latency: Latency) -> Table:
    """Average and percentiles of a batch's duration."""
    table = _table(title)
    table.add_row("average", milliseconds(1e3 * latency.mean))
    for q, seconds in latency.percentiles.items():
        table.add_row(f"{q}% percentile", milliseconds(1e3 * seconds))
    table.add_row("output tokens per second", f"{latency.output_tokens / latency.mean:,.1f}")
    table.add_row("batches", str(len(latency.seconds)))
    return table


def throughput_table(title: str, done: Throughput) -> Table:
    """Rates of the whole run."""
    table = _table(title)
    table.add_row("wall time", f"{done.seconds:.2f} s")
    table.add_row("prompt tokens", f"{done.prompt_tokens:,}")
    table.add_row("output tokens", f"{done.output_tokens:,}")
    table.add_row("requests per second", f"{done.num_requests / done.seconds:.2f}")
    table.add_row("total tokens per second", f"{done.total_tokens / done.seconds:,.1f}")
    table.add_row("output tokens per second", f"[bold]{done.output_tokens / done.seconds:,.1f}[/bold]")
    return table


def _table(title: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", show_header=False)
    table.add_column("")
    table.add_column("", justify="right")
    return table
