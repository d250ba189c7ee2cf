"""Captured forwards of a GPU: one for each number of rows and each longest context of a ladder, all made at start."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

from flover.executor.cuda_rows import DeviceRows
from flover.executor.device import Captures
from flover.executor.device_batch import Layout
from flover.memory.graph_sizes import at_least, capture_contexts, capture_widths
from flover.memory.kvcache import PageCache
from flover.model.batch import Batch
from flover.ops import Array, RaggedBatch


class Graphs:
    """Forwards in which every row has one token, on the arrays of `rows` that stay."""

    def __init__(self, rows: DeviceRows, num_rows: int, max_len: int) -> None:
        self._rows = rows
        self._widths = capture_widths(num_rows)
        self._contexts = capture_contexts(max_len)
        self._runs: dict[tuple[int, int], Callable[[RaggedBatch], Array]] = {}

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._runs)

    def capture(self, decoder: Captures, kv: PageCache, progress: Callable[[int, int], None]) -> None:
        """Make all of them, the largest first: the others fit into its memory. `progress(done, total)` counts them."""
        sizes = list(product(reversed(self._widths), reversed(self._contexts)))
        for done, (width, longest) in enumerate(sizes):
            progress(done, len(sizes))
            example = self._rows.prepare_nothing((1,) * width, longest)
            decoder.forward(example, kv)  # what is loaded at first use cannot be while a graph is captured
            self._runs[width, longest] = decoder.capture(example, kv)
        progress(len(sizes), len(sizes))

    def size_for(self, layout: Layout) -> tuple[int, int] | None:
        """Rows and longest context of the graph that computes this layout; None if none does."""
        if not self._runs or not layout.one_token:
            return None
        width, longest = at_least(len(layout.work), self._widths), at_least(layout.longest, self._contexts)
        return None if width is None or longest is None else (width, longest)

    def run(self, size: tuple[int, int], batch: Batch) -> Array:
        """The hidden states [width, H] of the batch, valid until the next run."""
        return self._runs[size](batch)
