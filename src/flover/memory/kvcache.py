"""The pool of key and value pages: one anonymous mapping, taken from the system as it is touched and given back.

It knows shapes and page numbers, not who owns a page: `engine/pages.py` decides that.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator
from typing import Protocol

import torch
from torch import Tensor

from flover.errors import ConfigError


class KVShape(Protocol):
    """What the pool must know of a model; `ModelConfig` has it."""

    @property
    def num_layers(self) -> int: ...
    @property
    def num_kv_heads(self) -> int: ...
    @property
    def head_dim(self) -> int: ...


class KVCache:
    """Keys and values of every layer, `[num_pages, page_size, num_kv_heads, head_dim]` each.

    The mapping is private and anonymous: the system commits memory when a page is first written, and takes it
    back in `trim`. Fresh and trimmed pages read as zeros. Page 0 is the null page and is never trimmed.
    """

    def __init__(self, config: KVShape, num_pages: int, page_size: int, dtype: torch.dtype) -> None:
        """Reserve the pool. Raises `ConfigError` if the system will not map that much."""
        self.num_pages = num_pages
        self.page_size = page_size
        self.dtype = dtype
        shape = (num_pages, page_size, config.num_kv_heads, config.head_dim)
        self.page_bytes = page_size * config.num_kv_heads * config.head_dim * dtype.itemsize
        self._region_bytes = _round_up(num_pages * self.page_bytes, mmap.PAGESIZE)
        self._num_regions = 2 * config.num_layers
        size = self._num_regions * self._region_bytes
        try:
            self._mapping = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except (OSError, OverflowError, ValueError) as error:
            raise ConfigError(
                f"cannot reserve {size} bytes for {num_pages} pages of keys and values: {error}"
            ) from error
        pools = [self._pool(region, shape) for region in range(self._num_regions)]
        self.keys: tuple[Tensor, ...] = tuple(pools[::2])
        self.values: tuple[Tensor, ...] = tuple(pools[1::2])

    @property
    def bytes(self) -> int:
        """Bytes of all pages of all layers, committed or not."""
        return self._num_regions * self.num_pages * self.page_bytes

    def trim(self, free_pages: list[int]) -> None:
        """Give the memory behind these pages back to the system; they read as zeros afterwards."""
        runs = list(_runs(page for page in free_pages if page != 0))
        for region in range(self._num_regions):
            base = region * self._region_bytes
            for first, last in runs:
                start = _round_up(base + first * self.page_bytes, mmap.PAGESIZE)
                stop = (base + (last + 1) * self.page_bytes) // mmap.PAGESIZE * mmap.PAGESIZE
                if start < stop:
                    self._mapping.madvise(mmap.MADV_DONTNEED, start, stop - start)

    def close(self) -> None:
        """Give everything back. The page tensors must not be used afterwards; calling it twice is harmless."""
        self.keys = self.values = ()
        if not self._mapping.closed:
            self._mapping.madvise(mmap.MADV_DONTNEED)
        try:
            self._mapping.close()
        except BufferError:  # somebody still holds a page tensor; the mapping goes with the last of them
            return

    def _pool(self, region: int, shape: tuple[int, ...]) -> Tensor:
        num_items = shape[0] * shape[1] * shape[2] * shape[3]
        offset = region * self._region_bytes
        return torch.frombuffer(self._mapping, dtype=self.dtype, count=num_items, offset=offset).view(shape)


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step


def _runs(pages: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Merge page numbers into runs (first, last) of neighbours."""
    first = last = -1
    for page in sorted(set(pages)):
        if page != last + 1 or first < 0:
            if first >= 0:
                yield first, last
            first = page
        last = page
    if first >= 0:
        yield first, last
