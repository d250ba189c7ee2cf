"""From a plan and the rows' columns to one ragged forward: where each row's tokens lie, and its arrays. numpy, no loop
over tokens."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from flover.engine.plan import StepPlan, Work
from flover.errors import InvariantError
from flover.memory.buffers import RowBuffers
from flover.memory.columns import Array
from flover.model.batch import Batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where the work of a plan is among the tokens of its forward: work[r] is done by row rows[r]."""

    work: list[Work]  # in the order of rows, dead ones included
    rows: Array  # [R] int64, ascending
    starts: Array  # [R + 1]: work[r] is tokens starts[r] .. starts[r + 1]
    first_positions: Array  # [R] int64
    context_lens: Array  # [R] int64: tokens of the row that are in its pages afterwards
    lens: tuple[int, ...]  # tokens of each
    longest: int  # of the context lengths

    @property
    def one_token(self) -> bool:
        """Whether every row computes one token."""
        return int(self.starts[-1]) == len(self.work)

    def sampled(self) -> tuple[Array, Array]:
        """The tokens whose hidden states are sampled, row by row, and where each row's first is among them."""
        counts = np.array([one.num_samples for one in self.work])
        ends, kept = self.starts[1:], counts > 0
        first = np.cumsum(counts) - counts
        if counts.max() == 1:
            return ends[kept] - 1, first[kept]
        return np.repeat(ends - counts - first, counts) + np.arange(counts.sum()), first[kept]

    def inputs(self, newest: Array) -> Array:
        """The token ids of the forward; `newest` holds each row's newest token in all of its places, and is changed."""
        for place, one in enumerate(self.work):
            if one.token_ids:
                end = self.starts[place + 1]
                newest[end - len(one.token_ids) : end] = one.token_ids
        return newest


def lay_out(plan: StepPlan, buffers: RowBuffers, page_size: int) -> Layout | None:
    """The layout of `plan`, whose row changes are applied already. None if the plan computes nothing.

    A dead row computes token 0 at position 0 of the null page. Raises `InvariantError` where the plan does not fit the
    rows.
    """
    work = plan.work
    if plan.dead:
        work = sorted([*work, *(Work(row, 0, [0], 0) for row in plan.dead)], key=lambda one: one.row)
    if not work:
        return None
    rows = np.array([one.row for one in work])
    first_positions = np.array([one.start for one in work])
    lens = tuple([one.num_tokens for one in work])
    if max(lens) == 1:  # at one row of a small model each call of numpy is felt
        starts, context_lens = np.arange(len(work) + 1), first_positions + 1
    else:
        starts = np.zeros(len(work) + 1, dtype=np.int64)
        np.cumsum(np.array(lens), out=starts[1:])
        context_lens = first_positions + lens
    _check(plan, work, buffers, rows, first_positions, context_lens, page_size)
    return Layout(
        work=work,
        rows=rows,
        starts=starts,
        first_positions=first_positions,
        context_lens=context_lens,
        lens=lens,
        longest=int(context_lens.max()),
    )


def make_batch(layout: Layout, buffers: RowBuffers, page_size: int, *, with_adapters: bool = False) -> Batch:
    """The arrays of the forward, on the host. The first input of a generating row is its column `last_id`."""
    rows, starts, first_positions = layout.rows, layout.starts, layout.first_positions
    if layout.one_token:
        token_rows, positions = rows, first_positions
    else:
        lens = np.array(layout.lens)
        token_rows = np.repeat(rows, lens)
        positions = np.arange(starts[-1]) + np.repeat(first_positions - starts[:-1], lens)
    page_table = buffers["page_table"][:, : -(-layout.longest // page_size)]
    slots = slots_of(page_table, token_rows, positions, page_size)
    return Batch(
        token_ids=layout.inputs(buffers["last_id"][token_rows]),
        positions=positions + buffers["rotary_start"][token_rows],
        slots=slots,
        query_starts=starts.astype(np.int32),
        context_lens=layout.context_lens.astype(np.int32),
        page_table=page_table[rows],
        query_lens_host=layout.lens,
        context_lens_host=tuple(layout.context_lens.tolist()),
        adapters=buffers["adapter"][token_rows] if with_adapters else None,
    )


def slots_of(page_table: Array, rows: Array, positions: Array, page_size: int) -> Array:
    """[T] int64: where the token at positions[t] of row rows[t] of the page table [R, P] has its key and value."""
    pages = positions // page_size
    slots: Array = page_table[rows, pages] * np.int64(page_size) + (positions - pages * page_size)
    return slots


def digest_of(layout: Layout, batch: Batch) -> int:
    """A checksum of everything that the forward reads."""
    value = 0
    for array in (batch.token_ids, batch.positions, batch.slots, batch.query_starts, batch.page_table):
        value = zlib.crc32(array.tobytes(), value)
    return zlib.crc32(layout.rows.tobytes(), value)


def digest_of_rows(layout: Layout, buffers: RowBuffers, page_size: int) -> int:
    """The same where the tokens are known to the device alone."""
    pages = buffers["page_table"][layout.rows, : -(-layout.longest // page_size)]
    value = 0
    for array in (layout.rows, layout.starts, layout.first_positions, pages):
        value = zlib.crc32(array.tobytes(), value)
    return value


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
