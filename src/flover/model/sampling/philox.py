"""Random numbers that are a function of (seed, position) and of nothing else: Philox4x32-10.

J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw: Parallel random numbers: as easy as 1, 2, 3 (SC 2011),
https://doi.org/10.1145/2063384.2063405; constants and test vectors as in the authors' Random123 library. A counter
in, 128 random bits out, no state: that is why a seeded request draws the same numbers in any row, in any
company, and after it was preempted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from flover.memory.columns import Array

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_LOW = 0xFFFFFFFF
_ROUNDS = 10
_FEW = 8
"""Rows up to which Python's integers are faster than an array for each operation."""

Words = TypeVar("Words", int, Array)
"""A 32-bit word, or one for each row in uint64 [R]."""


def philox4x32(counter: Sequence[Words], key: Sequence[Words]) -> tuple[Words, Words, Words, Words]:
    """Ten rounds: four words of `counter` and two of `key` in, four words out."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for turn in range(_ROUNDS):
        if turn:
            k0 = (k0 + _KEY_STEPS[0]) & _LOW
            k1 = (k1 + _KEY_STEPS[1]) & _LOW
        first, second = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (second >> 32) ^ c1 ^ k0, second & _LOW, (first >> 32) ^ c3 ^ k1, first & _LOW
    return c0, c1, c2, c3


def uniforms(seeds: Array, positions: Array) -> Array:
    """One number in (0, 1) per row, float64 with 52 random bits; `seeds` and `positions` are [R] int64.

    The key is the seed, the counter is the position.
    """
    if len(seeds) <= _FEW:
        pairs = zip(seeds.astype(np.uint64).tolist(), positions.astype(np.uint64).tolist(), strict=True)
        return np.array([(_bits(seed, position, 0) + 0.5) * 2.0**-52 for seed, position in pairs], dtype=np.float64)
    key, count = seeds.astype(np.uint64), positions.astype(np.uint64)
    drawn: Array = (_bits(key, count, np.zeros_like(count)).astype(np.float64) + 0.5) * 2.0**-52
    return drawn


def _bits(seed: Words, position: Words, zero: Words) -> Words:
    """52 random bits."""
    first, second, _, _ = philox4x32((position & _LOW, position >> 32, zero, zero), (seed & _LOW, seed >> 32))
    return (first << 20) | (second >> 12)
