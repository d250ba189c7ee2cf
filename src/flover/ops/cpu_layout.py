"""How arrays lie for the kernels of csrc/, and their addresses after a check of type and layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flover import _cpu
from flover.errors import InvariantError
from flover.ops import Array, DType, Pages

CACHES: dict[DType, int] = {"float32": 0, "bfloat16": 1, "int8": 2}
ACTIVATIONS: dict[str | None, int] = {
    None: 0,
    "silu": 1,
    "gelu": 2,
    "gelu_tanh": 3,
    "relu": 4,
    "relu2": 5,
    "quick_gelu": 6,
    "swiglu_oai": 7,
}


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """What attention takes of a batch in every layer."""

    page_table: Array
    query_starts: Array
    context_lens: Array


def plan_attention(
    page_table: Array,
    query_starts: Array,
    context_lens: Array,
    query_lens_host: Sequence[int],
    context_lens_host: Sequence[int],
    pages: Pages,
    windows: frozenset[int | None],
) -> AttentionPlan:
    """The kernel needs no more than the batch has."""
    for array in (page_table, query_starts, context_lens):
        if array.dtype != np.int32 or not array.flags.c_contiguous:
            raise InvariantError("page table, query starts and context lengths must be contiguous int32")
    return AttentionPlan(page_table, query_starts, context_lens)


def page_shapes(
    num_pages: int, page_size: int, num_kv_heads: int, head_dim: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Keys lie transposed in their page, so that 16 keys fill a register."""
    return (num_pages, num_kv_heads, head_dim, page_size), (num_pages, num_kv_heads, page_size, head_dim)


def native_pages(pages: Pages) -> _cpu.Pages:
    """The pages of a layer as kernels take them."""
    heads, dim = pages.keys.shape[1], pages.keys.shape[2]
    return _cpu.Pages(
        cache=CACHES[pages.dtype],
        keys=address(pages.keys),
        values=address(pages.values),
        key_scales=floats(pages.key_scales),
        value_scales=floats(pages.value_scales),
        page_size=pages.page_size,
        heads=heads,
        dim=dim,
    )


def address(x: Array) -> int:
    """Where an array's first number lies."""
    found: int = x.__array_interface__["data"][0]
    return found


def floats(x: Array | None) -> int:
    """The address of float32 numbers; 0 for None."""
    return 0 if x is None else _checked(x, np.float32)


def ids_of(x: Array) -> int:
    """The address of int64 numbers."""
    return _checked(x, np.int64)


def slots_of(x: Array) -> int:
    """The address of int32 numbers."""
    return _checked(x, np.int32)


def words_of(x: Array | None) -> int:
    """The address of uint32 words; 0 for None."""
    return 0 if x is None else _checked(x, np.uint32)


def _checked(x: Array, dtype: type[np.generic]) -> int:
    if x.dtype != dtype or not x.flags.c_contiguous:
        raise InvariantError(f"a kernel needs contiguous {np.dtype(dtype)}, not {x.dtype} with strides {x.strides}")
    return address(x)
