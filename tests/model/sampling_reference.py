"""What the sampler must do, written out for one row in plain Python, and rows to ask it with."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from flover.memory.buffers import RowBuffers
from flover.memory.columns import row_columns
from flover.model.sampling import Sampled, sample, sampling_values
from flover.ops import Ops
from flover.request import SamplingParams

EOS = [3]
VOCAB = 40


class Asker:
    """One row: parameters, what it has seen, a seed."""

    def __init__(
        self,
        prompt: Sequence[int] = (1,),
        outputs: Sequence[int] = (),
        seed: int = 0,
        bad: Sequence[list[int]] = (),
        **params: Any,
    ) -> None:
        self.prompt, self.outputs, self.seed, self.bad = list(prompt), list(outputs), seed, list(bad)
        self.params = SamplingParams(max_tokens=1000, **params)

    def columns(self) -> dict[str, Any]:
        return sampling_values(
            self.params,
            prompt_ids=self.prompt,
            output_ids=self.outputs,
            seed=self.seed,
            bad_words_ids=self.bad,
            eos_ids=EOS,
        )


class SomeTokens:
    """In the place of a grammar's state: allows every third token."""

    error = None

    def words(self) -> np.ndarray[Any, Any]:
        bits = np.zeros(32 * -(-VOCAB // 32), dtype=np.uint8)
        bits[::3] = 1
        return np.packbits(bits, bitorder="little").view(np.uint32)


def seat(askers: list[Asker], num_rows: int | None = None) -> RowBuffers:
    buffers = RowBuffers(row_columns(1), num_rows or len(askers))
    for row, asker in enumerate(askers):
        buffers.insert(row, **asker.columns())
    return buffers


def choose(ops: Ops, logits: torch.Tensor, askers: list[Asker]) -> Sampled:
    return sample(logits.numpy(), seat(askers).view(np.arange(len(askers))), ops)


def distribution(logits: list[float], asker: Asker) -> list[float]:
    """What the row may draw and how likely, in plain Python: the semantics, one line each."""
    params, x = asker.params, list(logits)
    outputs = Counter(asker.outputs)
    if params.allowed_token_ids is not None:
        x = [value if token in params.allowed_token_ids else -math.inf for token, value in enumerate(x)]
    for word in asker.bad:
        if [*asker.outputs, word[-1]][-len(word) :] == word:
            x[word[-1]] = -math.inf
    if len(asker.outputs) < params.min_tokens:
        for token in [*EOS, *(params.stop_token_ids or [])]:
            x[token] = -math.inf
    for token, bias in (params.logit_bias or {}).items():
        x[token] += bias
    for token in {*asker.prompt, *asker.outputs}:
        x[token] = x[token] / params.repetition_penalty if x[token] > 0 else x[token] * params.repetition_penalty
    for token, count in outputs.items():
        x[token] -= params.frequency_penalty * count + params.presence_penalty
    order = sorted(range(len(x)), key=lambda token: (-x[token], token))
    if x[order[0]] == -math.inf:
        return [0.0] * len(x)
    if params.greedy:
        return [1.0 if token == order[0] else 0.0 for token in range(len(x))]
    weights = [math.exp((value - x[order[0]]) / params.temperature) for value in x]
    kept = {token for token in order if weights[token] >= params.min_p}
    if params.top_k > 0:
        kept &= set(order[: params.top_k])
    total, mass, nucleus = sum(weights[token] for token in kept), 0.0, set()
    for token in order:
        if token in kept and (not nucleus or mass < params.top_p * total):
            nucleus.add(token)
            mass += weights[token]
    return [weights[token] / mass if token in nucleus else 0.0 for token in range(len(x))]


def pick(probabilities: list[float], draw: float) -> tuple[int, float]:
    """The token at `draw`, and how near the draw is to a border (where float32 may decide otherwise)."""
    mass, borders = 0.0, []
    chosen = -1
    for token, probability in enumerate(probabilities):
        borders.append(mass)
        mass += probability
        if chosen < 0 and mass > draw:
            chosen = token
    return chosen, min(abs(draw - border) for border in [*borders, mass])
