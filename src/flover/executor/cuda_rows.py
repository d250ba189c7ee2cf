"""Rows on a GPU: what the next forward needs of them stays there, and only what a plan changes is copied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from flover.engine.plan import StepPlan
from flover.executor.device_batch import Layout
from flover.executor.row_cells import FIRST_PAGE, CellMap, RowChanges, place_rows, row_changes
from flover.memory.buffers import RowBuffers
from flover.model.batch import Batch
from flover.ops import Array, HostArray
from flover.ops.cuda.device import Gpu, new_array, to_device
from flover.ops.cuda.rows import keep_newest, make_batch


@dataclass(frozen=True, slots=True)
class Prepared:
    """A batch on the device. Of its rows `rows` int32 [S] sample, after the tokens `tokens` int64 [S] of the batch;
    None: each after its only one."""

    batch: Batch
    rows: Array
    tokens: Array | None


class DeviceRows:
    """Lines of cells (`row_cells.py`), and the arrays of forwards in which every row has one token.

    These arrays never move, so a captured forward finds a batch where it found the one before.
    """

    def __init__(self, num_rows: int, max_pages: int, page_size: int, gpu: Gpu) -> None:
        self._device = device = gpu.device
        self._page_size = page_size
        self._map = CellMap(num_rows, max_pages)
        self._cells = new_array((self._map.size,), "int32", device).zero_()
        self.lines = self._cells[: self._map.order].view(num_rows + 1, self._map.stride)
        self._order = self._cells[self._map.order :]
        self._known = np.full(num_rows, -1)
        """What lies in the order, as far as it was sent."""
        self._ids = tuple(new_array((num_rows,), "int64", device) for _ in range(3))
        self._context_lens = new_array((num_rows,), "int32", device)
        self._page_table = new_array((num_rows, max_pages), "int32", device)
        self._one_each = to_device({"starts": np.arange(num_rows + 1, dtype=np.int32)}, device)["starts"]

    def reset(self) -> None:
        """It is not known what has arrived. Admissions bring the rest."""
        self._known[:] = -1

    def prepare(self, plan: StepPlan, layout: Layout | None, width: int, buffers: RowBuffers) -> Prepared | None:
        """Carry out the plan's row changes, and make the batch of its layout on `width` places (more than its rows only
        if every row has one token). One copy, and none if nothing has changed."""
        num_rows = self._map.num_rows
        order = np.zeros(0, dtype=np.int64) if layout is None else place_rows(layout, plan.dead, width, num_rows)
        changes = row_changes(plan, layout, order, self._known, buffers, self._map)
        arrived = self._send(changes, _ragged(layout))
        self._known[: len(order)] = order
        if layout is None:
            return None
        ragged = None if layout.one_token else (arrived["starts"], arrived["given"])
        if ragged is None:
            batch = self.one_token_batch(width, layout.longest)
        else:
            batch = self._ragged_batch(layout.lens, layout.context_lens.tolist(), ragged[0])
        self._fill(batch, ragged)
        if "rows" in arrived:
            return Prepared(batch, arrived["rows"], arrived["tokens"])
        return Prepared(batch, self._order[: len(layout.rows)], None)

    def prepare_nothing(self, query_lens: tuple[int, ...], longest: int) -> Batch:
        """A batch of rows that nobody has, which read and write the null page alone. `longest` is the context that the
        host is to count on."""
        known, places = self._known, len(query_lens)
        known[:places] = -1
        self._order[:places] = self._map.num_rows
        if max(query_lens) == 1:
            batch = self.one_token_batch(places, longest)
            self._fill(batch, None)
            return batch
        starts = np.cumsum([0, *query_lens])
        arrays = {"starts": starts.astype(np.int32), "given": np.zeros(starts[-1], dtype=np.int32)}
        arrived = to_device(arrays, self._device)
        batch = self._ragged_batch(query_lens, (longest,) * places, arrived["starts"])
        self._fill(batch, (arrived["starts"], arrived["given"]))
        return batch

    def one_token_batch(self, width: int, longest: int) -> Batch:
        """`width` places with one token each, in the arrays that stay. `longest` bounds the context lengths."""
        token_ids, positions, slots = (ids[:width] for ids in self._ids)
        return Batch(
            token_ids=token_ids,
            positions=positions,
            slots=slots,
            query_starts=self._one_each[: width + 1],
            context_lens=self._context_lens[:width],
            page_table=self._page_table[:width],
            query_lens_host=(1,) * width,
            context_lens_host=(longest,) * width,
        )

    def nobody(self, count: int) -> Array:
        """`count` rows, int32, that nobody has."""
        return to_device({"rows": np.full(count, self._map.num_rows, dtype=np.int32)}, self._device)["rows"]

    def keep(self, rows: Array, ids: Array) -> None:
        """Rows have got these tokens."""
        keep_newest(self.lines, rows, ids)

    def _ragged_batch(self, lens: tuple[int, ...], context_lens: Sequence[int], starts: Array) -> Batch:
        ids = (new_array((sum(lens),), "int64", self._device) for _ in range(3))
        return Batch(
            **dict(zip(("token_ids", "positions", "slots"), ids, strict=True)),
            query_starts=starts,
            context_lens=self._context_lens[: len(lens)],
            page_table=self._page_table[: len(lens)],
            query_lens_host=lens,
            context_lens_host=tuple(context_lens),
        )

    def _fill(self, batch: Batch, ragged: tuple[Array, Array] | None) -> None:
        into = batch.token_ids, batch.positions, batch.slots, batch.context_lens, batch.page_table
        order = self._order[: batch.num_rows]
        make_batch(self.lines, order, ragged, into, (FIRST_PAGE, self._page_size))

    def _send(self, changes: RowChanges, more: Mapping[str, HostArray]) -> dict[str, Array]:
        """One copy of all that is not empty. Moves are one gather."""
        found = {item.name: getattr(changes, item.name) for item in fields(changes)} | dict(more)
        arrays = {name: array for name, array in found.items() if len(array)}
        arrived = to_device(arrays, self._device) if arrays else {}
        if "src" in arrived:
            self.lines.index_copy_(0, arrived["dst"], self.lines[arrived["src"]])
        if "cells" in arrived:
            self._cells.index_copy_(0, arrived["cells"], arrived["values"])
        return arrived


def _ragged(layout: Layout | None) -> dict[str, HostArray]:
    """What the lines and the order do not say: chunks, and which rows sample where not all do."""
    arrays: dict[str, HostArray] = {}
    if layout is None:
        return arrays
    if not layout.one_token:
        arrays["starts"] = layout.starts.astype(np.int32)
        arrays["given"] = layout.inputs(np.full(layout.starts[-1], -1, dtype=np.int32))
    counts = [one.num_samples for one in layout.work]
    if any(counts) and not (layout.one_token and all(counts)):
        arrays["tokens"], _ = layout.sampled()
        arrays["rows"] = layout.rows[np.flatnonzero(counts)].astype(np.int32)
    return arrays
