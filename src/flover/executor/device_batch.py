"""From a plan and the rows' columns to the arrays of one ragged forward: numpy, no loop over tokens."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from flover.engine.plan import StepPlan, Work
from flover.errors import InvariantError
from flover.memory.buffers import RowBuffers
from flover.memory.columns import Array
from flover.model.batch import Batch


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedBatch:
    """A batch and where the work of a plan is in it: work[r] is done by row rows[r]."""

    batch: Batch
    work: list[Work]  # in the order of rows, dead ones included
    rows: Array  # [R] int64, ascending
    starts: Array  # [R + 1]: work[r] is tokens starts[r] .. starts[r + 1]
    context_lens: Array  # [R] int64

    def sampled(self, hidden: Any) -> tuple[Any, Array]:
        """Of the hidden states [T, H] those that are sampled, row by row, and where each row's first is among them."""
        counts = np.array([one.num_samples for one in self.work])
        ends, kept = self.starts[1:], counts > 0
        first = np.cumsum(counts) - counts
        if counts.max() == 1:
            return hidden[ends[kept] - 1], first[kept]
        tokens = np.repeat(ends - counts - first, counts) + np.arange(counts.sum())
        return hidden[tokens], first[kept]

    def digest(self) -> int:
        """A checksum of everything that the forward reads."""
        batch, value = self.batch, 0
        for array in (batch.token_ids, batch.positions, batch.slots, batch.query_starts, batch.page_table):
            value = zlib.crc32(array.tobytes(), value)
        return zlib.crc32(self.rows.tobytes(), value)


def lay_out(plan: StepPlan, buffers: RowBuffers, page_size: int) -> PlannedBatch | None:
    """The batch of `plan`, whose row changes are applied already. None if the plan computes nothing.

    The first input of a generating row is its column `last_id`. A dead row computes token 0 at position 0 of the null
    page. Raises `InvariantError` where the plan does not fit the rows.
    """
    work = plan.work
    if plan.dead:
        work = sorted([*work, *(Work(row, 0, [0], 0) for row in plan.dead)], key=lambda one: one.row)
    if not work:
        return None
    rows = np.array([one.row for one in work])
    first_positions = np.array([one.start for one in work])
    lens_host = tuple([one.num_tokens for one in work])
    if max(lens_host) == 1:  # at one row of a small model each call of numpy is felt
        starts, token_rows, positions = np.arange(len(work) + 1), rows, first_positions
        context_lens = first_positions + 1
    else:
        lens = np.array(lens_host)
        starts = np.zeros(len(work) + 1, dtype=np.int64)
        np.cumsum(lens, out=starts[1:])
        token_rows = np.repeat(rows, lens)
        positions = np.arange(starts[-1]) + np.repeat(first_positions - starts[:-1], lens)
        context_lens = first_positions + lens
    _check(plan, work, buffers, rows, first_positions, context_lens, page_size)

    context_lens_host = tuple(context_lens.tolist())
    page_table = buffers["page_table"][:, : -(-max(context_lens_host) // page_size)]
    pages = positions // page_size
    slots = page_table[token_rows, pages] * np.int64(page_size) + (positions - pages * page_size)
    batch = Batch(
        token_ids=_inputs(work, starts, buffers["last_id"][token_rows]),
        positions=positions + buffers["rotary_start"][token_rows],
        slots=slots,
        query_starts=starts.astype(np.int32),
        context_lens=context_lens.astype(np.int32),
        page_table=page_table[rows],
        query_lens_host=lens_host,
        context_lens_host=context_lens_host,
    )
    return PlannedBatch(batch=batch, work=work, rows=rows, starts=starts, context_lens=context_lens)


def _inputs(work: list[Work], starts: Array, token_ids: Array) -> Array:
    """The token ids of the batch; `token_ids` holds each row's newest token in all of its places."""
    for place, one in enumerate(work):
        if one.token_ids:
            end = starts[place + 1]
            token_ids[end - len(one.token_ids) : end] = one.token_ids
    return token_ids


def _check(
    plan: StepPlan,
    work: list[Work],
    buffers: RowBuffers,
    rows: Array,
    first_positions: Array,
    context_lens: Array,
    page_size: int,
) -> None:
    """A plan that does not fit the rows would read what was never written, or write to another row's page."""
    if any(one.row >= other.row for one, other in pairwise(work)):
        raise InvariantError(f"step {plan.step}: a row is planned twice, or out of order: rows {rows.tolist()}")
    computed = buffers["context_len"][rows]
    if (first_positions > computed).any() or (context_lens == first_positions).any():
        place = int(((first_positions > computed) | (context_lens == first_positions)).argmax())
        raise InvariantError(
            f"step {plan.step}: row {rows[place]} has {computed[place]} tokens computed, its work of "
            f"{work[place].num_tokens} tokens starts at {work[place].start}"
        )
    short = context_lens > buffers["num_pages"][rows] * page_size
    if short.any() and (rejected := sorted(set(rows[short].tolist()).difference(plan.dead))):
        raise InvariantError(f"step {plan.step}: rows {rejected} have too few pages")


def dummy_batch(num_rows: int, query_len: int, page_size: int) -> Batch:
    """`num_rows` rows of `query_len` tokens 0 that read and write nothing but the null page: for warming up."""
    positions = np.tile(np.arange(query_len), num_rows)
    return Batch(
        token_ids=np.zeros(num_rows * query_len, dtype=np.int64),
        positions=positions,
        slots=positions % page_size,
        query_starts=np.arange(num_rows + 1, dtype=np.int32) * np.int32(query_len),
        context_lens=np.full(num_rows, query_len, dtype=np.int32),
        page_table=np.zeros((num_rows, -(-query_len // page_size)), dtype=np.int32),
        query_lens_host=(query_len,) * num_rows,
        context_lens_host=(query_len,) * num_rows,
    )
