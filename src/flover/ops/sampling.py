"""Sampling a token for each row, in plain numpy: min_p, top_k and top_p, in this order as vLLM has them, then the draw.

Where tokens tie at the border of top_k or top_p, the lower ids stay (`order.py`), so exactly k tokens are left and
top_k=1 is the greedy choice.
"""

from __future__ import annotations

import numpy as np

from flover.ops import HostArray, SampleParams
from flover.ops.order import most_likely

_LEAST_EXPONENT = -70.0
"""A token less than exp(-70) times as likely as the likeliest counts as impossible: smaller numbers than float32
can hold at full precision are many times slower to compute with."""


def sample(logits: HostArray, best: HostArray, params: SampleParams) -> HostArray:
    """Random tokens [R] for `logits` [R, V] with largest `best` [R]: by inverting the cumulative distribution, in the
    order of the ids and in float64. A token of probability 0 is never drawn."""
    drawn = np.empty(len(logits), dtype=np.int64)
    for row in range(len(logits)):
        scaled = (logits[row] - best[row]) / params.temperature[row]
        weights = np.where(scaled < _LEAST_EXPONENT, np.float32(0), np.exp(scaled))
        weights[weights < np.float32(params.min_p[row])] = 0
        mass = np.cumsum(_truncated(weights, logits[row], params, row), dtype=np.float64)
        goal = min(params.uniform[row] * mass[-1], np.nextafter(mass[-1], 0))
        drawn[row] = np.searchsorted(mass, goal, side="right")
    return drawn


def _truncated(weights: HostArray, logits: HostArray, params: SampleParams, row: int) -> HostArray:
    """The weights of the tokens that top_k and then top_p leave; 0 elsewhere."""
    width = len(logits)
    top_k, top_p = int(params.top_k[row]), float(params.top_p[row])
    limit = min(top_k, width) if top_k > 0 else width
    if limit == width and top_p >= 1:
        return weights
    ids = most_likely(logits[None], limit)[0]
    if top_p < 1:
        mass = np.cumsum(weights[ids], dtype=np.float64)
        total = mass[-1] if limit < width else np.cumsum(weights, dtype=np.float64)[-1]
        ids = ids[: np.count_nonzero(mass < total * top_p) + 1]
    left = np.zeros_like(weights)
    left[ids] = weights[ids]
    return left
