"""Buffer reordering: rows stay dense, with the fewest moves."""

from hypothesis import given
from hypothesis import strategies as st
from simulation.invariants import check_rows

from flover.engine.plan import Move
from flover.engine.rows import RowTable, dense_layout


@given(st.lists(st.booleans(), max_size=40), st.integers(0, 8))
def test_dense_layout_is_dense_and_moves_only_rows_beyond_the_end(alive: list[bool], entering: int) -> None:
    layout = dense_layout(alive, entering)
    size = sum(alive) + entering
    rows = {row for row, live in enumerate(alive) if live}
    assert len(layout.moves) == len({row for row in rows if row >= size})
    for move in layout.moves:
        assert move.src in rows and move.dst not in rows and move.dst < size <= move.src
        rows = rows - {move.src} | {move.dst}
    assert rows.isdisjoint(layout.entries)
    assert rows | set(layout.entries) == set(range(size))


def test_picture_of_the_module_docstring() -> None:
    layout = dense_layout([True, False, True, True, False, True], entering=1)
    assert layout.entries == [1]
    assert layout.moves == [Move(5, 4)]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 30)), max_size=80), st.booleans())
def test_row_table_against_a_dictionary(steps: list[tuple[bool, int]], reorder: bool) -> None:
    table, rows, number = RowTable(8, reorder=reorder), {}, 0
    for enters, choice in steps:
        if enters and len(rows) < 8:
            admitted = list(range(number, number + 1 + choice % (8 - len(rows))))
            number += len(admitted)
            layout = table.enter(admitted)
            moved = {move.src: move.dst for move in layout.moves}
            rows = {who: moved.get(row, row) for who, row in rows.items()}
            rows |= dict(zip(admitted, layout.entries, strict=True))
            if reorder:
                assert sorted(rows.values()) == list(range(len(rows)))
        elif rows:
            who = sorted(rows)[choice % len(rows)]
            table.leave(rows.pop(who))
        check_rows(table, rows)
        start, end = table.window
        assert all(start <= row < end for row in rows.values())
        assert set(table.dead) == set(range(start, end)) - set(rows.values())


def test_without_reordering_a_dead_row_stays_until_it_is_at_an_edge() -> None:
    table = RowTable(8, reorder=False)
    table.enter([0, 1, 2, 3])
    table.leave(1)
    table.leave(2)
    assert (table.window, table.dead) == ((0, 4), [1, 2])
    table.leave(0)
    assert (table.window, table.dead) == ((3, 4), [])
