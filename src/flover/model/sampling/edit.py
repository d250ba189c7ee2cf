"""Changes to the logits that also bind a greedy row: allowed and banned tokens, bias, penalties.

Each function writes in place, only to the rows that ask for it, and one after another in vLLM's order; `logits`
must be a contiguous copy that the caller may change. A row is a position in `logits` and in `rows`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from flover.memory.buffers import RowView
from flover.memory.columns import Array, Feature


def edit_logits(logits: torch.Tensor, rows: RowView, features: Array) -> None:
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


def _allow(logits: torch.Tensor, rows: RowView, asking: Array) -> None:
    for place, ids in zip(asking.tolist(), rows.select(asking)["allowed_ids"], strict=True):
        row, index = logits[place], torch.from_numpy(ids).to(logits.device)
        kept = row[index]
        row.fill_(float("-inf"))
        row[index] = kept


def _ban(logits: torch.Tensor, asking: Array, ids: list[Array]) -> None:
    if len(asking):
        logits.view(-1)[_flat(logits, asking, ids)] = float("-inf")


def _add_bias(logits: torch.Tensor, rows: RowView, asking: Array) -> None:
    biases = list(rows.select(asking)["bias"])
    index = _flat(logits, asking, [ids for ids, _ in biases])
    values = np.concatenate([values for _, values in biases])
    logits.view(-1)[index] += torch.from_numpy(values).to(logits.device)


def _penalize(logits: torch.Tensor, rows: RowView, asking: Array) -> None:
    """Repetition over prompt and output: positive logits are divided, negative multiplied (CTRL, arXiv 1909.05858);
    then frequency times the output count, and presence once, over the output alone (as OpenAI defines them)."""
    view = rows.select(asking)
    counts = list(view["counts"])
    ids = [count.ids for count in counts]
    lengths = [len(seen) for seen in ids]

    def spread(values: Array) -> torch.Tensor:
        return torch.from_numpy(np.repeat(values, lengths)).to(logits.device)

    index = _flat(logits, asking, ids)
    outputs = torch.from_numpy(np.concatenate([count.outputs for count in counts])).to(logits.device)
    repetition = spread(view["repetition_penalty"])
    flat = logits.view(-1)
    seen = flat[index]
    seen = torch.where(seen > 0, seen / repetition, seen * repetition)
    seen -= spread(view["frequency_penalty"]) * outputs
    seen -= spread(view["presence_penalty"]) * (outputs > 0)
    flat[index] = seen


def _flat(logits: torch.Tensor, places: Array, ids: list[Array]) -> torch.Tensor:
    """Indices into the flattened logits of the tokens ids[i] of row places[i]."""
    width = logits.shape[1]
    index: Any = np.concatenate([place * width + tokens for place, tokens in zip(places.tolist(), ids, strict=True)])
    return torch.from_numpy(index).to(logits.device)
