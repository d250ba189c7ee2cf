"""Results as tables and as one JSON line."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from flover.bench.machine import commit, machine_facts

if TYPE_CHECKING:
    from rich.table import Table

    from flover.bench.fusion import Fusion, FusionRun
    from flover.bench.interference import Interference


def fusion_table(title: str, result: Fusion, names: tuple[str, str] = ("fused", "one by one")) -> Table:
    """Both parts side by side, with the ratio of fused to serial."""
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("")
    for name in (*names, "ratio"):
        table.add_column(name, justify="right")
    fused, serial = result.fused.summary, result.serial.summary
    table.add_row("requests", str(fused.completed), str(serial.completed), "")
    table.add_row("output tokens", f"{fused.output_tokens:,}", f"{serial.output_tokens:,}", "")
    table.add_row(
        "wall time", f"{fused.duration:.2f} s", f"{serial.duration:.2f} s", _times(serial.duration, fused.duration)
    )
    table.add_row(
        "output tokens per second",
        f"{fused.output_throughput:,.1f}",
        f"{serial.output_throughput:,.1f}",
        f"[bold]{result.ratio:.2f} x[/bold]",
    )
    for label, spread in (("time to first token", "ttft"), ("inter-token gap", "itl")):
        for quantile in ("p50", "p99"):
            values = [getattr(getattr(half, spread), quantile) for half in (fused, serial)]
            table.add_row(f"{label}, {quantile}", *(milliseconds(value) for value in values), "")
    table.add_row("mean batch size", _width(result.fused), _width(result.serial), "")
    table.add_row("host time of an iteration", _host(result.fused), _host(result.serial), "")
    return table


def interference_table(title: str, results: dict[str, Interference]) -> Table:
    """One column per setting of the budget."""
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("inter-token gap of the streams")
    for name in results:
        table.add_column(name, justify="right")
    for label, part in (("undisturbed", "quiet"), ("while the long prompt is computed", "disturbed")):
        for quantile in ("p50", "p99", "max"):
            values = [getattr(getattr(result, part), quantile) for result in results.values()]
            table.add_row(f"{label}, {quantile}", *(milliseconds(value) for value in values))
    table.add_row("tokens of the long prompt", *(str(result.long_prompt_len) for result in results.values()))
    table.add_row("gaps counted", *(str(result.num_gaps) for result in results.values()))
    table.add_row("first token of the long prompt, p50", *(milliseconds(r.long_ttft.p50) for r in results.values()))
    return table


def run_facts(run: FusionRun) -> dict[str, Any]:
    """One part of a comparison for the JSON line; durations in seconds, spreads in milliseconds."""
    summary = run.summary
    return {
        "wall_s": summary.duration,
        "output_tok_s": summary.output_throughput,
        "output_tokens": summary.output_tokens,
        "prompt_tokens": summary.prompt_tokens,
        "cached_tokens": summary.cached_tokens,
        "ttft_ms": asdict(summary.ttft),
        "itl_ms": asdict(summary.itl),
        "mean_fused_width": run.width,
        "host_ms": None if run.host is None else run.host.milliseconds,
        "host_share": None if run.host is None else run.host.share,
    }


def interference_facts(result: Interference) -> dict[str, Any]:
    """One setting of the interference benchmark for the JSON line."""
    return {
        "quiet_itl_ms": asdict(result.quiet),
        "disturbed_itl_ms": asdict(result.disturbed),
        "num_gaps": result.num_gaps,
        "long_prompt_len": result.long_prompt_len,
        "long_ttft_ms": asdict(result.long_ttft),
    }


def json_line(benchmark: str, command: str, **results: Any) -> str:
    """The result as one line: command, machine and results. Missing values are null."""
    line = {"benchmark": benchmark, "command": command, "machine": machine_facts(), "commit": commit(), **results}
    return json.dumps(tidy(line))


def milliseconds(value: float) -> str:
    """A duration in milliseconds with three significant figures, or a dash for NaN."""
    if math.isnan(value):
        return "-"
    return f"{value:,.0f} ms" if value >= 100 else f"{value:.3g} ms"


def tidy(value: Any) -> Any:
    """A value for JSON: NaN is null, infinity "inf", and numbers keep six figures."""
    if isinstance(value, dict):
        return {key: tidy(item) for key, item in value.items()}
    if isinstance(value, list):
        return [tidy(item) for item in value]
    if isinstance(value, float):
        return None if math.isnan(value) else str(value) if math.isinf(value) else float(f"{value:.6g}")
    return value


def _times(more: float, less: float) -> str:
    return f"{more / less:.2f} x" if less else "-"


def _host(run: FusionRun) -> str:
    return "-" if run.host is None else f"{milliseconds(run.host.milliseconds)} ({run.host.share:.1%})"


def _width(run: FusionRun) -> str:
    return "-" if run.width is None else f"{run.width:.2f}"
