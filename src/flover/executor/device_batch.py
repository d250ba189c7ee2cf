"""From a plan and the rows' columns to the arrays of one ragged forward: numpy, no loop over tokens."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from flover.engine.plan import StepPlan
from flover.errors import InvariantError
from flover.memory.buffers import RowBuffers
from flover.memory.columns import Array
from flover.model.batch import Batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A batch and where its rows are in it; place r of the batch is row rows[r]."""

    batch: Batch
    rows: Array  # [R] int64, ascending
    starts: Array  # [R + 1] int64: place r owns the tokens starts[r] .. starts[r + 1]
    context_lens: Array  # [R] int64
    alive: Array  # [R] bool: a sequence has the row
    samples: Array  # [R] bool: the row wants a token

    def digest(self) -> int:
        """A checksum of everything that the forward reads."""
        batch, value = self.batch, 0
        for array in (batch.token_ids, batch.positions, batch.slots, batch.query_starts, batch.page_table):
            value = zlib.crc32(array.tobytes(), value)
        return zlib.crc32(self.rows.tobytes(), value)


def lay_out(plan: StepPlan, buffers: RowBuffers, page_size: int) -> Layout | None:
    """The batch of `plan`, whose row changes are applied already. None if the plan computes nothing.

    A generating row's input is its column `last_id`. A dead row's columns hold their fills, which make it token 0
    at position 0 of the null page.
    """
    chunks, num_chunks, num_live = plan.chunks, len(plan.chunks), len(plan.chunks) + len(plan.generating)
    rows = np.array([*(chunk.row for chunk in chunks), *plan.generating, *plan.dead], dtype=np.int64)
    if not len(rows):
        return None
    order = np.argsort(rows)
    place_of = np.empty_like(order)
    place_of[order] = np.arange(len(rows))
    rows = rows[order]
    alive = order < num_live
    samples = alive.copy()
    lens = np.ones(len(rows), dtype=np.int64)
    for chunk, place in zip(chunks, place_of[:num_chunks].tolist(), strict=True):
        lens[place] = len(chunk.token_ids)
        samples[place] = chunk.samples
    first_positions = buffers["context_len"][rows]
    context_lens = first_positions + lens
    _check(plan, buffers, rows, place_of, first_positions, context_lens, page_size)

    if chunks:
        starts = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum(lens, out=starts[1:])
        token_rows = np.repeat(rows, lens)
        positions = np.arange(starts[-1]) + np.repeat(first_positions - starts[:-1], lens)
    else:  # a token each: at one row of a small model, this is felt
        starts, token_rows, positions = np.arange(len(rows) + 1), rows, first_positions
    pages = positions // page_size
    slots = buffers["page_table"][token_rows, pages] * np.int64(page_size) + (positions - pages * page_size)
    token_ids = buffers["last_id"][token_rows]
    for chunk, place in zip(chunks, place_of[:num_chunks].tolist(), strict=True):
        token_ids[starts[place] : starts[place + 1]] = chunk.token_ids
    num_pages = -(-int(context_lens.max()) // page_size)

    batch = Batch(
        token_ids=token_ids,
        positions=positions + buffers["rotary_start"][token_rows],
        slots=slots,
        query_starts=starts.astype(np.int32),
        context_lens=context_lens.astype(np.int32),
        page_table=buffers["page_table"][:, :num_pages][rows],
        query_lens_host=tuple(lens.tolist()),
        context_lens_host=tuple(context_lens.tolist()),
    )
    return Layout(batch=batch, rows=rows, starts=starts, context_lens=context_lens, alive=alive, samples=samples)


def _check(
    plan: StepPlan,
    buffers: RowBuffers,
    rows: Array,
    place_of: Array,
    first_positions: Array,
    context_lens: Array,
    page_size: int,
) -> None:
    """Raises `InvariantError` where the plan and the rows do not fit: a write would hit a page of somebody else."""
    if len(rows) > 1 and not (np.diff(rows) > 0).all():
        raise InvariantError(f"step {plan.step}: a row is planned twice, rows {rows.tolist()}")
    for chunk, place in zip(plan.chunks, place_of[: len(plan.chunks)].tolist(), strict=True):
        if chunk.start != first_positions[place] or not chunk.token_ids:
            raise InvariantError(
                f"step {plan.step}: row {chunk.row} has {first_positions[place]} tokens computed, the chunk of "
                f"{len(chunk.token_ids)} starts at {chunk.start}"
            )
    live = place_of[: len(plan.chunks) + len(plan.generating)]
    room = buffers["num_pages"][rows[live]] * page_size
    if (context_lens[live] > room).any():
        raise InvariantError(
            f"step {plan.step}: rows {rows[live][context_lens[live] > room].tolist()} have too few pages"
        )


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
