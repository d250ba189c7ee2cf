"""Log-probabilities of the raw logits (before sampling changes them): of the chosen token and the likeliest.

Tokens are ordered by (logit descending, id ascending), so ranks are distinct and the first is the greedy choice.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from flover.memory.columns import Array
from flover.ops import Ops
from flover.ops.order import CACHED_LOGITS, most_likely
from flover.request import TokenLogprobs

SLICE_LOGITS = 2**24
"""Most logits of a prompt that exist at once: 64 MiB of float32, whatever the length of the prompt."""


def token_logprobs(logits: Array, chosen: Array, num_top: Array, ops: Ops) -> list[TokenLogprobs]:
    """For each row of `logits` [R, V]: the token chosen[r] first, then the num_top[r] most likely (-1: all).

    The chosen token is listed again in its place if it is among the most likely.
    """
    found: dict[int, TokenLogprobs] = {}
    for count in np.unique(num_top).tolist():
        places = np.flatnonzero(num_top == count)
        rows_per_slice = max(1, CACHED_LOGITS // logits.shape[1])
        for first in range(0, len(places), rows_per_slice):
            part = places[first : first + rows_per_slice]
            found.update(zip(part.tolist(), _rank_rows(logits[part], chosen[part], count, ops), strict=True))
    return [found[place] for place in range(len(logits))]


def prompt_logprobs(
    hidden: Array,
    next_ids: Array,
    num_top: int,
    head: Callable[[Array], Array | None],
    vocab_size: int,
    ops: Ops,
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
        usable = usable and logits is not None and bool(np.isfinite(logits.max(-1)).all())
        if usable and logits is not None:
            ids = next_ids[first : first + step]
            entries += token_logprobs(logits, ids, np.full(len(ids), num_top), ops)
    return entries if usable else None


def _rank_rows(logits: Array, chosen: Array, num_top: int, ops: Ops) -> list[TokenLogprobs]:
    width, every, ids = logits.shape[1], np.arange(logits.shape[1]), chosen[:, None]
    value = np.take_along_axis(logits, ids, 1)
    ranks = 1 + np.count_nonzero((logits > value) | ((logits == value) & (every < ids)), axis=-1)[:, None]
    if num_top:
        top = most_likely(logits, width if num_top < 0 else min(num_top, width))
        ids = np.concatenate([ids, top], axis=1)
        ranks = np.concatenate([ranks, np.broadcast_to(every[: top.shape[1]] + 1, top.shape)], axis=1)
    logprobs = (np.take_along_axis(logits, ids, 1) - ops.logsumexp(logits)[:, None]).astype(np.float32)
    columns = zip(ids.tolist(), logprobs.tolist(), ranks.tolist(), strict=True)
    return [TokenLogprobs(token_ids, values, order) for token_ids, values, order in columns]
