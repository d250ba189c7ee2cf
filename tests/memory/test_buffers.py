"""Columns follow their rows: insert, move and clear against a model of dictionaries."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flover.errors import InvariantError
from flover.memory.buffers import RowBuffers
from flover.memory.columns import Column, row_columns

NUM_ROWS = 6
COLUMNS = (
    Column("number", np.int64, fill=-1),
    Column("share", np.float32, fill=1.0),
    Column("table", np.int32, (3,)),
    Column("state", object, fill=None),
)
FILLS = {"number": -1, "share": 1.0, "table": [0, 0, 0], "state": None}


def contents(buffers: RowBuffers, row: int) -> dict[str, Any]:
    return {
        "number": int(buffers["number"][row]),
        "share": float(buffers["share"][row]),
        "table": buffers["table"][row].tolist(),
        "state": buffers["state"][row],
    }


values = st.fixed_dictionaries(
    {},
    optional={
        "number": st.integers(-(2**63), 2**63 - 1),
        "share": st.floats(0, 4, width=32),
        "table": st.lists(st.integers(1, 9), max_size=3),
        "state": st.sampled_from(["a", "b"]).map(lambda name: [name]),
    },
)
rows = st.integers(0, NUM_ROWS - 1)
inserts = st.tuples(st.just("insert"), rows, values)
moves = st.tuples(st.just("move"), st.permutations(range(NUM_ROWS)), st.integers(0, NUM_ROWS // 2))
clears = st.tuples(st.just("clear"), st.lists(rows, unique=True), st.none())


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(inserts, moves, clears), max_size=25))
def test_rows_hold_what_a_dictionary_per_row_would_hold(actions: list[tuple[str, Any, Any]]) -> None:
    buffers = RowBuffers(COLUMNS, NUM_ROWS)
    model = {row: dict(FILLS) for row in range(NUM_ROWS)}
    for action, first, second in actions:
        if action == "insert":
            buffers.insert(first, **second)
            table = second.get("table", [])
            model[first] = {**FILLS, **second, "table": table + [0] * (3 - len(table))}
        elif action == "move":
            src, dst = list(first[:second]), list(first[second : 2 * second])
            buffers.move(src, dst)
            moved = [model[row] for row in src]
            for row in src:
                model[row] = dict(FILLS)
            for row, held in zip(dst, moved, strict=True):
                model[row] = held
        else:
            buffers.clear(first)
            for row in first:
                model[row] = dict(FILLS)
        assert {row: contents(buffers, row) for row in range(NUM_ROWS)} == model


def test_moved_state_is_carried_not_copied_and_leaves_its_old_row() -> None:
    buffers = RowBuffers(COLUMNS, NUM_ROWS)
    state = object()
    buffers.insert(5, state=state)
    buffers.move([5], [1])
    assert buffers["state"][1] is state
    assert buffers["state"][5] is None


def test_a_chain_of_moves_reads_before_it_writes() -> None:
    buffers = RowBuffers(COLUMNS, NUM_ROWS)
    buffers.insert(3, number=3)
    buffers.insert(4, number=4)
    buffers.move([3, 4], [2, 3])
    assert buffers["number"].tolist() == [-1, -1, 3, 4, -1, -1]


@pytest.mark.parametrize(
    ("src", "dst"), [([1, 1], [2, 3]), ([1, 2], [3, 3]), ([1], [2, 3]), ([NUM_ROWS], [0]), ([-1], [0])]
)
def test_moves_that_are_not_one_to_one_or_out_of_range_are_refused(src: list[int], dst: list[int]) -> None:
    with pytest.raises(InvariantError):
        RowBuffers(COLUMNS, NUM_ROWS).move(src, dst)


def test_unknown_columns_and_vectors_too_long_are_refused() -> None:
    buffers = RowBuffers(COLUMNS, NUM_ROWS)
    with pytest.raises(InvariantError, match="no such column: colour"):
        buffers.insert(0, colour=1)
    with pytest.raises(InvariantError, match="4 values for table, which holds 3"):
        buffers.insert(0, table=[1, 2, 3, 4])
    with pytest.raises(InvariantError, match="same name"):
        RowBuffers([COLUMNS[0], COLUMNS[0]], 1)


def test_an_empty_row_costs_no_memory_that_grows_with_the_vocabulary() -> None:
    buffers = RowBuffers(row_columns(max_pages=8), num_rows=4)
    wide = [column.name for column in row_columns(8) if column.dtype is object]
    assert wide, "state as wide as the vocabulary belongs into object columns"
    assert all(buffers[name][row] is None for name in wide for row in range(4))


def test_a_view_reads_its_rows_in_its_own_order() -> None:
    buffers = RowBuffers(COLUMNS, NUM_ROWS)
    for row in range(NUM_ROWS):
        buffers.insert(row, number=10 * row)
    view = buffers.view(np.array([4, 0, 2]))
    assert len(view) == 3
    assert view["number"].tolist() == [40, 0, 20]
    assert view.select(np.array([2, 0]))["number"].tolist() == [20, 40]
