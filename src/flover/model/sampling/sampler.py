"""One sampling for all rows: logits and the rows' parameters in, a token for each row out.

Order as in vLLM: log-probabilities of the raw logits; grammars, allowed tokens, bad words, min_tokens, bias, penalties;
then scale, min_p, top_k, top_p, draw (`ops/sampling.py`). Greedy rows take the largest logit, the lowest id among
equals.

What a row gets depends on its own logits and columns alone, bit for bit: each feature is computed only for the rows
that ask for it, every sum over the vocabulary runs along one row in the order of the ids, and the random number is
a function of the row's seed and of how many tokens it has got before. Ties and draws are thus the same in any
crowd. A row whose logits are unusable gets an error and no token.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from flover.memory.buffers import RowView
from flover.memory.columns import Array, Feature
from flover.model.sampling.edit import edit_logits, masks_of
from flover.model.sampling.logprobs import token_logprobs
from flover.model.sampling.philox import uniforms
from flover.ops import HostArray, Ops, SampleParams
from flover.ops.order import CACHED_LOGITS
from flover.request import TokenLogprobs

NO_TOKEN = -1

_NOT_A_NUMBER = "the model's logits are not finite numbers"
_NONE_ALLOWED = "no token is left to choose: the request's masks, bans and biases exclude all of them"
EDITS = Feature.GRAMMAR | Feature.ALLOWED | Feature.BAD_WORDS | Feature.MIN_TOKENS | Feature.BIAS | Feature.PENALTIES
_ROWS_AT_ONCE = 8
"""At least so many rows are changed together: threads share them."""


@dataclass(slots=True)
class Sampled:
    """By position in the logits: `token_ids` [S] int64, NO_TOKEN where `errors` says why."""

    token_ids: Array
    errors: dict[int, str] = field(default_factory=dict)
    logprobs: dict[int, TokenLogprobs] = field(default_factory=dict)


def sample(logits: HostArray, rows: RowView, ops: Ops) -> Sampled:
    """Choose a token for each row of `logits` [S, V] float32, of which masks may change their rows; rows[s] has
    logits[s]."""
    features = rows["features"]
    # A mask's row is changed where it is, unless its log-probabilities or other changes need it as it was.
    in_place = features & (EDITS | Feature.LOGPROBS) == Feature.GRAMMAR
    best, ids = ops.argmax(logits, masks_of(rows, in_place, logits.shape[1]))
    sampled = Sampled(ids)
    tell_errors(sampled, best, rows)
    if not features.any():
        return sampled
    usable = ids != NO_TOKEN
    edited = (features & EDITS != 0) & ~in_place
    random = (features & Feature.RANDOM != 0) & usable
    if edited.any():
        changed = np.flatnonzero(edited & usable)
        rows_per_slice = max(_ROWS_AT_ONCE, CACHED_LOGITS // logits.shape[1])
        for first in range(0, len(changed), rows_per_slice):
            places = changed[first : first + rows_per_slice]
            _choose_edited(logits[places], rows.select(places), places, sampled, ops)
        random &= ~edited
    places = np.flatnonzero(random)
    if len(places):
        ids[places] = _draw(logits, best, rows, places, ops)
    asking = np.flatnonzero((features & Feature.LOGPROBS != 0) & (sampled.token_ids != NO_TOKEN))
    if len(asking):
        entries = token_logprobs(logits[asking], sampled.token_ids[asking], rows.select(asking)["logprobs"], ops)
        sampled.logprobs = dict(zip(asking.tolist(), entries, strict=True))
    return sampled


def _choose_edited(logits: HostArray, rows: RowView, places: Array, sampled: Sampled, ops: Ops) -> None:
    """Rows whose logits are changed first. `logits` [R, V] are a copy to work on; what row r gets goes to places[r] of
    `sampled`."""
    features = rows["features"]
    edit_logits(logits, rows, features)
    best, ids = ops.argmax(logits, masks_of(rows, features & Feature.GRAMMAR != 0, logits.shape[1]))
    sampled.token_ids[places] = ids
    tell_errors(sampled, best, rows, places)
    random = np.flatnonzero(np.isfinite(best) & (features & Feature.RANDOM != 0))
    if len(random):
        sampled.token_ids[places[random]] = _draw(logits, best, rows, random, ops)


def tell_errors(sampled: Sampled, best: HostArray, rows: RowView, places: Array | None = None) -> None:
    """Why rows with these largest logits after their edits get no token, if they get none; row r is places[r] of
    `sampled`, r by default."""
    for row in np.flatnonzero(~np.isfinite(best)).tolist():
        place = row if places is None else int(places[row])
        _fail(sampled, place, float(best[row]))
        state = rows.select(np.array([row]))["grammar"][0]
        if state is not None and state.error:
            sampled.errors[place] = f"structured_outputs cannot go on: {state.error}"


def _draw(logits: HostArray, best: HostArray, rows: RowView, places: Array, ops: Ops) -> Array:
    """Random tokens of the rows `places` of `logits` [R, V], whose largest are `best` [R]. Nothing is copied where all
    rows draw."""
    if len(places) < len(logits):
        logits, best, rows = logits[places], best[places], rows.select(places)
    uniform = uniforms(rows["seed"], rows["num_outputs"])
    return ops.sample(logits, best, SampleParams.of(rows, uniform))


def _fail(sampled: Sampled, place: int, largest: float) -> None:
    sampled.token_ids[place] = NO_TOKEN
    sampled.errors[place] = _NONE_ALLOWED if largest == -np.inf else _NOT_A_NUMBER
