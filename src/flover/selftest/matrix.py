"""The conditions under which outputs must not change, and the choice of which to test. Pure functions.

A cell gives every factor one value. The first value of each factor is its default; the baseline is the cell of all
defaults.
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
"""Formats of weights, keys and values: engine settings by name."""

BATCHES = (1, 2, 3, 7, 16, 33, 64)
CHUNKS = (0, 64, 5, 1)
PAGE_SIZES = (16, 32, 5)
THREADS = (1, 2)
RANKS = (1, 2, 4)

SLOW = "portable"
"""The portable instruction set: some thirty times slower than the others."""
_SLOWNESS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """The values of every factor, the default first. Names are those of `Cell`."""

    isa: tuple[str, ...]
    threads: tuple[int, ...] = THREADS
    page_size: tuple[int, ...] = PAGE_SIZES
    ranks: tuple[int, ...] = RANKS
    warm: tuple[bool, ...] = (False, True)
    preempted: tuple[bool, ...] = (False, True)
    batch: tuple[int, ...] = BATCHES
    chunk: tuple[int, ...] = CHUNKS


ON_GPU = Space(isa=("auto",), threads=(1,), ranks=(1,))
"""Neither has a meaning there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One combination: so many tensor-parallel `ranks` of `threads` threads each, `batch` sequences at once, prompts in
    chunks of `chunk` tokens (0: whole), the probes' prefix cached (`warm`) or not, the probes preempted repeatedly
    (`preempted`) or not."""

    isa: str
    threads: int
    page_size: int
    ranks: int
    warm: bool
    preempted: bool
    batch: int
    chunk: int

    @property
    def engine(self) -> tuple[str, int, int, int]:
        """The factors that an engine is built with; cells with equal ones share an engine."""
        return self.isa, self.threads, self.page_size, self.ranks

    def __str__(self) -> str:
        parts = [f"batch {self.batch}", f"chunks of {self.chunk}" if self.chunk else "whole prompts"]
        parts += [f"pages of {self.page_size}", f"{self.threads} thread{'s' if self.threads > 1 else ''}"]
        parts += [f"{self.ranks} ranks"] if self.ranks > 1 else []
        parts += ["prefix warm" if self.warm else "prefix cold", *(["preempted"] if self.preempted else []), self.isa]
        return ", ".join(parts)


_NAMES = tuple(item.name for item in fields(Cell))


def baseline(space: Space) -> Cell:
    """The default value of every factor."""
    return Cell(**{name: getattr(space, name)[0] for name in _NAMES})


def all_cells(space: Space) -> list[Cell]:
    """The full product, grouped by engine."""
    values = [getattr(space, name) for name in _NAMES]
    return [Cell(**dict(zip(_NAMES, choice, strict=True))) for choice in itertools.product(*values)]


def few_cells(space: Space) -> list[Cell]:
    """Cells with every value of every factor alone, and every pair of values of two factors at least once.

    A change that depends on one or two factors shows in one of these cells. Pairs are covered greedily, weighted by the
    cost of a cell; a set of pairs is a number with their bits (D. Cohen et al.: The AETG System, IEEE TSE 23(7), 1997).
    """
    plain = baseline(space)
    chosen = {plain: None}
    for name in _NAMES:
        chosen |= {_with(plain, name, value): None for value in getattr(space, name)}
    bits: dict[tuple[str, Any, str, Any], int] = {}
    cells = all_cells(space)
    masks = [sum(1 << bits.setdefault(pair, len(bits)) for pair in _pairs(cell)) for cell in cells]
    costs = [_cost(cell) for cell in cells]
    missing = (1 << len(bits)) - 1
    for cell, mask in zip(cells, masks, strict=True):
        missing &= ~mask if cell in chosen else missing
    while missing:
        best = max(range(len(cells)), key=lambda i: ((masks[i] & missing).bit_count() / costs[i] ** 0.5, -costs[i]))
        chosen[cells[best]] = None
        missing &= ~masks[best]
    return sorted(chosen, key=lambda cell: [getattr(space, name).index(getattr(cell, name)) for name in _NAMES])


def _with(cell: Cell, name: str, value: Any) -> Cell:
    return Cell(**{item: value if item == name else getattr(cell, item) for item in _NAMES})


def _pairs(cell: Cell) -> Sequence[tuple[str, Any, str, Any]]:
    return [(a, getattr(cell, a), b, getattr(cell, b)) for a, b in itertools.combinations(_NAMES, 2)]


def _cost(cell: Cell) -> float:
    """Estimated relative time of a cell: iterations times (rows + a constant)."""
    iterations = (80 / cell.chunk if cell.chunk else 1) * (3 if cell.preempted else 1) + 8
    return iterations * cell.ranks * (10 + cell.batch * (_SLOWNESS if cell.isa == SLOW else 1))
