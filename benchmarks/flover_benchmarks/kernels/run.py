"""Runs the kernel benchmark: every requested op, and the machine's limits before, between and after them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

from flover.model.config import ModelConfig
from flover.ops import WeightFormat
from flover.ops.cpu import CpuOps
from flover_benchmarks.kernels.attention import CACHES, GENERATING, PROMPT, AttentionBench
from flover_benchmarks.kernels.experts import ExpertBench
from flover_benchmarks.kernels.figures import MachineLimits, Measurement
from flover_benchmarks.kernels.limits import LimitMeter
from flover_benchmarks.kernels.linears import LinearBench, linear_shapes, measure_packing
from flover_benchmarks.kernels.small import ROWS, measure_small
from flover_benchmarks.options import SMALL_OPS, KernelOptions

LIMIT_SECONDS = 1.5
"""Time for each limit, relative to the seconds of a measurement."""

SWEEPS = 3

Progress = Callable[[str, int, int], None]
"""A function of (task, done, total)."""


@dataclass(frozen=True, slots=True)
class KernelResults:
    """The measurements, and the machine's best and worst limits by number of threads."""

    isa: str
    limits: dict[int, MachineLimits]
    worst_limits: dict[int, MachineLimits]
    cells: list[Measurement]


def measure_kernels(config: ModelConfig, options: KernelOptions, progress: Progress) -> KernelResults:
    """Measure on the shapes of `config`. Raises `ConfigError` for an instruction set that the machine lacks."""
    bench, meter = _KernelBench(config, options), LimitMeter()
    cells: list[Measurement] = []
    parts = list(bench.parts())
    for done, (what, measure) in enumerate(parts):
        progress(what, done, len(parts))
        for threads in sorted({1, *options.threads}):
            meter.measure(threads, LIMIT_SECONDS * options.seconds)
        cells += measure()
    for threads in options.threads:
        meter.measure(threads, LIMIT_SECONDS * options.seconds)
    progress("done", len(parts), len(parts))
    return KernelResults(bench.isa, meter.best, meter.worst, cells)


class _KernelBench:
    """The parts of the benchmark. A part allocates its weights or pages when it starts and frees them at its end."""

    def __init__(self, config: ModelConfig, options: KernelOptions) -> None:
        self._config = config
        self._options = options
        self._formats = [cast(WeightFormat, name) for name in options.formats]
        self._tables = [CpuOps(options.cpu_isa, threads) for threads in options.threads]
        self.isa = self._tables[0].runner.isa

    def parts(self) -> Iterator[tuple[str, Callable[[], Iterable[Measurement]]]]:
        """Name and measurements of every requested part."""
        chosen = self._options.ops
        for weight_format in self._formats if "linear" in chosen else ():
            yield f"linear, {weight_format}", partial(self._linears, weight_format)
        for weight_format in self._formats if "experts" in chosen and self._config.experts else ():
            yield f"experts, {weight_format}", partial(self._experts, weight_format)
        for cache in CACHES if "attention" in chosen else ():
            yield f"attention, {cache}", partial(self._attention, cache)
        small = [op for op in SMALL_OPS if op in chosen]
        if small:
            yield "other ops", partial(self._small, small)
        if "pack" in chosen:
            yield "packing", self._packing

    def _linears(self, weight_format: WeightFormat) -> Iterable[Measurement]:
        bench = LinearBench(linear_shapes(self._config), weight_format)
        cases = [(ops, rows) for ops in self._tables for rows in self._options.rows]
        return self._swept(lambda seconds: [cell for case in cases for cell in bench.measure(*case, seconds)])

    def _experts(self, weight_format: WeightFormat) -> Iterable[Measurement]:
        bench = ExpertBench(self._config, weight_format)
        cases = [(ops, rows) for ops in self._tables for rows in self._options.rows]
        return self._swept(lambda seconds: [bench.measure(*case, seconds) for case in cases])

    def _attention(self, cache: str) -> Iterable[Measurement]:
        benches = [AttentionBench(self._config, cache, load) for load in (GENERATING, PROMPT)]
        cases = [(bench, ops) for bench in benches for ops in self._tables]
        return self._swept(lambda seconds: [bench.measure(ops, seconds) for bench, ops in cases])

    def _small(self, names: Sequence[str]) -> Iterable[Measurement]:
        config, seconds = self._config, self._options.seconds / 2
        for ops in self._tables:
            for name in names:
                for weight_format in self._formats if name == "embed" else self._formats[:1]:
                    for rows in ROWS:
                        yield measure_small(name, config, ops, weight_format, rows, seconds)

    def _packing(self) -> Iterable[Measurement]:
        largest = max(linear_shapes(self._config), key=lambda shape: shape.numbers)
        for weight_format in self._formats:
            yield measure_packing(largest, weight_format, self._options.seconds)

    def _swept(self, measure: Callable[[float], Iterable[Measurement]]) -> list[Measurement]:
        """Measure everything `SWEEPS` times, so that brief load on the machine spoils no measurement."""
        best: dict[tuple[str, str, str, int, int], Measurement] = {}
        for _ in range(SWEEPS):
            for cell in measure(self._options.seconds / SWEEPS):
                best[cell.place] = cell.best(best.get(cell.place, cell))
        return list(best.values())
