"""Measures the limits of this machine: read bandwidth and multiply-adds, in float32 and of bfloat16."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np

from flover.bench.timing import best_mean, best_means
from flover.ops.cpu import CpuOps
from flover.ops.cpu_layout import address
from flover_benchmarks.kernels.figures import MachineLimits

READ_BYTES = 2**28
SLICE_BYTES = 2**26
"""Short, like a kernel call, so that some rounds run without other load on the machine."""
_ROUND_SECONDS = 0.002


class LimitMeter:
    """Measures the limits repeatedly. The best counts; the worst shows other load on the machine."""

    def __init__(self, read_bytes: int = READ_BYTES) -> None:
        self._memory = np.ones(read_bytes, dtype=np.uint8)
        self._ops: dict[int, CpuOps] = {}
        self.best: dict[int, MachineLimits] = {}
        self.worst: dict[int, MachineLimits] = {}

    def measure(self, num_threads: int, seconds: float) -> None:
        """Measure once more with so many threads, with the machine's fastest instruction set."""
        if num_threads not in self._ops:
            self._ops[num_threads] = CpuOps("auto", num_threads)
        ops = self._ops[num_threads]
        peaks = [_peak(many, seconds) for many in (ops.runner.multiply_adds, ops.runner.multiply_pairs)]
        now = MachineLimits(self._bandwidth(ops, seconds), *peaks)
        self.best[num_threads] = now.best(self.best.get(num_threads, now))
        self.worst[num_threads] = now.worst(self.worst.get(num_threads, now))

    def _bandwidth(self, ops: CpuOps, seconds: float) -> float:
        """The best slice of a buffer larger than the caches."""
        start_of_all, size = address(self._memory), min(SLICE_BYTES, self._memory.nbytes)
        starts = range(0, self._memory.nbytes - size + 1, size)
        calls = [(str(start), partial(ops.runner.read, start_of_all + start, size)) for start in starts]
        return size / min(best_means(calls, seconds).values())


def _peak(multiply_adds: Callable[[int], float], seconds: float) -> float:
    """Repeat rounds of `_ROUND_SECONDS` for the given time."""
    rounds, spent, flop = 1000, 0.0, 0.0
    while spent < _ROUND_SECONDS:
        rounds *= 2
        began = time.perf_counter()
        flop = multiply_adds(rounds)
        spent = time.perf_counter() - began
    return flop / best_mean(lambda: multiply_adds(rounds), seconds)
