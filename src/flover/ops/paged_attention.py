"""Ragged attention over pages, in plain torch.

Rows with one query token are gathered in groups of similar context and attend together; the group of query heads
that share a key head takes the place of the query length, so keys and values are never repeated. Rows with a chunk
attend one by one under a causal mask. What lies behind a row's last token, in its last page or in the padding of its
group, belongs to another sequence: it is masked and also blanked, so that not even a NaN there can reach the row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from flover.ops import HostArray, Pages

_GROUP_SHRINK = 0.75
"""A group's shortest row has at least this share of the pages of its longest: bounds the padding."""


@dataclass(frozen=True, slots=True)
class _Group:
    """n rows with one query each, whose keys lie in P pages per row."""

    tokens: Tensor | None  # int64 [n]: which of the T tokens; None for all of them in order
    pages: Tensor  # int64 [n * P]
    strangers: Tensor  # int64: flat positions in [n * P * page_size] that lie behind the row's last token
    distances: Tensor  # [n, 1, 1, 1, P * page_size]: positions of the keys less that of the query
    mask: Tensor  # [n, 1, 1, P * page_size]: 0 to see, -inf not to
    keys: Tensor  # [n * P, page_size, num_kv_heads, d]: where the pages of a layer are gathered
    values: Tensor


@dataclass(frozen=True, slots=True)
class _ChunkRow:
    """One row with several queries: tokens start to stop of the batch, keys in `num_keys` slots of its pages."""

    start: int
    stop: int
    pages: Tensor  # int64 [P]
    num_keys: int
    distances: Tensor  # [stop - start, num_keys]
    mask: Tensor | None  # bool [stop - start, num_keys], True to see; None for plain causal from position 0


@dataclass(frozen=True, slots=True)
class _View:
    """The work of one forward under one sliding window."""

    groups: tuple[_Group, ...]
    chunks: tuple[_ChunkRow, ...]


AttentionPlan = dict[int | None, _View]


def tensor_pages(pages: Pages) -> Pages:
    """The same memory as tensors, if it is numpy's."""
    if isinstance(pages.keys, Tensor):
        return pages

    def tensor(stored: HostArray) -> Tensor:
        if stored.dtype == np.uint16:
            return torch.from_numpy(stored.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(stored)

    return replace(pages, keys=tensor(pages.keys), values=tensor(pages.values))


def plan_attention(
    page_table: Tensor,
    query_starts: Tensor,
    context_lens: Tensor,
    query_lens_host: Sequence[int],
    context_lens_host: Sequence[int],
    pages: Pages,
    windows: frozenset[int | None],
) -> AttentionPlan:
    """Group the rows and make indices, masks and work space, once for all layers that have the same window.

    Fresh memory costs more than the copy into it, so the layers gather into the same place one after another.
    """
    pages = tensor_pages(pages)
    longest = max(context_lens_host)
    lens = query_lens_host, context_lens_host
    views: AttentionPlan = {}
    for window in windows:
        effective = None if window is None or window >= longest else window
        if effective not in views:
            views[effective] = _View(
                groups=tuple(_plan_groups(page_table, *lens, pages.keys, effective)),
                chunks=tuple(_plan_chunks(page_table, *lens, pages.page_size, effective)),
            )
        views[window] = views[effective]
    return views


def _plan_groups(
    page_table: Tensor, query_lens: Sequence[int], context_lens: Sequence[int], pool: Tensor, window: int | None
) -> Iterator[_Group]:
    starts, device, page_size = _starts(query_lens), page_table.device, pool.shape[1]
    rows = [row for row, query_len in enumerate(query_lens) if query_len == 1]
    first_pages = {row: _first_page(context_lens[row] - 1, page_size, window) for row in rows}
    num_pages = {row: -(-context_lens[row] // page_size) - first_pages[row] for row in rows}
    for members in _similar(num_pages):
        width = num_pages[members[0]]
        members.sort()
        first = torch.tensor([first_pages[row] for row in members], device=device)[:, None]
        context = torch.tensor([context_lens[row] for row in members], device=device)[:, None]
        columns = (first + torch.arange(width, device=device)).clamp_(max=page_table.shape[1] - 1)
        pages = page_table[torch.tensor(members, device=device)].gather(1, columns)
        positions = first * page_size + torch.arange(width * page_size, device=device)
        behind = positions >= context
        hidden = behind if window is None else behind | (positions < context - window)
        mask = pool.new_zeros(hidden.shape).masked_fill_(hidden, -torch.inf)
        everyone = len(members) == len(query_lens)
        yield _Group(
            tokens=None if everyone else torch.tensor([starts[row] for row in members], device=device),
            pages=pages.flatten().long(),
            strangers=behind.flatten().nonzero().flatten(),
            distances=(positions - (context - 1))[:, None, None, None, :],
            mask=mask[:, None, None, :],
            keys=pool.new_empty(pages.numel(), *pool.shape[1:]),
            values=pool.new_empty(pages.numel(), *pool.shape[1:]),
        )


def _similar(num_pages: dict[int, int]) -> Iterator[list[int]]:
    """Split rows by size, largest first, so that the rows of a group need about as many pages."""
    group: list[int] = []
    for row in sorted(num_pages, key=lambda row: -num_pages[row]):
        if group and num_pages[row] < _GROUP_SHRINK * num_pages[group[0]] - 1:
            yield group
            group = []
        group.append(row)
    if group:
        yield group


def _plan_chunks(
    page_table: Tensor, query_lens: Sequence[int], context_lens: Sequence[int], page_size: int, window: int | None
) -> Iterator[_ChunkRow]:
    starts = _starts(query_lens)
    for row, (query_len, context_len) in enumerate(zip(query_lens, context_lens, strict=True)):
        if query_len == 1:
            continue
        position = context_len - query_len  # of the chunk's first token
        first = _first_page(position, page_size, window)
        last = -(-context_len // page_size)
        num_keys = context_len - first * page_size
        keys = first * page_size + torch.arange(num_keys, device=page_table.device)
        distances = keys - torch.arange(position, context_len, device=page_table.device)[:, None]
        mask = None
        if position > 0 or window is not None:
            mask = distances <= 0
            if window is not None:
                mask &= distances > -window
        pages = page_table[row, first:last].long()
        yield _ChunkRow(starts[row], starts[row] + query_len, pages, num_keys, distances, mask)


def _starts(query_lens: Sequence[int]) -> list[int]:
    starts, total = [], 0
    for query_len in query_lens:
        starts.append(total)
        total += query_len
    return starts


def _first_page(position: int, page_size: int, window: int | None) -> int:
    """The page of the earliest key that a token at `position` sees."""
    return 0 if window is None else max(0, position - window + 1) // page_size


@dataclass(frozen=True, slots=True)
class _Shape:
    """What attention does to scores besides the scale; see `Attention` of the op table."""

    scale: float
    softcap: float
    slopes: Tensor | None
    sinks: Tensor | None

    @property
    def is_plain(self) -> bool:
        return not self.softcap and self.slopes is None and self.sinks is None


def attention(
    queries: Tensor,
    pages: Pages,
    plan: AttentionPlan,
    scale: float,
    window: int | None,
    softcap: float = 0.0,
    slopes: Tensor | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Scaled dot-product attention of every token over its row's pages: [T, h, d] -> [T, h * d]."""
    pages, shape = tensor_pages(pages), _Shape(scale, softcap, slopes, sinks)
    view, key_pages, value_pages = plan[window], pages.keys, pages.values
    if len(view.groups) == 1 and view.groups[0].tokens is None:
        return _attend_group(queries, key_pages, value_pages, view.groups[0], shape).flatten(1)
    output = torch.empty_like(queries, memory_format=torch.contiguous_format)
    for group in view.groups:
        output[group.tokens] = _attend_group(queries[group.tokens], key_pages, value_pages, group, shape)
    for chunk in view.chunks:
        mine = queries[chunk.start : chunk.stop]
        output[chunk.start : chunk.stop] = _attend_chunk(mine, key_pages, value_pages, chunk, shape)
    return output.flatten(1)


def _attend_group(queries: Tensor, key_pages: Tensor, value_pages: Tensor, group: _Group, shape: _Shape) -> Tensor:
    num_rows, num_heads, head_dim = queries.shape
    num_kv_heads = key_pages.shape[2]
    keys = _gather(key_pages, group, group.keys).transpose(1, 2)
    values = _gather(value_pages, group, group.values).transpose(1, 2)
    shared = queries.reshape(num_rows, num_kv_heads, num_heads // num_kv_heads, head_dim)
    if shape.is_plain:
        seen = F.scaled_dot_product_attention(shared, keys, values, attn_mask=group.mask, scale=shape.scale)
    else:
        mask = group.mask[:, :, None]
        seen = _attend(shared[:, :, :, None], keys[:, :, None], values[:, :, None], group.distances, mask, shape)
    return seen.reshape(num_rows, num_heads, head_dim)


def _gather(pages: Tensor, group: _Group, space: Tensor) -> Tensor:
    """Keys or values of the group's rows [n, P * page_size, num_kv_heads, d], blank where they are not the row's."""
    torch.index_select(pages, 0, group.pages, out=space)
    space.flatten(0, 1).index_fill_(0, group.strangers, 0)
    return space.view(group.mask.shape[0], -1, *pages.shape[2:])


def _attend_chunk(queries: Tensor, key_pages: Tensor, value_pages: Tensor, chunk: _ChunkRow, shape: _Shape) -> Tensor:
    query_len, num_heads, head_dim = queries.shape
    num_kv_heads = key_pages.shape[2]
    shared = queries.reshape(query_len, num_kv_heads, num_heads // num_kv_heads, head_dim).permute(1, 2, 0, 3)
    keys, values = (_gather_chunk(pages, chunk, shared.shape[1]) for pages in (key_pages, value_pages))
    if shape.is_plain:
        seen = F.scaled_dot_product_attention(
            shared, keys, values, attn_mask=chunk.mask, is_causal=chunk.mask is None, scale=shape.scale
        )
    else:
        seeing = chunk.distances <= 0 if chunk.mask is None else chunk.mask
        mask = torch.zeros(seeing.shape).masked_fill_(~seeing, -torch.inf)
        seen = _attend(shared, keys, values, chunk.distances, mask, shape)
    return seen.permute(2, 0, 1, 3).reshape(query_len, num_heads, head_dim)


def _attend(queries: Tensor, keys: Tensor, values: Tensor, distances: Tensor, mask: Tensor, shape: _Shape) -> Tensor:
    """The formula with everything: queries [..., k, h / k, T, d], keys and values [..., k, h / k or 1, L, d]; distances
    and mask for [..., k, h / k, T, L]."""
    scores = (queries @ keys.transpose(-1, -2)).float() * shape.scale
    by_head = queries.shape[-4:-2]  # key heads, query heads of each
    if shape.softcap:
        scores = shape.softcap * torch.tanh(scores / shape.softcap)
    if shape.slopes is not None:
        scores = scores + shape.slopes.view(*by_head, 1, 1) * distances
    scores = scores + mask
    if shape.sinks is not None:
        sinks = shape.sinks.view(*by_head, 1, 1).expand(*scores.shape[:-1], 1)
        weights = torch.cat((scores, sinks), dim=-1).softmax(-1)[..., :-1]
    else:
        weights = scores.softmax(-1)
    return weights.to(values.dtype) @ values


def _gather_chunk(pages: Tensor, chunk: _ChunkRow, num_sharing: int) -> Tensor:
    """Keys or values of the row as [num_kv_heads, num_sharing, num_keys, d]; query heads that share see one copy."""
    gathered = pages.index_select(0, chunk.pages).flatten(0, 1)[: chunk.num_keys]
    return gathered.transpose(0, 1)[:, None].expand(-1, num_sharing, -1, -1)
