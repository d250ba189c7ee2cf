"""Rows: which sequence sits where, and the fewest moves that keep live rows dense (*buffer reordering*).

    before   A . B C . D        rows 1 and 4 have ended, one newcomer N
    after    A N B C D          N takes the first hole, D moves from 5 to 4; the window is 0..5

Every live row that lies beyond the new number of rows has to move, and no other does; newcomers take the holes
that are left. The paper's baseline (`reorder=False`) never moves a row: the dead ones stay inside the window, are
computed with it, and fall off only at its edges. A static batch (`hold`) keeps all its rows until the last has ended.
"""

from __future__ import annotations

from dataclasses import dataclass

from flover.engine.plan import Move
from flover.errors import InvariantError


@dataclass(frozen=True, slots=True)
class Layout:
    """Moves to make, and the rows that the newcomers get, in their order."""

    moves: list[Move]
    entries: list[int]


NO_CHANGE = Layout([], [])


def dense_layout(alive: list[bool], entering: int) -> Layout:
    """Rows after which live rows and newcomers are exactly 0..n-1, with the fewest moves."""
    size = sum(alive) + entering
    holes = [row for row in range(size) if row >= len(alive) or not alive[row]]
    outside = [row for row in range(size, len(alive)) if alive[row]]
    moves = [Move(src, dst) for src, dst in zip(outside, holes[entering:], strict=True)]
    return Layout(moves, holes[:entering])


def static_layout(alive: list[bool], entering: int, window: tuple[int, int]) -> Layout:
    """No moves: newcomers go behind the window, then into holes inside it, then before it."""
    start, end = window
    behind = range(end, len(alive))
    inside = (row for row in range(start, end) if not alive[row])
    places = [*behind, *inside, *range(start - 1, -1, -1)]
    return Layout([], places[:entering])


class RowTable:
    """Which sequence number sits in which row."""

    def __init__(self, capacity: int, *, reorder: bool, hold: bool = False) -> None:
        self.reorder = reorder and not hold
        self._hold = hold
        self._occupants: list[int | None] = [None] * capacity
        self._window = (0, 0)
        self._left: list[int] = []

    @property
    def window(self) -> tuple[int, int]:
        """Half-open range of rows that an iteration has to cover."""
        return self._window

    @property
    def dead(self) -> list[int]:
        """Rows inside the window without a sequence."""
        return [row for row in range(*self._window) if self._occupants[row] is None]

    def occupant(self, row: int) -> int:
        """The sequence in a live row."""
        number = self._occupants[row]
        if number is None:
            raise InvariantError(f"row {row} is dead but was asked for its sequence")
        return number

    def leave(self, row: int) -> None:
        """The sequence in this row has ended or was preempted."""
        self.occupant(row)
        self._occupants[row] = None
        self._left.append(row)
        self._shrink()

    def take_left(self) -> list[int]:
        """Rows left since the last call."""
        left, self._left = self._left, []
        return left

    def enter(self, numbers: list[int]) -> Layout:
        """Seat newcomers, and close the holes when reordering."""
        alive = [occupant is not None for occupant in self._occupants]
        count = len(numbers)
        layout = dense_layout(alive, count) if self.reorder else static_layout(alive, count, self._window)
        for move in layout.moves:
            self._occupants[move.dst], self._occupants[move.src] = self._occupants[move.src], None
        for row, number in zip(layout.entries, numbers, strict=True):
            self._occupants[row] = number
        self._shrink()
        return layout

    def clear(self) -> None:
        """Forget everybody, without a trace for `take_left`."""
        self._occupants = [None] * len(self._occupants)
        self._window = (0, 0)
        self._left = []

    def _shrink(self) -> None:
        live = [row for row, occupant in enumerate(self._occupants) if occupant is not None]
        if self._hold and live:
            self._window = (0, max(self._window[1], live[-1] + 1))
            return
        start = 0 if self.reorder or not live else live[0]
        self._window = (start, live[-1] + 1) if live else (0, 0)

    def check(self, running: dict[int, int]) -> None:
        """`running` maps sequence number to row: both views must agree."""
        seats = {number: row for row, number in enumerate(self._occupants) if number is not None}
        if seats != running:
            raise InvariantError(f"row table {seats} disagrees with the sequences' rows {running}")
