"""The order of a row's tokens: by logit, largest first, and by id, lowest first, where logits are equal.

One order for greedy choice, top_k, top_p and ranks, so that they never contradict each other; and a total one, so
that the result does not hang on how a sort or a parallel search treats equals.
"""

from __future__ import annotations

import numpy as np

from flover.ops import HostArray

CACHED_LOGITS = 2**18
"""Logits to work on at once: 1 MiB of float32, so that the passes over them find them in a core's cache."""


def argmax(logits: HostArray, masks: HostArray | None = None) -> tuple[HostArray, HostArray]:
    """The largest of each row of `logits` [R, V] and the first id that has it; a NaN counts as the largest.

    With `masks` uint32 [R, ceil(V / 32)] only those ids i count whose bit i % 32 of word i // 32 is set; the other
    logits become -inf. A row whose largest of all is not finite has that one, and the id -1; and so has a row of which
    no logit that counts is finite."""
    ids = logits.argmax(-1)
    best = np.take_along_axis(logits, ids[:, None], -1)[:, 0]
    if masks is None:
        return best, ids
    allowed = np.unpackbits(masks.view(np.uint8), axis=-1, bitorder="little", count=logits.shape[-1])
    logits[allowed == 0] = -np.inf
    allowed_best, ids = argmax(logits)
    best = np.where(np.isfinite(best), allowed_best, best)
    return best, np.where(np.isfinite(best), ids, -1)


def logsumexp(logits: HostArray) -> HostArray:
    """The logarithm of the sum of exponentials of each row of `logits` [R, V], float64 [R]."""
    best = logits.max(-1).astype(np.float64)
    total: HostArray = best + np.log(np.exp(logits - best[:, None]).sum(-1))
    return total


def most_likely(logits: HostArray, count: int) -> HostArray:
    """Ids [R, count] of the first tokens of each row of `logits` [R, V], in order."""
    return np.stack([_first_tokens(row, count) for row in logits])


def _first_tokens(row: HostArray, count: int) -> HostArray:
    ids = np.arange(len(row))
    if count < len(row):
        least = np.partition(row, len(row) - count)[len(row) - count]
        above, level = np.flatnonzero(row > least), np.flatnonzero(row == least)
        ids = np.sort(np.concatenate([above, level[: count - len(above)]]))
    order: HostArray = ids[np.argsort(-row[ids], kind="stable")]
    return order
