"""Log-probabilities of the raw logits (before any edit or temperature): of the chosen token and the likeliest.

Tokens are ordered by (logit descending, id ascending), so ranks are distinct and the first is the greedy choice.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from flover.memory.columns import Array
from flover.ops.order import CACHED_LOGITS, most_likely
from flover.request import TokenLogprobs

SLICE_LOGITS = 2**24
"""Most logits of a prompt that exist at once: 64 MiB of float32, whatever the length of the prompt."""


def token_logprobs(logits: torch.Tensor, chosen: Array, num_top: Array) -> list[TokenLogprobs]:
    """For each row of `logits` [R, V]: the token chosen[r] first, then the num_top[r] most likely (-1: all).

    The chosen token is listed again in its place if it is among the most likely.
    """
    found: dict[int, TokenLogprobs] = {}
    for count in np.unique(num_top).tolist():
        places = np.flatnonzero(num_top == count)
        rows_per_slice = max(1, CACHED_LOGITS // logits.shape[1])
        for first in range(0, len(places), rows_per_slice):
            part = places[first : first + rows_per_slice]
            found.update(zip(part.tolist(), _rank_rows(logits, part, chosen[part], count), strict=True))
    return [found[place] for place in range(len(logits))]


def prompt_logprobs(
    hidden: torch.Tensor,
    next_ids: Array,
    num_top: int,
    head: Callable[[torch.Tensor], torch.Tensor | None],
    vocab_size: int,
) -> list[TokenLogprobs] | None:
    """What the prompt's own tokens got: `hidden` [N, H] of the tokens before `next_ids` [N], `head` makes logits.

    At most SLICE_LOGITS logits exist at once (or one row of them). None if any of them is not a number, and on a rank
    to which `head` gives none.
    """
    entries: list[TokenLogprobs] = []
    usable = True
    step = max(1, SLICE_LOGITS // vocab_size)
    for first in range(0, len(next_ids), step):
        # Every rank asks for every slice, whatever is in it: the head is computed by all of them together.
        logits = head(hidden[first : first + step])
        usable = usable and logits is not None and bool(torch.isfinite(logits.amax(-1)).all())
        if usable and logits is not None:
            ids = next_ids[first : first + step]
            entries += token_logprobs(logits, ids, np.full(len(ids), num_top))
    return entries if usable else None


def _rank_rows(logits: torch.Tensor, places: Array, chosen: Array, num_top: int) -> list[TokenLogprobs]:
    part = logits.index_select(0, torch.from_numpy(places).to(logits.device))
    width = part.shape[1]
    own = torch.from_numpy(chosen).to(part.device)[:, None]
    value = part.gather(1, own)
    every = torch.arange(width, device=part.device)
    ranks = 1 + ((part > value) | ((part == value) & (every < own))).sum(-1, keepdim=True)
    ids = own
    if num_top:
        top = most_likely(part, width if num_top < 0 else min(num_top, width))
        ids = torch.cat([own, top], dim=1)
        ranks = torch.cat([ranks, (every[: top.shape[1]] + 1).expand(len(part), -1)], dim=1)
    logprobs = part.log_softmax(-1).gather(1, ids)
    columns = zip(ids.tolist(), logprobs.tolist(), ranks.tolist(), strict=True)
    return [TokenLogprobs(token_ids, values, order) for token_ids, values, order in columns]
