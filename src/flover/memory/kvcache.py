"""The pool of key and value pages: one anonymous mapping whose memory is committed on first use and returned by `trim`.

It has shapes and page numbers; `engine/pages.py` tracks the owners of pages.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from flover.errors import ConfigError
from flover.ops import DTYPE_BYTES, DType, HostArray, Pages

_STORED: Mapping[DType, npt.DTypeLike] = {"float32": np.float32, "bfloat16": np.uint16, "int8": np.int8}

PageShapes = Callable[[int, int, int, int], tuple[tuple[int, ...], tuple[int, ...]]]
"""Shapes of one page's keys and values in a backend (`Ops.page_shapes`)."""


class KVShape(Protocol):
    """The sizes of a model that the pool needs; `ModelConfig` has them."""

    @property
    def num_layers(self) -> int: ...
    @property
    def num_kv_heads(self) -> int: ...
    @property
    def head_dim(self) -> int: ...


class PageCache(Protocol):
    """The pages of every layer, wherever they are."""

    layers: tuple[Pages, ...]

    def trim(self, free_pages: list[int]) -> None:
        """The memory of these pages may be given back; what is in them is void."""
        ...

    def close(self) -> None:
        """Free the pages. Calling it twice is harmless."""
        ...


@dataclass(frozen=True, slots=True)
class _Region:
    """One array of one layer inside the mapping, `page_bytes` for each page."""

    offset: int
    page_bytes: int
    array: HostArray


class KVCache:
    """Keys and values of every layer: `layers`, in the backend's shapes, pages as the first dimension.

    The mapping is private and anonymous: the system commits memory when a page is first written, and `trim` returns
    it. Fresh and trimmed pages read as zeros. Page 0 is the null page and is never trimmed.
    """

    def __init__(self, config: KVShape, num_pages: int, page_size: int, dtype: DType, page_shapes: PageShapes) -> None:
        """Reserve the pool. Raises `ConfigError` if the system cannot map so much memory."""
        self.num_pages = num_pages
        self.page_size = page_size
        self.dtype = dtype
        shapes = page_shapes(num_pages, page_size, config.num_kv_heads, config.head_dim)
        parts: list[tuple[tuple[int, ...], DType]] = [(shape, dtype) for shape in shapes]
        if dtype == "int8":
            scales: tuple[tuple[int, ...], DType] = (num_pages, config.num_kv_heads, page_size), "float32"
            parts += [scales, scales]
        sizes = [_round_up(math.prod(shape) * DTYPE_BYTES[kind], mmap.PAGESIZE) for shape, kind in parts]
        total = config.num_layers * sum(sizes)
        try:
            self._mapping = mmap.mmap(-1, total, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except (OSError, OverflowError, ValueError) as error:
            raise ConfigError(
                f"cannot reserve {total} bytes for {num_pages} pages of keys and values: {error}"
            ) from error
        self._regions: list[_Region] = []
        offset = 0
        for _ in range(config.num_layers):
            for (shape, kind), size in zip(parts, sizes, strict=True):
                self._regions.append(self._region(offset, shape, kind))
                offset += size
        arrays = [region.array for region in self._regions]
        step = len(parts)
        self.layers: tuple[Pages, ...] = tuple(
            Pages(arrays[first], arrays[first + 1], page_size, dtype, *arrays[first + 2 : first + step])
            for first in range(0, len(arrays), step)
        )

    @property
    def bytes(self) -> int:
        """Bytes of all pages of all layers, committed or not."""
        return sum(self.num_pages * region.page_bytes for region in self._regions)

    @property
    def page_bytes(self) -> int:
        """Bytes of one page of all layers."""
        return sum(region.page_bytes for region in self._regions)

    def page_parts(self, page: int) -> list[memoryview]:
        """The bytes of a page, layer by layer, to be read and written, and released before the pool is closed."""
        whole = memoryview(self._mapping)
        starts = [(region.offset + page * region.page_bytes, region.page_bytes) for region in self._regions]
        return [whole[start : start + size] for start, size in starts]

    def trim(self, free_pages: list[int]) -> None:
        """Return the memory of these pages to the system; they read as zeros afterwards."""
        runs = list(_runs(page for page in free_pages if page != 0))
        for region in self._regions:
            for first, last in runs:
                start = _round_up(region.offset + first * region.page_bytes, mmap.PAGESIZE)
                stop = (region.offset + (last + 1) * region.page_bytes) // mmap.PAGESIZE * mmap.PAGESIZE
                if start < stop:
                    self._mapping.madvise(mmap.MADV_DONTNEED, start, stop - start)

    def close(self) -> None:
        """Unmap the pool. The pages must not be used afterwards; calling it twice is harmless."""
        self.layers = ()
        self._regions = []
        if not self._mapping.closed:
            self._mapping.madvise(mmap.MADV_DONTNEED)
        try:
            self._mapping.close()
        except BufferError:  # page arrays are still referenced; the mapping is freed with the last of them
            return

    def _region(self, offset: int, shape: tuple[int, ...], dtype: DType) -> _Region:
        flat = np.frombuffer(self._mapping, dtype=_STORED[dtype], count=math.prod(shape), offset=offset)
        return _Region(offset, math.prod(shape[1:]) * DTYPE_BYTES[dtype], flat.reshape(shape))


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step


def _runs(pages: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Merge page numbers into runs (first, last) of consecutive pages."""
    first = last = -1
    for page in sorted(set(pages)):
        if page != last + 1 or first < 0:
            if first >= 0:
                yield first, last
            first = page
        last = page
    if first >= 0:
        yield first, last
