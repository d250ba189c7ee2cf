"""Results as tables on the terminal, PNG figures, a Markdown report and JSON lines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flover.bench.machine import commit, machine_facts
from flover.bench.report import json_line
from flover.errors import ConfigError, InvariantError
from flover_benchmarks.paper.bench import Figure, Result, Table

if TYPE_CHECKING:
    from rich.table import Table as RichTable

REPORT, LINES = "report.md", "results.jsonl"


def rich_table(title: str, table: Table) -> RichTable:
    """The table for the terminal."""
    from rich.table import Table as RichTable

    drawn = RichTable(title=f"{title}: {table.title}", title_justify="left", title_style="bold")
    for index, name in enumerate(table.header):
        drawn.add_column(name, justify="left" if index == 0 else "right")
    for row in table.rows:
        drawn.add_row(*row)
    return drawn


def markdown_table(table: Table) -> str:
    """The table in Markdown."""
    lines = [table.header, tuple("---" if index == 0 else "---:" for index in range(len(table.header))), *table.rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def check_can_draw() -> None:
    """Raise `ConfigError` if matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ConfigError("figures need matplotlib: pip install 'flover[bench]', or run with --no-figures") from None


def draw(figure: Figure, path: Path) -> None:
    """Write a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(7.0, 4.2), layout="constrained")
    FigureCanvasAgg(canvas)
    axes = canvas.add_subplot()
    for name, x, y in figure.series:
        marker = "o" if len(x) <= 20 and not figure.steps else ""
        axes.plot(x, y, label=name, marker=marker, drawstyle="steps-post" if figure.steps else "default")
    axes.set(title=figure.title, xlabel=figure.x_label, ylabel=figure.y_label)
    if figure.log_x:
        axes.set_xscale("log")
    if figure.log_y:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    canvas.savefig(path, dpi=110)


def markdown(results: Sequence[Result], command: str, *, figures: bool) -> str:
    """The report; figures are files beside it."""
    facts = machine_facts()
    parts = [
        "# The experiments of the Flover paper",
        f"`{command}`, commit {commit() or 'unknown'}, {facts['cpu']}, {facts['cores']} cores",
    ]
    for result in results:
        parts.append(f"## {result.title}")
        for table in result.tables:
            parts += [f"**{table.title}**", markdown_table(table)]
        if figures:
            parts += [f"![{figure.title}]({figure.name}.png)" for figure in result.figures]
        parts += result.remarks
    return "\n\n".join(parts) + "\n"


def line(benchmark: str, result: Result, command: str, model: str, options: dict[str, Any]) -> str:
    """One experiment as a JSON line."""
    return json_line(benchmark, command, experiment=result.name, model=model, options=options, **result.facts)


def write(results: Sequence[Result], lines: Sequence[str], directory: Path, command: str, *, figures: bool) -> None:
    """Report, figures and JSON lines into a directory. Raises `InvariantError` if two figures have one name."""
    names = [figure.name for result in results for figure in result.figures]
    if len(set(names)) < len(names):
        raise InvariantError(f"figures would write over each other: {', '.join(sorted(names))}")
    directory.mkdir(parents=True, exist_ok=True)
    if figures:
        for result in results:
            for figure in result.figures:
                draw(figure, directory / f"{figure.name}.png")
    (directory / REPORT).write_text(markdown(results, command, figures=figures))
    (directory / LINES).write_text("\n".join(lines) + "\n")
