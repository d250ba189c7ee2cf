"""How tensors lie for the kernels of csrc/, and their addresses after a check of type and layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flover import _cpu
from flover.errors import InvariantError
from flover.ops import Pages

CACHES: dict[torch.dtype, int] = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2}


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """What attention takes of a batch in every layer."""

    page_table: Tensor
    query_starts: Tensor
    context_lens: Tensor


def plan_attention(
    page_table: Tensor,
    query_starts: Tensor,
    context_lens: Tensor,
    query_lens_host: Sequence[int],
    context_lens_host: Sequence[int],
    pages: Pages,
    windows: frozenset[int | None],
) -> AttentionPlan:
    """The kernel needs no more than the batch has."""
    for tensor in (page_table, query_starts, context_lens):
        if tensor.dtype != torch.int32 or not tensor.is_contiguous():
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
        cache=CACHES[pages.keys.dtype],
        keys=pages.keys.data_ptr(),
        values=pages.values.data_ptr(),
        key_scales=floats(pages.key_scales),
        value_scales=floats(pages.value_scales),
        page_size=pages.page_size,
        heads=heads,
        dim=dim,
    )


def floats(x: Tensor | None) -> int:
    """The address of float32 numbers; 0 for None."""
    if x is None:
        return 0
    if x.dtype != torch.float32 or not x.is_contiguous():
        raise InvariantError(f"a kernel needs contiguous float32, not {x.dtype} with strides {x.stride()}")
    return x.data_ptr()


def ids_of(x: Tensor) -> int:
    """The address of int64 numbers."""
    if x.dtype != torch.int64 or not x.is_contiguous():
        raise InvariantError(f"a kernel needs contiguous int64, not {x.dtype} with strides {x.stride()}")
    return x.data_ptr()
