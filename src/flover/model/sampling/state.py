"""A request's sampling parameters as the columns of its row, and how the columns follow each chosen token.

Everything the sampler depends on is in these columns and is made again from the prompt and the outputs when a
preempted sequence comes back, so neither the row it has nor its past in other rows can change what it gets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from flover.memory.buffers import RowBuffers
from flover.memory.columns import PARAMETER_COLUMNS, Array, Feature
from flover.request import SamplingParams

_FOLLOWING = int(Feature.PENALTIES | Feature.BAD_WORDS | Feature.GRAMMAR)
"""Features whose columns change with every token."""
_COLUMNS_FOLLOWING = ((Feature.PENALTIES, "counts"), (Feature.BAD_WORDS, "bad_words"), (Feature.GRAMMAR, "grammar"))


class TokenCounts:
    """The distinct tokens a row has seen, and how often each is in its output: what the penalties need.

    `ids` [n] int64 and `outputs` [n] float32; prompt tokens that were never generated have 0 outputs.
    """

    __slots__ = ("_ids", "_index", "_outputs", "_size")

    def __init__(self, prompt_ids: Sequence[int], output_ids: Sequence[int]) -> None:
        self._ids = np.unique(np.asarray([*prompt_ids, *output_ids], dtype=np.int64))
        self._size = len(self._ids)
        self._index = {token: place for place, token in enumerate(self._ids.tolist())}
        self._outputs = np.zeros(self._size, dtype=np.float32)
        for token in output_ids:
            self._outputs[self._index[token]] += 1

    @property
    def ids(self) -> Array:
        return self._ids[: self._size]

    @property
    def outputs(self) -> Array:
        return self._outputs[: self._size]

    def add(self, token: int) -> None:
        """Count one more generated token."""
        place = self._index.get(token)
        if place is None:
            place = self._index[token] = self._size
            if place == len(self._ids):
                room = max(16, place)
                self._ids = np.concatenate([self._ids, np.zeros(room, dtype=np.int64)])
                self._outputs = np.concatenate([self._outputs, np.zeros(room, dtype=np.float32)])
            self._ids[place] = token
            self._outputs[place] = 0
            self._size += 1
        self._outputs[place] += 1


class BadWords:
    """Words a row must not write, and as much of the end of its output as is needed to see one coming.

    As in vLLM, a word counts only if all of it would be output: the prompt's end is not looked at.
    """

    __slots__ = ("_keep", "_tail", "_words")

    def __init__(self, words: Sequence[Sequence[int]], output_ids: Sequence[int]) -> None:
        self._words = [list(word) for word in words if word]
        self._keep = max((len(word) - 1 for word in self._words), default=0)
        self._tail: list[int] = list(output_ids[-self._keep :]) if self._keep else []

    def banned(self) -> list[int]:
        """Tokens that would complete a word now."""
        return [word[-1] for word in self._words if len(word) == 1 or self._tail[-(len(word) - 1) :] == word[:-1]]

    def add(self, token: int) -> None:
        """Note one more generated token."""
        if self._keep:
            self._tail = [*self._tail, token][-self._keep :]


def sampling_values(
    params: SamplingParams,
    *,
    prompt_ids: Sequence[int],
    output_ids: Sequence[int],
    seed: int,
    bad_words_ids: Sequence[Sequence[int]],
    eos_ids: Sequence[int],
) -> dict[str, Any]:
    """The sampling columns of a row that takes this sequence; `output_ids` is what it has generated before."""
    values: dict[str, Any] = {
        **{column.name: max(getattr(params, column.name), column.least) for column in PARAMETER_COLUMNS},
        "seed": seed,
        "num_outputs": len(output_ids),
        "last_id": output_ids[-1] if output_ids else prompt_ids[-1],
    }
    features = Feature(0)
    if not params.greedy:
        features |= Feature.RANDOM
        if params.min_p > 0:
            features |= Feature.MIN_P
        if params.top_k > 0:
            features |= Feature.TOP_K
        if params.top_p < 1:
            features |= Feature.TOP_P
    if params.allowed_token_ids is not None:
        features |= Feature.ALLOWED
        values["allowed_ids"] = np.unique(np.asarray(params.allowed_token_ids, dtype=np.int64))
    if bad_words_ids:
        features |= Feature.BAD_WORDS
        values["bad_words"] = BadWords(bad_words_ids, output_ids)
    banned = sorted({*eos_ids, *(params.stop_token_ids or ())})
    if params.min_tokens > 0 and banned:
        features |= Feature.MIN_TOKENS
        values["banned_ids"] = np.asarray(banned, dtype=np.int64)
    if params.logit_bias:
        features |= Feature.BIAS
        values["bias"] = (
            np.fromiter(params.logit_bias.keys(), dtype=np.int64),
            np.fromiter(params.logit_bias.values(), dtype=np.float32),
        )
    if params.repetition_penalty != 1 or params.frequency_penalty or params.presence_penalty:
        features |= Feature.PENALTIES
        values["counts"] = TokenCounts(prompt_ids if params.repetition_penalty != 1 else (), output_ids)
    if params.logprobs is not None:
        features |= Feature.LOGPROBS
        values["logprobs"] = params.logprobs
    values["features"] = int(features)
    return values


def advance(buffers: RowBuffers, rows: Array, token_ids: Array) -> None:
    """Row rows[i] has got token token_ids[i]."""
    buffers["last_id"][rows] = token_ids
    buffers["num_outputs"][rows] += 1
    features = buffers["features"][rows]
    if not (features & _FOLLOWING).any():
        return
    for feature, column in _COLUMNS_FOLLOWING:
        for place in np.flatnonzero(features & feature):
            buffers[column][rows[place]].add(int(token_ids[place]))
