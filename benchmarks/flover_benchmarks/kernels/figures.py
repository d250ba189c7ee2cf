"""Kernel measurements, the machine's limits and the required fractions of them. Arithmetic only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, replace

ONE_ROW_FLOOR = 0.85  # of the read bandwidth
BFLOAT16_FLOOR = 0.75  # of the peak of products of bfloat16, at FLOOR_ROWS rows
INT8_FLOOR = 1.40  # of the float32 peak, likewise
FLOOR_ROWS = 32
ATTENTION_FLOORS = {"float32": 0.75, "bfloat16": 0.75, "int8": 0.60}  # of the read bandwidth, by the type of the pages


@dataclass(frozen=True, slots=True)
class MachineLimits:
    """Limits of the machine with a number of threads: bytes read per second, operations per second in float32 and with
    factors in bfloat16."""

    bandwidth: float
    peak: float
    bfloat16_peak: float

    def best(self, other: MachineLimits) -> MachineLimits:
        """The larger value of each."""
        return MachineLimits(*map(max, astuple(self), astuple(other)))

    def worst(self, other: MachineLimits) -> MachineLimits:
        """The smaller value of each."""
        return MachineLimits(*map(min, astuple(self), astuple(other)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One op on one shape: the best seconds of a call, its operations and the bytes that it must read.

    `kind` is the format of the weights or of the cache. `reads`: bound by memory bandwidth, not by arithmetic.
    """

    op: str
    name: str
    kind: str
    threads: int
    rows: int
    seconds: float
    reads: bool
    flop: float = 0.0
    bytes: float = 0.0
    torch_seconds: float | None = None
    times_per_step: int = 1  # calls in one step of the model

    @property
    def place(self) -> tuple[str, str, str, int, int]:
        """The identity of the measured case."""
        return self.op, self.name, self.kind, self.threads, self.rows

    def best(self, other: Measurement) -> Measurement:
        """The shorter times of two measurements of one case."""
        theirs = [seconds for seconds in (self.torch_seconds, other.torch_seconds) if seconds is not None]
        return replace(self, seconds=min(self.seconds, other.seconds), torch_seconds=min(theirs, default=None))

    @property
    def flops(self) -> float:
        """Operations per second."""
        return self.flop / self.seconds

    @property
    def bandwidth(self) -> float:
        """Bytes per second."""
        return self.bytes / self.seconds

    def fraction(self, limits: MachineLimits) -> float:
        """The fraction of the machine's limit: of the bandwidth if it `reads`, else of the peak of its products."""
        if self.reads:
            return self.bandwidth / limits.bandwidth
        rounds = self.kind == "bfloat16" and self.op in ("linear", "experts")
        return self.flops / (limits.bfloat16_peak if rounds else limits.peak)


@dataclass(frozen=True, slots=True)
class Floor:
    """A required minimum fraction of a limit."""

    what: str
    threads: int
    fraction: float
    floor: float

    @property
    def held(self) -> bool:
        return self.fraction >= self.floor


def whole_step(cells: Iterable[Measurement]) -> Measurement | None:
    """All linears of one step of the model as one measurement; None if there are none."""
    several = list(cells)
    if not several:
        return None

    def total(field: str) -> float:
        return sum(float(getattr(cell, field)) * cell.times_per_step for cell in several)

    first = several[0]
    return Measurement(
        op=first.op,
        name="whole step",
        kind=first.kind,
        threads=first.threads,
        rows=first.rows,
        reads=first.reads,
        seconds=total("seconds"),
        flop=total("flop"),
        bytes=total("bytes"),
    )


def floors(cells: Iterable[Measurement], limits: Mapping[int, MachineLimits]) -> list[Floor]:
    """The floors of these measurements, for every number of threads."""
    several = list(cells)
    found: list[Floor] = []
    for threads, limit in limits.items():
        mine = [cell for cell in several if cell.threads == threads]
        linears = [cell for cell in mine if cell.op == "linear"]
        for kind in dict.fromkeys(cell.kind for cell in linears):
            step = whole_step(cell for cell in linears if cell.kind == kind and cell.rows == 1)
            if step is not None:
                what = f"{kind} linears at 1 row: of the read bandwidth"
                found.append(Floor(what, threads, step.fraction(limit), ONE_ROW_FLOOR))
        for kind, floor in (("bfloat16", BFLOAT16_FLOOR), ("int8", INT8_FLOOR)):
            step = whole_step(cell for cell in linears if cell.kind == kind and cell.rows == FLOOR_ROWS)
            if step is not None:
                peak = "bfloat16" if kind == "bfloat16" else "float32"
                what = f"{kind} linears at {FLOOR_ROWS} rows: of the {peak} peak"
                found.append(Floor(what, threads, step.fraction(limit), floor))
        for cell in mine:
            if cell.op == "attention" and cell.reads:
                what = f"attention, {cell.kind} cache, {cell.name}: of the read bandwidth"
                found.append(Floor(what, threads, cell.fraction(limit), ATTENTION_FLOORS[cell.kind]))
    return found
