"""The order of a row's tokens: by logit, largest first, and by id, lowest first, where logits are equal.

One order for greedy choice, top_k, top_p and ranks, so that they never contradict each other; and a total one, so
that the result does not hang on how a sort or a parallel search treats equals.
"""

from __future__ import annotations

import torch

CACHED_LOGITS = 2**18
"""Logits to work on at once: 1 MiB of float32, so that the passes over them find them in a core's cache."""

_BLOCK = 128


def argmax(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest of each row of `logits` [R, V] and the first id that has it; a NaN counts as the largest.

    Looks for the largest of each block first: finding a value is several times faster than finding its place.
    """
    width = logits.shape[1]
    whole = width // _BLOCK * _BLOCK
    if whole < 2 * _BLOCK:
        values, ids = logits.max(dim=-1)
        return values, ids
    tops = logits[:, :whole].reshape(len(logits), -1, _BLOCK).amax(-1)
    if whole < width:
        tops = torch.cat([tops, logits[:, whole:].amax(-1, keepdim=True)], dim=1)
    values, block = tops.max(dim=-1, keepdim=True)
    ids = block * _BLOCK + torch.arange(_BLOCK, device=logits.device)
    offset = logits.gather(1, ids.clamp(max=width - 1)).argmax(-1)
    return values[:, 0], block[:, 0] * _BLOCK + offset


def beyond_first(logits: torch.Tensor, values: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Mask [R, V] of all but the first counts[r] tokens of each row of `logits` [R, V]; `counts` is [R, 1].

    `values` [R, W] are the row's largest logits in order, with W > counts or W = V.
    """
    border = values.gather(1, counts - 1)
    beyond = logits < border
    following = values.gather(1, counts.clamp(max=values.shape[1] - 1))
    crowded = torch.nonzero((following == border) & (counts < values.shape[1]))[:, 0]
    if len(crowded):
        edge = border[crowded]
        room = counts[crowded] - (values[crowded] > edge).sum(-1, keepdim=True)
        ties = logits[crowded] == edge
        beyond[crowded] |= ties & (ties.cumsum(-1) > room)
    return beyond


def most_likely(logits: torch.Tensor, count: int) -> torch.Tensor:
    """Ids [R, count] of the first tokens of each row, in order."""
    if count >= logits.shape[1]:
        return logits.sort(dim=-1, descending=True, stable=True).indices
    values, ids = logits.topk(count + 1, dim=-1)
    crowded = torch.nonzero(values[:, count] == values[:, count - 1])[:, 0]
    ids = ids[:, :count].sort(dim=-1).values
    if len(crowded):
        part = logits[crowded]
        counts = torch.full((len(part), 1), count, device=logits.device)
        beyond = beyond_first(part, values[crowded], counts)
        ids[crowded] = torch.nonzero(~beyond)[:, 1].view(-1, count)
    order = logits.gather(1, ids).sort(dim=-1, descending=True, stable=True).indices
    return ids.gather(1, order)
