"""The arrangements under which an answer must not change, and which of them to try. Pure: nothing runs here.

A cell gives every factor one value. The first value of each factor is the plain one; the cell that has them all is
the baseline.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

FORMATS: dict[str, dict[str, Any]] = {
    "float32": {"dtype": "float32"},
    "bfloat16": {"dtype": "bfloat16"},
    "float16": {"dtype": "float16"},
    "int8": {"quantization": "int8"},
    "int4": {"quantization": "int4"},
    "int8-cache": {"dtype": "bfloat16", "kv_cache_dtype": "int8"},
}
"""Every way to keep weights, keys and values: settings of the engine by name."""

BATCHES = (1, 2, 3, 7, 16, 33, 64)
CHUNKS = (0, 64, 5, 1)
PAGE_SIZES = (16, 32, 5)
THREADS = (1, 2)

SLOW = "portable"
"""The instruction set without instructions: some thirty times slower than the others."""
_SLOWNESS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """The values of every factor, the plain one first. Names are those of `Cell`."""

    isa: tuple[str, ...]
    threads: tuple[int, ...] = THREADS
    page_size: tuple[int, ...] = PAGE_SIZES
    warm: tuple[bool, ...] = (False, True)
    preempted: tuple[bool, ...] = (False, True)
    batch: tuple[int, ...] = BATCHES
    chunk: tuple[int, ...] = CHUNKS


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One arrangement: `batch` sequences at once, prompts in chunks of `chunk` tokens (0: whole), the probes' prefix
    in the cache already (`warm`) or not, the probes thrown out again and again (`preempted`) or not."""

    isa: str
    threads: int
    page_size: int
    warm: bool
    preempted: bool
    batch: int
    chunk: int

    @property
    def engine(self) -> tuple[str, int, int]:
        """What an engine is built for; it serves every cell that shares it."""
        return self.isa, self.threads, self.page_size

    def __str__(self) -> str:
        words = [f"batch {self.batch}", f"chunks of {self.chunk}" if self.chunk else "whole prompts"]
        words += [f"pages of {self.page_size}", f"{self.threads} thread{'s' if self.threads > 1 else ''}"]
        words += ["prefix warm" if self.warm else "prefix cold", *(["preempted"] if self.preempted else []), self.isa]
        return ", ".join(words)


_NAMES = tuple(item.name for item in fields(Cell))


def baseline(space: Space) -> Cell:
    """The plain value of every factor."""
    return Cell(**{name: getattr(space, name)[0] for name in _NAMES})


def all_cells(space: Space) -> list[Cell]:
    """The full product, engine by engine."""
    values = [getattr(space, name) for name in _NAMES]
    return [Cell(**dict(zip(_NAMES, choice, strict=True))) for choice in itertools.product(*values)]


def few_cells(space: Space) -> list[Cell]:
    """Every value of every factor alone against the baseline, and every pair of values of two factors somewhere.

    A change that depends on one or two factors, whatever they are, shows in one of these cells. Pairs are covered
    greedily (as in D. Cohen et al.: The AETG System, IEEE TSE 23(7), 1997), with an eye on what a cell costs.
    """
    plain = baseline(space)
    chosen = {plain: None}
    for name in _NAMES:
        chosen |= {_with(plain, name, value): None for value in getattr(space, name)}
    candidates = {cell: frozenset(_pairs(cell)) for cell in all_cells(space)}
    missing = set().union(*candidates.values()) - set().union(*(candidates[cell] for cell in chosen))
    while missing:
        best = max(candidates, key=lambda cell: (len(candidates[cell] & missing) / _cost(cell) ** 0.5, -_cost(cell)))
        chosen[best] = None
        missing -= candidates[best]
    return sorted(chosen, key=lambda cell: [getattr(space, name).index(getattr(cell, name)) for name in _NAMES])


def _with(cell: Cell, name: str, value: Any) -> Cell:
    return Cell(**{item: value if item == name else getattr(cell, item) for item in _NAMES})


def _pairs(cell: Cell) -> Sequence[tuple[str, Any, str, Any]]:
    return [(a, getattr(cell, a), b, getattr(cell, b)) for a, b in itertools.combinations(_NAMES, 2)]


def _cost(cell: Cell) -> float:
    """About how long a cell takes: iterations times rows, and something for what happens outside of rows."""
    iterations = (80 / cell.chunk if cell.chunk else 1) * (3 if cell.preempted else 1) + 8
    return iterations * (10 + cell.batch * (_SLOWNESS if cell.isa == SLOW else 1))
