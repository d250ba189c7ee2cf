"""Ranks that are threads of this process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from flover.ops import Group, Reduction
from flover.ops.group import tree_sum

T = TypeVar("T")


class ThreadRank:
    """One of several ranks that are threads of this process."""

    def __init__(self, rank: int, shared: list[np.ndarray | None], barrier: threading.Barrier) -> None:
        self.rank, self.size, self.local_size = rank, len(shared), len(shared)
        self._shared, self._barrier = shared, barrier

    def all_reduce(self, reduction: Reduction, x: np.ndarray) -> None:
        parts = self._of_all(x)
        x[:] = tree_sum(parts) if reduction == "sum" else np.max(parts, axis=0)

    def gather(self, x: np.ndarray, widths: Sequence[int]) -> np.ndarray | None:
        parts = [part[:, :width] for part, width in zip(self._of_all(x), widths, strict=True)]
        return np.concatenate(parts, axis=1) if self.rank == 0 else None

    def least(self, value: int) -> int:
        return min(int(part) for part in self._of_all(np.array(value)))

    def formed(self) -> None:
        self._barrier.wait(60)

    def _of_all(self, x: np.ndarray) -> list[np.ndarray]:
        self._shared[self.rank] = x.copy()
        self._barrier.wait(60)
        parts = [part for part in self._shared if part is not None]
        self._barrier.wait(60)
        return parts


def on_ranks(size: int, compute: Callable[[Group], T]) -> list[T]:
    """What each of so many ranks computes, rank 0 first."""
    shared: list[np.ndarray | None] = [None] * size
    barrier = threading.Barrier(size)

    def run(rank: int) -> T:
        try:
            return compute(ThreadRank(rank, shared, barrier))
        except BaseException:
            barrier.abort()  # the others would wait for it
            raise

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(run, range(size)))
