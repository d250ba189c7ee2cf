"""The sampling columns of rows as the arrays that a device takes (`ops/choices.py`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flover.memory.buffers import RowView
from flover.memory.columns import Array, Feature
from flover.model.sampling.sampler import EDITS
from flover.ops.choices import DRAW_COLUMNS, Choices, Draws, Edits


def pack(rows: RowView, vocab_size: int) -> Choices:
    """What these rows ask for; row s has the logits s, of `vocab_size` tokens."""
    features = rows["features"]
    edited, random = features & EDITS != 0, features & Feature.RANDOM != 0
    changed = np.flatnonzero(edited)
    return Choices(
        _edits(rows.select(changed), changed, vocab_size) if len(changed) else None,
        _draws(rows, np.flatnonzero(random & ~edited)),
        _draws(rows.select(changed), np.flatnonzero(random[changed])),
    )


def _draws(rows: RowView, places: Array) -> Draws | None:
    if not len(places):
        return None
    mine = rows.select(places)
    return Draws(rows=places, **{name: mine[name] for name in DRAW_COLUMNS})


def _edits(rows: RowView, places: Array, vocab_size: int) -> Edits:
    features, none = rows["features"], np.zeros(0, dtype=np.int64)
    words = [
        _mask(row_features, grammar, allowed, vocab_size)
        for row_features, grammar, allowed in zip(features, rows["grammar"], rows["allowed_ids"], strict=True)
    ]
    masks = [word for word in words if word is not None]
    masked = np.array([word is not None for word in words])
    early = rows["num_outputs"] < rows["min_tokens"]
    banned = [
        np.concatenate([words.banned() if words else [], ids if ids is not None and soon else none]).astype(np.int64)
        for words, ids, soon in zip(rows["bad_words"], rows["banned_ids"], early, strict=True)
    ]
    biases = [bias or (none, np.zeros(0, dtype=np.float32)) for bias in rows["bias"]]
    counts = list(rows["counts"])
    return Edits(
        places,
        np.stack(masks) if masks else np.zeros((1, -(-vocab_size // 32)), dtype=np.int32),
        np.where(masked, np.cumsum(masked) - 1, -1).astype(np.int32),
        *_listed(banned),
        *_listed([ids for ids, _ in biases]),
        np.concatenate([values for _, values in biases]),
        *_listed([none if count is None else count.ids for count in counts]),
        np.concatenate([none if count is None else count.outputs for count in counts]).astype(np.float32),
        *(rows[name] for name in ("repetition_penalty", "frequency_penalty", "presence_penalty")),
    )


def _mask(features: int, grammar: object, allowed: Array | None, vocab_size: int) -> Array | None:
    """Bits of the tokens that a row's grammar and its list leave, in words of 32; None: all tokens."""
    size = -(-vocab_size // 32)
    words = None
    if features & Feature.ALLOWED and allowed is not None:
        bits = np.zeros(32 * size, dtype=np.uint8)
        bits[allowed] = 1
        words = np.packbits(bits, bitorder="little").view(np.int32)
    if features & Feature.GRAMMAR:
        own = np.ascontiguousarray(grammar.words()).view(np.int32)[:size]  # type: ignore[attr-defined]
        words = own if words is None else words & own
    return words


def _listed(parts: Sequence[Array]) -> tuple[Array, Array]:
    """Where each row's ids begin, one more for the end, and the ids one after another."""
    starts = np.cumsum([0, *map(len, parts)]).astype(np.int32)
    return starts, np.concatenate(parts).astype(np.int64)
