"""The table, the limits and the facts of `bench startup`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from flover.bench.serving.startup import Startup

READY_SECONDS = 1.2
"""Target of the time until ready, in seconds, in addition to the time to read the files."""
COMMAND_SECONDS = {"import flover": 0.1, "flover --help": 0.2}
"""Targets of these processes, from start to end."""
PEAK_RATIO = 1.15
"""Target of peak memory for weights, relative to their packed size."""
CACHED = 0.7
"""A cold read is not cold if it is less than this many times slower than a warm one."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A value and whether it meets its limit."""

    text: str
    held: bool

    def __str__(self) -> str:
        return f"{self.text}: {'met' if self.held else 'NOT met'}"


def startup_table(title: str, kinds: Mapping[str, Startup]) -> Table:
    """Medians, one column for each kind of start."""
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("from the start of the process")
    for name, kind in kinds.items():
        table.add_column(f"{name}, {len(kind.starts)} starts", justify="right")

    def row(label: str, values: list[str], end: bool = False) -> None:
        table.add_row(label, *values, end_section=end)

    every = list(kinds.values())
    row("server listens", [_seconds(kind.start.listening) for kind in every])
    row("/health is ready", [f"[bold]{_seconds(kind.start.ready)}[/bold]" for kind in every])
    row("first token", [_seconds(kind.start.first_token) for kind in every], end=True)
    row("time to first token, first request", [_seconds(kind.start.first_ttft) for kind in every])
    row("time to first token, second request", [_seconds(kind.start.second_ttft) for kind in every], end=True)
    row("engine alone: process, imports, plan", [_seconds(kind.phase.imports) for kind in every])
    row("engine alone: read and pack weights", [_seconds(kind.phase.weights) for kind in every])
    row("engine alone: pool and warm-up", [_seconds(kind.phase.warm_up) for kind in every])
    row("plain reading of the weight files", [_seconds(kind.read) for kind in every], end=True)
    row("peak memory of the server", [_mib(kind.start.door_peak) for kind in every])
    row("peak memory of the engine", [_mib(kind.start.engine_peak) for kind in every])
    row("engine before it reads weights", [_mib(kind.phase.before_weights) for kind in every])
    return table


def verdicts(kinds: Mapping[str, Startup], packed: int, commands: Mapping[str, float]) -> list[Verdict]:
    """The values and their limits."""
    found = [
        Verdict(
            f"{name}: {_seconds(seconds)}, limit {_seconds(COMMAND_SECONDS[name])}", seconds <= COMMAND_SECONDS[name]
        )
        for name, seconds in commands.items()
    ]
    for name, kind in kinds.items():
        limit = READY_SECONDS + kind.read
        text = f"{name}: ready after {kind.start.ready:.2f} s, limit {READY_SECONDS:g} s + reading = {limit:.2f} s"
        found.append(Verdict(text, kind.start.ready <= limit))
    peak, ratio = engine_peak(kinds), weights_ratio(kinds, packed)
    text = (
        f"peak of the engine above what it held before: {ratio:.2f} x the packed weights of {_mib(packed)}, "
        f"limit {PEAK_RATIO:g} x (the whole process: {peak / packed:.2f} x)"
    )
    return [*found, Verdict(text, ratio <= PEAK_RATIO)]


def engine_peak(kinds: Mapping[str, Startup]) -> int:
    """The largest peak of all starts, in bytes."""
    return max(start.engine_peak for kind in kinds.values() for start in kind.starts)


def weights_ratio(kinds: Mapping[str, Startup], packed: int) -> float:
    """The largest peak less the smallest memory before reading weights, over the packed weights."""
    before = min(phase.before_weights for kind in kinds.values() for phase in kind.phases)
    return (engine_peak(kinds) - before) / packed


def cold_note(kinds: Mapping[str, Startup], num_files: int) -> str:
    """Why cold starts may not have been cold; "" if they were."""
    if num_files == 0:
        return "there are no weight files (random weights): cold and warm starts do the same"
    if kinds["cold"].read * CACHED < kinds["warm"].read:
        return "the files read as fast cold as warm: the system did not drop them from its page cache"
    return ""


def startup_facts(kinds: Mapping[str, Startup], packed: int, commands: Mapping[str, float]) -> dict[str, Any]:
    """For the JSON line: seconds and bytes."""
    facts: dict[str, Any] = {
        name: {
            "median": asdict(kind.start) | asdict(kind.phase),
            "file_read": kind.read,
            "ready_limit": READY_SECONDS + kind.read,
            "starts": [asdict(start) for start in kind.starts],
            "phases": [asdict(phase) for phase in kind.phases],
        }
        for name, kind in kinds.items()
    }
    return facts | {
        "commands": dict(commands),
        "packed_weight_bytes": packed,
        "engine_peak_bytes": engine_peak(kinds),
        "engine_peak_over_packed": engine_peak(kinds) / packed,
        "weights_peak_over_packed": weights_ratio(kinds, packed),
        "limit_over_packed": PEAK_RATIO,
        "held": all(verdict.held for verdict in verdicts(kinds, packed, commands)),
    }


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{1e3 * value:.3g} ms"


def _mib(num_bytes: float) -> str:
    return f"{num_bytes / 2**20:,.1f} MiB"
