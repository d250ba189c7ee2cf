"""Rows: the sequence in each, and the fewest moves that keep live rows dense (*buffer reordering*).

    before   A . B C . D        rows 1 and 4 have ended, one sequence N is admitted
    after    A N B C D          N takes the first hole, D moves from 5 to 4; the window is 0..5

Every live row that lies beyond the new number of rows has to move, and no other does; admitted sequences take the holes
that are left. The paper's baseline (`reorder=False`) never moves a row: the dead ones stay inside the window, are
computed with it, and fall off only at its edges. A static batch (`hold`) keeps all its rows until the last has ended.
"""

from __future__ import annotations

from dataclasses import dataclass

from flover.engine.plan import Move
from flover.errors import InvariantError


@dataclass(frozen=True, slots=True)
class RowLayout:
    """Moves to make, and the rows of the admitted sequences, in their order."""

    moves: list[Move]
    entries: list[int]


def dense_layout(alive: list[bool], entering: int) -> RowLayout:
    """Moves and rows after which the live rows are exactly 0..n-1, with the fewest moves."""
    size = sum(alive) + entering
    holes = [row for row in range(size) if row >= len(alive) or not alive[row]]
    outside = [row for row in range(size, len(alive)) if alive[row]]
    moves = [Move(src, dst) for src, dst in zip(outside, holes[entering:], strict=True)]
    return RowLayout(moves, holes[:entering])


def static_layout(alive: list[bool], entering: int, window: tuple[int, int]) -> RowLayout:
    """No moves: admitted sequences go behind the window, then into holes inside it, then before it."""
    start, end = window
    behind = range(end, len(alive))
    inside = (row for row in range(start, end) if not alive[row])
    free = [*behind, *inside, *range(start - 1, -1, -1)]
    return RowLayout([], free[:entering])


class RowTable:
    """The number of the sequence in each row."""

    def __init__(self, capacity: int, *, reorder: bool, hold: bool = False) -> None:
        self.reorder = reorder and not hold
        self._hold = hold
        self._numbers: list[int | None] = [None] * capacity
        self._left: list[int] = []
        self.window = (0, 0)
        """Half-open range of rows that an iteration has to cover."""

    @property
    def dead(self) -> list[int]:
        """Rows inside the window without a sequence."""
        return [row for row in range(*self.window) if self._numbers[row] is None]

    def leave(self, row: int) -> None:
        """The sequence in this row has ended or was preempted."""
        if self._numbers[row] is None:
            raise InvariantError(f"row {row} has no sequence that could leave it")
        self._numbers[row] = None
        self._left.append(row)
        self._shrink()

    def take_left(self) -> list[int]:
        """Rows left since the last call."""
        left, self._left = self._left, []
        return left

    def enter(self, numbers: list[int]) -> RowLayout:
        """Give rows to admitted sequences, and close the holes when reordering."""
        alive = [number is not None for number in self._numbers]
        count = len(numbers)
        layout = dense_layout(alive, count) if self.reorder else static_layout(alive, count, self.window)
        for move in layout.moves:
            self._numbers[move.dst], self._numbers[move.src] = self._numbers[move.src], None
        for row, number in zip(layout.entries, numbers, strict=True):
            self._numbers[row] = number
        self._shrink()
        return layout

    def clear(self) -> None:
        """Forget every sequence; `take_left` does not report them."""
        self._numbers = [None] * len(self._numbers)
        self._left = []
        self.window = (0, 0)

    def _shrink(self) -> None:
        live = [row for row, number in enumerate(self._numbers) if number is not None]
        if not live:
            self.window = (0, 0)
        elif self._hold:
            self.window = (0, max(self.window[1], live[-1] + 1))
        else:
            self.window = (0 if self.reorder else live[0], live[-1] + 1)
