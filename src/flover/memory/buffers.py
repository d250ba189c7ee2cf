"""Storage of the per-row columns: insert, move and clear loop over the declarations of `memory/columns.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from flover.errors import InvariantError
from flover.memory.columns import Array, Column


class RowBuffers:
    """`num_rows` rows of every declared column; `buffers["seed"]` is the array [num_rows, *shape]."""

    def __init__(self, columns: Sequence[Column], num_rows: int) -> None:
        self.columns = {column.name: column for column in columns}
        if len(self.columns) != len(columns):
            raise InvariantError("two columns have the same name")
        self.num_rows = num_rows
        self._arrays: dict[str, Array] = {
            column.name: np.full((num_rows, *column.shape), column.fill, dtype=column.dtype) for column in columns
        }

    def __getitem__(self, name: str) -> Array:
        return self._arrays[name]

    def insert(self, row: int, **values: Any) -> None:
        """Set these values of `row`, and the fill in its other columns. A vector may be shorter than its column."""
        unknown = values.keys() - self.columns.keys()
        if unknown:
            raise InvariantError(f"no such column: {', '.join(sorted(unknown))}")
        self._check_rows((row,))
        for name, column in self.columns.items():
            array = self._arrays[name]
            if name not in values:
                array[row] = column.fill
            elif column.shape:
                vector = values[name]
                if len(vector) > column.shape[0]:
                    raise InvariantError(f"row {row}: {len(vector)} values for {name}, which holds {column.shape[0]}")
                array[row, : len(vector)] = vector
                array[row, len(vector) :] = column.fill
            else:
                array[row] = values[name]

    def move(self, src: Sequence[int], dst: Sequence[int]) -> None:
        """Row src[i] becomes row dst[i] for all i at once, one gather per column; vacated rows are cleared."""
        if not src and not dst:
            return
        self._check_rows(src)
        self._check_rows(dst)
        if len(src) != len(dst) or len(set(src)) != len(src) or len(set(dst)) != len(dst):
            raise InvariantError(f"moves {list(src)} to {list(dst)} are not one to one")
        sources, targets = np.asarray(src), np.asarray(dst)
        for array in self._arrays.values():
            array[targets] = array[sources]
        self.clear(sorted(set(src) - set(dst)))

    def clear(self, rows: Sequence[int]) -> None:
        """Set every column of these rows to its fill, which frees the objects that they referred to."""
        if not rows:
            return
        self._check_rows(rows)
        index = np.asarray(rows)
        for name, column in self.columns.items():
            self._arrays[name][index] = column.fill

    def view(self, rows: Array) -> RowView:
        """A view of these rows, in this order."""
        return RowView(self, rows)

    def _check_rows(self, rows: Sequence[int]) -> None:
        for row in rows:
            if not 0 <= row < self.num_rows:
                raise InvariantError(f"row {row} is outside 0..{self.num_rows - 1}")


class RowView:
    """Some rows of the buffers. `view["seed"]` gathers one column into a copy, when it is read."""

    __slots__ = ("_buffers", "rows")

    def __init__(self, buffers: RowBuffers, rows: Array) -> None:
        self._buffers = buffers
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, name: str) -> Array:
        gathered: Array = self._buffers[name][self.rows]
        return gathered

    def select(self, positions: Array) -> RowView:
        """The view of rows[positions]."""
        return RowView(self._buffers, self.rows[positions])
