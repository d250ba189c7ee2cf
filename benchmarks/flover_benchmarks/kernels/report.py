"""Kernel measurements as tables and as facts for the JSON line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from flover.weight_formats import INPUTS_TOGETHER
from flover_benchmarks.kernels.figures import Floor, MachineLimits, Measurement, floors, whole_step
from flover_benchmarks.kernels.run import KernelResults

NONE = "-"
QUIET = 0.8
"""Variation of the limits on an otherwise idle machine."""


def tables(results: KernelResults) -> Iterator[Group]:
    """Tables of the limits, the linears by format, attention, the other ops, packing."""
    yield _limits_table(results)
    threads = list(dict.fromkeys(cell.threads for cell in results.cells if cell.op != "pack"))
    for num_threads in threads:
        mine, limits = [cell for cell in results.cells if cell.threads == num_threads], results.limits[num_threads]
        for op in ("linear", "experts"):
            linears = [cell for cell in mine if cell.op == op]
            for kind in dict.fromkeys(cell.kind for cell in linears):
                yield _linear_table([cell for cell in linears if cell.kind == kind], limits)
        attention = [cell for cell in mine if cell.op == "attention"]
        if attention:
            yield _attention_table(attention, limits)
        small = [cell for cell in mine if cell.op not in ("linear", "experts", "attention", "pack")]
        if small:
            yield _small_table(small)
    packing = [cell for cell in results.cells if cell.op == "pack"]
    if packing:
        yield _packing_table(packing)


def floor_lines(results: KernelResults) -> Iterator[str]:
    """Every floor with its value, met or not; a warning if there was other load on the machine."""
    for threads, limits in sorted(results.limits.items()):
        worst = results.worst_limits[threads]
        if worst.bandwidth < QUIET * limits.bandwidth or worst.peak < QUIET * limits.peak:
            yield (
                f"there was other load on the machine: with {_threads(threads)} it read {worst.bandwidth / 1e9:.1f} to "
                f"{limits.bandwidth / 1e9:.1f} GB/s and did {worst.peak / 1e9:.0f} to {limits.peak / 1e9:.0f} GFLOP/s; "
                "all fractions are of the best, and may be too low"
            )
    for floor in floors(results.cells, results.limits):
        verdict = "met" if floor.held else "NOT met"
        yield f"{floor.what}, {_threads(floor.threads)}: {floor.fraction:.0%}, floor {floor.floor:.0%}: {verdict}"


def facts(results: KernelResults) -> dict[str, Any]:
    """For the JSON line: rates in units of 10^9 per second, times in microseconds."""
    return {
        "isa": results.isa,
        "limits": {
            str(threads): {
                "read_gb_s": limits.bandwidth / 1e9,
                "fma_gflop_s": limits.peak / 1e9,
                "bfloat16_gflop_s": limits.bfloat16_peak / 1e9,
                "worst_read_gb_s": results.worst_limits[threads].bandwidth / 1e9,
                "worst_fma_gflop_s": results.worst_limits[threads].peak / 1e9,
            }
            for threads, limits in results.limits.items()
        },
        "results": [_cell_facts(cell, results.limits.get(cell.threads)) for cell in results.cells],
        "floors": [_floor_facts(floor) for floor in floors(results.cells, results.limits)],
    }


def _cell_facts(cell: Measurement, limits: MachineLimits | None) -> dict[str, Any]:
    theirs = cell.torch_seconds
    return {
        "op": cell.op,
        "shape": cell.name,
        "format": cell.kind,
        "threads": cell.threads,
        "rows": cell.rows,
        "us": cell.seconds * 1e6,
        "gflop_s": cell.flops / 1e9 if cell.flop else None,
        "gb_s": cell.bandwidth / 1e9,
        "fraction": None if limits is None or cell.op == "pack" else cell.fraction(limits),
        "torch_us": None if theirs is None else theirs * 1e6,
        "torch_ratio": None if theirs is None else theirs / cell.seconds,
    }


def _floor_facts(floor: Floor) -> dict[str, Any]:
    return {**asdict(floor), "held": floor.held}


def _limits_table(results: KernelResults) -> Group:
    table = Table()
    table.add_column("threads")
    for name in ("read GB/s", "float32 GFLOP/s", "bfloat16 GFLOP/s", "at worst, GB/s", "GFLOP/s", "GFLOP/s"):
        table.add_column(name, justify="right")
    for threads, limits in sorted(results.limits.items()):
        both = limits, results.worst_limits[threads]
        rates = [
            (f"{each.bandwidth / 1e9:.1f}", f"{each.peak / 1e9:.0f}", f"{each.bfloat16_peak / 1e9:.0f}")
            for each in both
        ]
        table.add_row(str(threads), *rates[0], *rates[1])
    return _titled(f"limits of the machine, measured in this run (kernels: {results.isa})", table)


def _linear_table(cells: Sequence[Measurement], limits: MachineLimits) -> Group:
    """A line for our kernel and one for torch for every shape, a column for every number of rows."""
    first = cells[0]
    integer = first.kind in INPUTS_TOGETHER
    reading = "few rows for each of those in use" if first.op == "experts" else "1 row"
    peak = f"{'bfloat16' if first.kind == 'bfloat16' else 'float32'} peak"
    title = (
        f"{first.op}, {first.kind}, {_threads(first.threads)}: {reading} in GB/s and % of the read bandwidth, else "
        f"{'G(op)/s' if integer else 'GFLOP/s'} and % of the {peak}"
    )
    table = Table()
    table.add_column("rows")
    rows = sorted({cell.rows for cell in cells})
    for num_rows in rows:
        table.add_column(str(num_rows), justify="right")
    by_place = {(cell.name, cell.rows): cell for cell in cells}
    for name in dict.fromkeys(cell.name for cell in cells):
        line = [by_place.get((name, num_rows)) for num_rows in rows]
        table.add_row(name, *(_ours(cell, limits) for cell in line))
        if any(cell and cell.torch_seconds for cell in line):
            table.add_row("  torch", *(_theirs(cell) for cell in line), style="dim")
    steps = [whole_step(cell for cell in cells if cell.rows == num_rows) for num_rows in rows]
    table.add_section()
    table.add_row("a whole step", *(_ours(cell, limits) for cell in steps), style="bold")
    return _titled(title, table)


def _attention_table(cells: Sequence[Measurement], limits: MachineLimits) -> Group:
    table = Table()
    table.add_column("")
    table.add_column("cache")
    for name in ("GB/s", "of read", "GFLOP/s", "of FMA", "torch"):
        table.add_column(name, justify="right")
    for cell in cells:
        theirs = _theirs(cell)
        if theirs != NONE:
            theirs += " GB/s" if cell.reads else " GFLOP/s"
        reading = (f"{cell.bandwidth / 1e9:.1f}", f"{cell.bandwidth / limits.bandwidth:.0%}")
        table.add_row(
            cell.name,
            cell.kind,
            *(reading if cell.reads else (NONE, NONE)),
            f"{cell.flops / 1e9:.0f}",
            f"{cell.flops / limits.peak:.0%}",
            theirs,
        )
    return _titled(f"attention, {_threads(cells[0].threads)}", table)


def _small_table(cells: Sequence[Measurement]) -> Group:
    table = Table()
    for name in ("", "format"):
        table.add_column(name)
    for name in ("rows", "µs", "GB/s", "torch µs"):
        table.add_column(name, justify="right")
    for cell in cells:
        theirs = cell.torch_seconds
        table.add_row(
            cell.name,
            cell.kind,
            str(cell.rows),
            f"{cell.seconds * 1e6:.1f}",
            f"{cell.bandwidth / 1e9:.2f}",
            NONE if theirs is None else f"{theirs * 1e6:.1f}",
        )
    return _titled(f"other ops, from the cache, {_threads(cells[0].threads)}: µs per call", table)


def _packing_table(cells: Sequence[Measurement]) -> Group:
    table = Table()
    for cell in cells:
        table.add_column(cell.kind, justify="right")
    table.add_row(*(f"{cell.bandwidth / 1e9:.2f}" for cell in cells))
    return _titled("packing while loading: GB/s of input, float32 or blocks of a file", table)


def _titled(title: str, table: Table) -> Group:
    """A table under a title that may be wider than the table."""
    return Group(Text(f"\n{title}", style="bold"), table)


def _ours(cell: Measurement | None, limits: MachineLimits) -> str:
    return NONE if cell is None else f"{_rate(cell, cell.seconds)}\n{cell.fraction(limits):.0%}"


def _theirs(cell: Measurement | None) -> str:
    return NONE if cell is None or cell.torch_seconds is None else _rate(cell, cell.torch_seconds)


def _rate(cell: Measurement, seconds: float) -> str:
    return f"{cell.bytes / seconds / 1e9:.1f}" if cell.reads else f"{cell.flop / seconds / 1e9:.0f}"


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"
