"""The columns that a GPU keeps of its rows, and which of their cells a plan changes. Decided on the host, in numpy.

A row is a line of int32 cells: its newest token, how many of its tokens are in its pages, what is added to its
positions in rotary lookups, the token that the next iteration names for it (plus 1; 0: none), and its page table.
Behind the lines lies the *order*: the row of each place in the forward. One more line behind the last row, all zeros,
is for places without a row: token 0 at position 0 of the null page.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flover.engine.plan import StepPlan
from flover.executor.device_batch import Layout
from flover.memory.buffers import RowBuffers
from flover.memory.columns import Array

NEWEST, COMPUTED, ROTARY, NAMED, FIRST_PAGE = range(5)
"""Cells of a line."""


@dataclass(frozen=True, slots=True)
class CellMap:
    """Where the cells of `num_rows` rows with up to `max_pages` pages lie."""

    num_rows: int
    max_pages: int

    @property
    def stride(self) -> int:
        """Cells of a line; a multiple of 16 bytes."""
        return FIRST_PAGE + -(-self.max_pages // 4) * 4

    @property
    def order(self) -> int:
        """The first cell of the order, behind the lines."""
        return (self.num_rows + 1) * self.stride

    @property
    def size(self) -> int:
        """All cells."""
        return self.order + self.num_rows


@dataclass(frozen=True, slots=True)
class RowChanges:
    """Lines src[i] become lines dst[i], all at once; then cells[i] becomes values[i], each cell once."""

    src: Array  # int64
    dst: Array  # int64
    cells: Array  # int64
    values: Array  # int32


def place_rows(layout: Layout, dead: list[int], num_places: int, num_rows: int) -> Array:
    """The order of a forward with `num_places` places: the rows of the layout, then none. Dead rows are none too."""
    order = np.full(num_places, num_rows)
    order[: len(layout.rows)] = layout.rows
    if dead:
        order[np.flatnonzero(np.isin(layout.rows, dead))] = num_rows
    return order


def row_changes(
    plan: StepPlan, layout: Layout | None, order: Array, known: Array, buffers: RowBuffers, cells: CellMap
) -> RowChanges:
    """What a plan changes on the device.

    `buffers` have the plan's row changes, and their context lengths are what the device will have counted by then.
    `order` is that of the forward, `known` what lies on the device in its place.
    """
    found = _Found()
    admitted = {admission.row for admission in plan.admissions}
    for row in admitted:
        line, used = row * cells.stride, int(buffers["num_pages"][row])
        head = buffers["last_id"][row], buffers["context_len"][row], buffers["rotary_start"][row], 0
        found.add(line + np.arange(FIRST_PAGE), np.array(head))
        found.add(line + FIRST_PAGE + np.arange(used), buffers["page_table"][row, :used])
    for grant in plan.grants:
        if grant.row not in admitted:
            first = int(buffers["num_pages"][grant.row]) - len(grant.pages)
            line = grant.row * cells.stride + FIRST_PAGE
            found.add(line + first + np.arange(len(grant.pages)), np.array(grant.pages))
    if layout is not None:
        _correct(layout, plan.dead, buffers, cells, found)
    new = np.flatnonzero(known[: len(order)] != order)
    if len(new):
        found.add(cells.order + new, order[new])
    src, dst = ([getattr(move, end) for move in plan.moves] for end in ("src", "dst"))
    return RowChanges(np.array(src, dtype=np.int64), np.array(dst, dtype=np.int64), *found.last())


def rows_after(plan: StepPlan, rows: Array) -> Array:
    """Where the sequences in `rows` are after the plan's row changes; -1: they have left."""
    if not (plan.evictions or plan.moves):
        return rows
    moved = {move.src: move.dst for move in plan.moves}
    left = set(plan.evictions)
    return np.array([-1 if row in left else moved.get(row, row) for row in rows.tolist()], dtype=np.int64)


def _correct(layout: Layout, dead: list[int], buffers: RowBuffers, cells: CellMap, found: _Found) -> None:
    """Rows that begin before what they have computed (proposals were refused), and tokens that a plan names where
    every row computes one."""
    alive = ~np.isin(layout.rows, dead) if dead else np.ones(len(layout.rows), dtype=bool)
    again = np.flatnonzero((layout.first_positions != buffers["context_len"][layout.rows]) & alive)
    if len(again):
        found.add(layout.rows[again] * cells.stride + COMPUTED, layout.first_positions[again])
    if layout.one_token:
        named = [place for place, one in enumerate(layout.work) if one.token_ids and alive[place]]
        if named:
            ids = np.array([layout.work[place].token_ids[0] for place in named])
            found.add(layout.rows[named] * cells.stride + NAMED, ids + 1)


class _Found:
    """Cells and their values, in the order in which they were found."""

    def __init__(self) -> None:
        self._parts: list[tuple[Array, Array]] = []

    def add(self, cells: Array, values: Array) -> None:
        self._parts.append((cells, values))

    def last(self) -> tuple[Array, Array]:
        """Each cell once, with the value that was found last."""
        if not self._parts:
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int32)
        cells = np.concatenate([cells for cells, _ in self._parts])[::-1]
        values = np.concatenate([values for _, values in self._parts])[::-1]
        unique, places = np.unique(cells, return_index=True)
        return unique, values[places].astype(np.int32)
