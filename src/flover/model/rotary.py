"""Cosines and sines of one rotary embedding, computed with the op table."""

from __future__ import annotations

import numpy as np

from flover.model.config import RopeConfig
from flover.model.rope import inverse_frequencies
from flover.ops import Array, Ops, Weight

_SHUT = -80.0  # its sigmoid is lost in a sum with one, and not too large for float32's exponential
_TABLE_ROWS = 4096  # positions whose angles are computed at once


class Rotary:
    """Angles by position, for contexts of up to `max_len` tokens. Where requests of up to `switch_len` tokens turn
    otherwise (`rope.py`), the positions of their tokens begin at `max_len`, and angles are looked up in a table."""

    def __init__(self, rope: RopeConfig, ops: Ops, max_len: int, switch_len: int | None) -> None:
        self.ops = ops
        frequencies, self.scale = inverse_frequencies(rope, max_len)
        self.frequencies: Array = ops.array(frequencies)
        self.tables = None if switch_len is None else _tables(rope, ops, max_len, switch_len)
        self._gates = _gates(rope, ops, max_len) if rope.query_beta else None

    def angles(self, positions: Array) -> tuple[Array, Array]:
        """(cos, sin) of positions int64 [T], float32 [T, dim / 2]."""
        if self.tables is None:
            return self.ops.angles(positions, self.frequencies, self.scale)
        cos, sin = self.tables
        return self.ops.embed(positions, cos, 1.0), self.ops.embed(positions, sin, 1.0)

    def gates(self, positions: Array) -> Array | None:
        """What queries are scaled by (`Ops.scale_queries`), float32 [T, 1]; None if they are not."""
        return None if self._gates is None else self.ops.embed(positions, self._gates, 1.0)


def _gates(rope: RopeConfig, ops: Ops, max_len: int) -> Weight:
    """By position, the logit of what is above one in the factor on queries (`RopeConfig.query_beta`)."""
    growth = rope.query_beta * np.log1p(np.arange(max_len) // rope.original_max_len)
    gates = np.full(max_len, _SHUT)
    np.log(growth / (1 - growth), out=gates, where=growth > 0)
    table = ops.new_weight((max_len, 1), "float32", False)
    table.store(0, gates[:, None].astype(np.float32))
    return table


def _tables(rope: RopeConfig, ops: Ops, max_len: int, switch_len: int) -> tuple[Weight, Weight]:
    """Cosines and sines by position: `max_len` rows as for long requests, then `switch_len` as for short ones."""
    rows, size = max_len + switch_len, rope.dim // 2
    cos, sin = (ops.new_weight((rows, size), "float32", False) for _ in range(2))
    for first, count in ((0, max_len), (max_len, switch_len)):
        frequencies, scale = inverse_frequencies(rope, count)
        for start in range(0, count, _TABLE_ROWS):
            positions = ops.array(np.arange(start, min(start + _TABLE_ROWS, count)))
            for table, values in zip((cos, sin), ops.angles(positions, ops.array(frequencies), scale), strict=True):
                table.store(first + start, np.asarray(values))
    return cos, sin
