"""From the hidden states of a prompt to one vector, whatever chunks the prompt is computed in."""

from __future__ import annotations

from typing import Literal

import numpy as np

from flover.engine.plan import Work
from flover.ops import HostArray

Pooling = Literal["last", "mean"]


class Pooled:
    """Column `pooled`: what a row has seen of its prompt's hidden states (after the final norm)."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._state: HostArray | None = None  # float64 [H]: the newest state, or the sum of all
        self._count = 0

    def add(self, hidden: HostArray) -> None:
        """The states [N, H] of the next chunk. A sum is one chain over the tokens, so that chunks do not change it."""
        states = hidden.astype(np.float64)
        self._count += len(states)
        if self._kind == "last" or self._state is None:
            self._state = states[-1 if self._kind == "last" else 0].copy()
            states = states[1:]
        if self._kind == "mean":
            for state in states:
                self._state += state

    def vector(self) -> bytes:
        """The vector of the whole prompt, little-endian float32 [H], not normalised."""
        assert self._state is not None
        mean = self._state / (self._count if self._kind == "mean" else 1)
        raw: bytes = mean.astype("<f4").tobytes()
        return raw


def pool_prompt(column: HostArray, chunk: Work, states: HostArray) -> bytes | None:
    """Add the states of a chunk of a row that asks for an embedding; the vector comes with the last chunk."""
    pooled: Pooled = column[chunk.row]
    pooled.add(states)
    if not chunk.num_samples:
        return None
    column[chunk.row] = None
    return pooled.vector()
