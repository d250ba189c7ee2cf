"""Sampling a token for each row, in plain torch: min_p, top_k and top_p, in this order as vLLM has them, then the draw.

Where tokens tie at the border of top_k or top_p, the lower ids stay (`order.py`), so exactly k tokens are left and
top_k=1 is the greedy choice. No vocabulary is sorted unless a row asks for top_p and its nucleus is wider than
`_NUCLEUS` tokens.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from flover.ops import SampleParams
from flover.ops.order import beyond_first

FloatArray = npt.NDArray[np.floating[Any]]
IntArray = npt.NDArray[np.integer[Any]]

_NUCLEUS = 256
"""Tokens looked at first for top_p; almost every nucleus is smaller."""

_LEAST_EXPONENT = -70.0
"""A token less than exp(-70) times as likely as the likeliest counts as impossible: smaller numbers than float32
can hold at full precision are many times slower to compute with."""


def sample(logits: torch.Tensor, best: torch.Tensor, params: SampleParams) -> torch.Tensor:
    """Random tokens [R] for `logits` [R, V] with largest `best` [R]: by inverting the cumulative distribution, in the
    order of the ids and in float64. A token of probability 0 is never drawn."""
    scaled = (logits - best[:, None]).div_(_column(params.temperature, logits))
    weights = torch.nn.functional.threshold(scaled, _LEAST_EXPONENT, -torch.inf, inplace=True).softmax(-1)
    _truncate(weights, logits, params)
    mass = weights.cumsum(-1, dtype=torch.float64)
    total = mass[:, -1:]
    goal = torch.minimum(_column(params.uniform, logits) * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(mass, goal, right=True)[:, 0]


def _truncate(weights: torch.Tensor, logits: torch.Tensor, params: SampleParams) -> None:
    """Put 0 on the tokens that must not be drawn, in place.

    `weights` [R, V] are the probabilities at the rows' temperatures; `logits` [R, V] give the order of the tokens.
    """
    width = logits.shape[1]
    places = np.flatnonzero(params.min_p > 0)
    if len(places):
        part = _pick(weights, places)
        least = part.amax(-1, keepdim=True) * _column(params.min_p[places], part).float()
        _drop(weights, places, part < least)
    top_k = np.where(params.top_k > 0, np.minimum(params.top_k, width), width)
    limited, top_p = top_k < width, params.top_p
    places = np.flatnonzero(limited)
    if len(places):
        beyond = _beyond_rank(_pick(weights, places), _pick(logits, places), top_k[places], top_p[places])
        _drop(weights, places, beyond)
    places = np.flatnonzero(~limited & (top_p < 1))
    if len(places):
        _drop(weights, places, _beyond_mass(_pick(weights, places), _pick(logits, places), top_p[places]))


def _beyond_rank(weights: torch.Tensor, logits: torch.Tensor, top_k: IntArray, top_p: FloatArray) -> torch.Tensor:
    """Mask of what top_k, and then top_p over the k tokens that are left, exclude."""
    values, ids = logits.topk(int(top_k.max()) + 1, dim=-1)
    num_kept = _column(top_k, logits)
    if (top_p < 1).any():
        mass = weights.gather(1, ids).cumsum(-1, dtype=torch.float64)
        share = _column(top_p, logits)
        nucleus = _nucleus_size(mass, mass.gather(1, num_kept - 1), share)
        num_kept = torch.where(share < 1, torch.minimum(num_kept, nucleus), num_kept)
    return beyond_first(logits, values, num_kept)


def _beyond_mass(weights: torch.Tensor, logits: torch.Tensor, top_p: FloatArray) -> torch.Tensor:
    """Mask of what top_p excludes: from a short list, or from a full sort for rows whose nucleus is longer."""
    total = weights.cumsum(-1, dtype=torch.float64)[:, -1:]
    share = _column(top_p, logits)
    values, ids = logits.topk(min(_NUCLEUS, logits.shape[1]), dim=-1)
    listed = values.shape[1]
    num_kept = _nucleus_size(weights.gather(1, ids).cumsum(-1, dtype=torch.float64), total, share)
    beyond = beyond_first(logits, values, num_kept.clamp(max=listed))
    wide = torch.nonzero(num_kept[:, 0] >= listed)[:, 0]
    if len(wide) and listed < logits.shape[1]:
        values, ids = logits[wide].sort(dim=-1, descending=True)
        mass = weights[wide].gather(1, ids).cumsum(-1, dtype=torch.float64)
        num_kept = _nucleus_size(mass, total[wide], share[wide])
        beyond[wide] = beyond_first(logits[wide], values, num_kept.clamp(max=logits.shape[1]))
    return beyond


def _nucleus_size(mass: torch.Tensor, total: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """Fewest of the first tokens whose cumulative `mass` [R, W] reaches the share top_p [R, 1] of `total` [R, 1]:
    [R, 1], at least 1, and W + 1 where all of them do not reach it."""
    return (mass < total * top_p).sum(-1, keepdim=True) + 1


def _pick(values: torch.Tensor, places: IntArray) -> torch.Tensor:
    return values if len(places) == len(values) else values.index_select(0, torch.from_numpy(places).to(values.device))


def _drop(weights: torch.Tensor, places: IntArray, beyond: torch.Tensor) -> None:
    if len(places) == len(weights):
        weights.masked_fill_(beyond, 0.0)
    else:
        index = torch.from_numpy(places).to(weights.device)
        weights[index] = weights[index].masked_fill_(beyond, 0.0)


def _column(values: FloatArray | IntArray, like: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(values).to(like.device)[:, None]
