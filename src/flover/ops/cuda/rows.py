"""Batches made of the rows' lines on the device, and tokens taken into the lines (`executor/row_cells.py`)."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from flover.ops.cuda.launch import OPTIONS

_BLOCK = 256
_TOKENS = 128


@triton.jit
def batch_kernel(
    lines, order, query_starts, given, token_ids, positions, slots, context_lens, page_table, no_row, stride,
    table_stride, PAGE_SIZE: tl.constexpr, FIRST_PAGE: tl.constexpr, RAGGED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One place of the order: its row's next tokens, and its page table. Then the row has computed them."""
    place = tl.program_id(0)
    row = tl.load(order + place)
    line = lines + row.to(tl.int64) * stride
    newest, before, rotary, named = tl.load(line), tl.load(line + 1), tl.load(line + 2), tl.load(line + 3)
    newest = tl.where(named > 0, named - 1, newest)
    start, count = place, 1
    if RAGGED:
        start = tl.load(query_starts + place)
        count = tl.load(query_starts + place + 1) - start
    offset = tl.arange(0, BLOCK)
    for first in range(0, count, BLOCK):
        own = first + offset < count
        position = before + first + offset
        token = tl.zeros([BLOCK], tl.int32) + newest
        if RAGGED:
            listed = tl.load(given + start + first + offset, own, other=-1)
            token = tl.where(listed < 0, token, listed)
        page = tl.load(line + FIRST_PAGE + position // PAGE_SIZE, own, other=0).to(tl.int64)
        tl.store(token_ids + start + first + offset, token.to(tl.int64), own)
        tl.store(positions + start + first + offset, (position + rotary).to(tl.int64), own)
        tl.store(slots + start + first + offset, page * PAGE_SIZE + position % PAGE_SIZE, own)
    end = before + count
    pages = (end + PAGE_SIZE - 1) // PAGE_SIZE
    table = page_table + place.to(tl.int64) * table_stride
    for first in range(0, pages, BLOCK):
        used = first + offset < pages
        tl.store(table + first + offset, tl.load(line + FIRST_PAGE + first + offset, used, other=0), used)
    tl.store(context_lens + place, end)
    tl.debug_barrier()  # every thread has read the line
    tl.store(line + 1, end, row < no_row)
    tl.store(line + 3, 0, row < no_row)


def make_batch(
    lines: Tensor,
    order: Tensor,
    ragged: tuple[Tensor, Tensor] | None,
    into: tuple[Tensor, ...],
    layout: tuple[int, int],
) -> None:
    """Fill `into` (token ids, positions, slots, context lengths, page table) for the places of `order`. `ragged` has
    where the tokens of each begin, and the tokens that are given, -1 for a row's newest; None: every place computes its
    row's newest token. `layout` is the first cell of a page table, and the size of a page."""
    *tokens, context_lens, page_table = into
    first_page, page_size = layout
    batch_kernel[(len(order),)](
        *(lines, order, *(ragged or (None, None)), *tokens, context_lens, page_table),
        *(len(lines) - 1, lines.stride(0), page_table.stride(0)),
        PAGE_SIZE=page_size,
        FIRST_PAGE=first_page,
        RAGGED=ragged is not None,
        BLOCK=_BLOCK,
        num_warps=4,
        **OPTIONS,
    )


@triton.jit(do_not_specialize=["count"])
def newest_kernel(lines, rows, ids, count, no_row, stride, BLOCK: tl.constexpr):
    """The newest token of rows; a row without one gets 0, which is a token: an iteration may be behind already."""
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row = tl.load(rows + place, place < count, other=no_row)
    token = tl.load(ids + place, place < count, other=0)
    tl.store(lines + row.to(tl.int64) * stride, tl.maximum(token, 0).to(tl.int32), row < no_row)


def keep_newest(lines: Tensor, rows: Tensor, ids: Tensor) -> None:
    """Rows `rows` int32 [S] have got the tokens `ids` int64 [S]."""
    grid = (triton.cdiv(len(rows), _TOKENS),)
    newest_kernel[grid](lines, rows, ids, len(rows), len(lines) - 1, lines.stride(0), _TOKENS, num_warps=4, **OPTIONS)
