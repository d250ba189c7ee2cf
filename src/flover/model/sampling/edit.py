"""What also binds a greedy row: masks of grammars, allowed and banned tokens, bias, penalties.

All but the masks, which the search for the largest logit applies, are written in place, only to the rows that ask for
it, and one after another in vLLM's order; `logits` must be a contiguous copy that the caller may change. A row is a
position in `logits` and in `rows`.
"""

from __future__ import annotations

import numpy as np

from flover.memory.buffers import RowView
from flover.memory.columns import Array, Feature


def edit_logits(logits: Array, rows: RowView, features: Array) -> None:
    """All edits on `logits` [R, V] float32; `features` [R] is the rows' column of that name."""
    used = int(np.bitwise_or.reduce(features))
    if used & Feature.ALLOWED:
        _allow(logits, rows, np.flatnonzero(features & Feature.ALLOWED))
    if used & Feature.BAD_WORDS:
        asking = np.flatnonzero(features & Feature.BAD_WORDS)
        words = rows.select(asking)["bad_words"]
        _ban(logits, asking, [np.asarray(word.banned(), dtype=np.int64) for word in words])
    if used & Feature.MIN_TOKENS:
        early = rows["num_outputs"] < rows["min_tokens"]
        asking = np.flatnonzero((features & Feature.MIN_TOKENS != 0) & early)
        _ban(logits, asking, list(rows.select(asking)["banned_ids"]))
    if used & Feature.BIAS:
        _add_bias(logits, rows, np.flatnonzero(features & Feature.BIAS))
    if used & Feature.PENALTIES:
        _penalize(logits, rows, np.flatnonzero(features & Feature.PENALTIES))


def masks_of(rows: RowView, masked: Array, vocab_size: int) -> Array | None:
    """The masks uint32 [R, ceil(V / 32)] of the grammars of those rows that are `masked` [R], all ones in the others;
    None if no row is."""
    asking = np.flatnonzero(masked)
    if not len(asking):
        return None
    masks = np.empty((len(masked), -(-vocab_size // 32)), dtype=np.uint32)
    if len(asking) < len(masked):
        masks.fill(0xFFFFFFFF)
    for place, state in zip(asking.tolist(), rows.select(asking)["grammar"], strict=True):
        masks[place] = state.words()
    return masks


def _allow(logits: Array, rows: RowView, asking: Array) -> None:
    for place, ids in zip(asking.tolist(), rows.select(asking)["allowed_ids"], strict=True):
        row = logits[place]
        kept = row[ids]
        row.fill(-np.inf)
        row[ids] = kept


def _ban(logits: Array, asking: Array, ids: list[Array]) -> None:
    if len(asking):
        logits.reshape(-1)[_flat(logits, asking, ids)] = -np.inf


def _add_bias(logits: Array, rows: RowView, asking: Array) -> None:
    biases = list(rows.select(asking)["bias"])
    index = _flat(logits, asking, [ids for ids, _ in biases])
    values = np.concatenate([values for _, values in biases])
    logits.reshape(-1)[index] += values


def _penalize(logits: Array, rows: RowView, asking: Array) -> None:
    """Repetition over prompt and output: positive logits are divided, negative multiplied (CTRL, arXiv 1909.05858);
    then frequency times the output count, and presence once, over the output alone (as OpenAI defines them)."""
    view = rows.select(asking)
    counts = list(view["counts"])
    ids = [count.ids for count in counts]
    lengths = [len(seen) for seen in ids]

    def spread(values: Array) -> Array:
        repeated: Array = np.repeat(values, lengths)
        return repeated

    index = _flat(logits, asking, ids)
    outputs = np.concatenate([count.outputs for count in counts])
    repetition = spread(view["repetition_penalty"])
    flat = logits.reshape(-1)
    seen = flat[index]
    seen = np.where(seen > 0, seen / repetition, seen * repetition)
    seen -= spread(view["frequency_penalty"]) * outputs
    seen -= spread(view["presence_penalty"]) * (outputs > 0)
    flat[index] = seen


def _flat(logits: Array, places: Array, ids: list[Array]) -> Array:
    """Indices into the flattened logits of the tokens ids[i] of row places[i]."""
    width = logits.shape[1]
    index: Array = np.concatenate([place * width + tokens for place, tokens in zip(places.tolist(), ids, strict=True)])
    return index
