"""What a GPU keeps of its rows: arrays of numpy in the place of its memory, which changes alone reach, give the batches
that the host makes of its own columns."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
import pytest
from device_driver import MOST_PROPOSED, VOCAB, Driver, EchoDecoder, EchoShape, Story, story, tell_in_a_crowd
from support.facts import model_facts

from flover.engine.plan import Move, StepPlan
from flover.executor.device import DeviceExecutor
from flover.executor.device_batch import Layout, make_batch
from flover.executor.row_cells import (
    COMPUTED,
    FIRST_PAGE,
    NAMED,
    NEWEST,
    ROTARY,
    CellMap,
    place_rows,
    row_changes,
    rows_after,
)
from flover.memory.kvcache import KVCache
from flover.ops import Array, reference

ROWS, PAGES = 6, 600


class CellsExecutor(DeviceExecutor):
    """Computes on the host's columns, and compares them with cells that only changes reach."""

    def __init__(self, page_size: int) -> None:
        facts = model_facts(
            vocab_size=VOCAB, max_model_len=96, pool_tokens=(PAGES - 1) * page_size, page_size=page_size, eos_ids=[7]
        )
        kv = KVCache(EchoShape(), PAGES, page_size, "float32", reference.page_shapes)
        super().__init__(EchoDecoder(), kv, facts, ROWS)
        self.map = CellMap(ROWS, self._buffers["page_table"].shape[1])
        self.cells = np.zeros(self.map.size, dtype=np.int32)
        self.lines = self.cells[: self.map.order].reshape(ROWS + 1, self.map.stride)
        self.known = np.full(ROWS, -1)
        self.copied: list[int] = []

    def _compute(self, plan: StepPlan, layout: Layout | None) -> Array | None:
        places = 0 if layout is None else len(layout.rows) + layout.one_token * (ROWS - len(layout.rows))
        order = np.zeros(0, dtype=np.int64) if layout is None else place_rows(layout, plan.dead, places, ROWS)
        changes = row_changes(plan, layout, order, self.known, self._buffers, self.map)
        self.lines[changes.dst] = self.lines[changes.src]
        assert len(set(changes.cells.tolist())) == len(changes.cells)
        self.cells[changes.cells] = changes.values
        self.known[: len(order)] = order
        self.copied.append(len(changes.cells))
        if layout is not None:
            self._compare(layout)
        return super()._compute(plan, layout)

    def _compare(self, layout: Layout) -> None:
        host, size = make_batch(layout, self._buffers, self.facts.page_size), self.facts.page_size
        order = self.cells[self.map.order :]
        assert not self.lines[ROWS].any()
        assert (order[len(layout.rows) :] == ROWS).all() or not layout.one_token
        given = layout.inputs(np.full(layout.starts[-1], -1))
        for place, row in enumerate(order[: len(layout.rows)]):
            line, own = self.lines[row], slice(layout.starts[place], layout.starts[place + 1])
            positions = line[COMPUTED] + np.arange(layout.lens[place])
            newest = line[NAMED] - 1 if line[NAMED] else line[NEWEST]
            ids = np.where((given[own] < 0) | layout.one_token, newest, given[own])
            np.testing.assert_array_equal(host.token_ids[own], ids)
            np.testing.assert_array_equal(host.positions[own], positions + line[ROTARY])
            pages = line[FIRST_PAGE + positions // size]
            np.testing.assert_array_equal(host.slots[own], pages * size + positions % size)
            used = -(-(positions[-1] + 1) // size)
            np.testing.assert_array_equal(host.page_table[place, :used], line[FIRST_PAGE : FIRST_PAGE + used])
            if row < ROWS:
                line[COMPUTED] += len(positions)
                line[NAMED] = 0

    def _draw(self, logits: Array, work: list[Any], results: Any) -> list[int]:
        tokens = super()._draw(logits, work, results)
        self.lines[[one.row for one in work], NEWEST] = tokens
        return tokens


@pytest.mark.parametrize("reorder", [True, False], ids=["reorder", "no-reorder"])
def test_changes_alone_keep_the_cells_what_the_columns_are(reorder: bool) -> None:
    """Random crowds with chunks, moves, preemptions."""
    for seed in range(4):
        rng = Random(seed)
        stories = [story(_prompt(rng), rng.randint(5, 12)) for _ in range(12)]
        executor = CellsExecutor(rng.choice([1, 3, 4, 16]))
        tell_in_a_crowd(Driver(executor), stories, rng, reorder=reorder, preempt=0.05)


def test_proposals_that_are_refused_are_taken_back() -> None:
    rng = Random(1)
    driver = Driver(CellsExecutor(4))
    stories = [story(_prompt(rng), 20) for _ in range(4)]

    def propose(told: Story) -> list[int]:
        return [rng.randrange(VOCAB) for _ in range(rng.randint(0, MOST_PROPOSED))]

    driver.run(admit=list(enumerate(stories)), propose=propose)
    while not all(told.done for told in stories):
        driver.run(propose=propose)


def test_a_step_that_generates_sends_nothing_but_new_pages() -> None:
    executor = CellsExecutor(4)
    driver = Driver(executor)
    driver.run(admit=[(row, story([1 + row, 2, 3], 30)) for row in range(3)])
    driver.run()
    executor.copied.clear()
    for _ in range(8):
        driver.run()
    assert sorted(executor.copied) == [0] * 6 + [3] * 2  # pages hold 4 tokens


def test_where_rows_are_when_their_tokens_come() -> None:
    """Row 1 leaves, row 4 moves into its place, and a new one takes row 0."""
    plan = StepPlan(
        step=1, evictions=[1, 0], moves=[Move(4, 1)], admissions=[], grants=[], work=[], window=(0, 4), dead=[]
    )
    assert rows_after(plan, np.array([0, 1, 2, 4])).tolist() == [-1, -1, 2, 1]


def _prompt(rng: Random) -> list[int]:
    return [rng.randrange(VOCAB) for _ in range(rng.randint(1, 20))]
