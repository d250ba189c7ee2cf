"""For which numbers of rows and which contexts a GPU's forwards are captured, and what memory that takes."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from flover.ops.cuda import SPLIT

LONGEST_CONTEXTS = 1024, 8192
"""A captured forward launches the programs of attention for its longest context, and those without keys leave at once:
short contexts have graphs of their own, and contexts beyond the last (vLLM's --max-seq-len-to-capture) none."""

GRAPH_BYTES = 8 * 2**20
"""What the driver keeps for a graph beside its tensors. vLLM reports about half a GiB for the 67 of an 8B model; not
measured here."""


def capture_widths(max_rows: int) -> list[int]:
    """vLLM's sizes: 1, 2, 4, multiples of 8 up to 256 and of 16 from there, and `max_rows` itself."""
    ladder = [1, 2, 4, *range(8, 256, 8), *range(256, max_rows + 16, 16)]
    return [*(width for width in ladder if width < max_rows), max_rows]


def capture_contexts(max_len: int) -> list[int]:
    """The longest contexts of graphs, for a model that is served with up to `max_len` tokens."""
    return sorted({min(longest, max_len) for longest in LONGEST_CONTEXTS})


def graph_bytes(max_rows: int, max_len: int, num_heads: int, head_dim: int, row_bytes: int) -> int:
    """Memory of all graphs: they share that of the largest, which has `row_bytes` of activations for each row, and for
    every part of a context the sums of each head."""
    widths, contexts = capture_widths(max_rows), capture_contexts(max_len)
    parts = -(-contexts[-1] // SPLIT)
    sums = num_heads * parts * (head_dim + 2) * 4 if parts > 1 else 0
    return len(widths) * len(contexts) * GRAPH_BYTES + max_rows * (row_bytes + sums)


def warm_up_batches(max_len: int) -> list[tuple[tuple[int, ...], int]]:
    """Tokens of each row, and the longest context that the host counts on, of forwards that launch all kernels.

    Triton compiles one for sizes that are multiples of 16 and one for others. What is launched depends on the number of
    tokens (`linear.FEW_ROWS`; for quantized matrices `tile_of`), and whether a context has several parts (`SPLIT`)."""
    lens = [(tokens,) for tokens in (1, 2, 3, 16, 33, 65, 80) if tokens <= max_len]
    return [(own, longest) for own in lens for longest in ((SPLIT, SPLIT + 1) if own[0] < 3 else (SPLIT,))]


def at_least(size: int, ladder: Sequence[int]) -> int | None:
    """The first of an ascending ladder that is not smaller; None if all are."""
    place = bisect_left(ladder, size)
    return ladder[place] if place < len(ladder) else None
