"""Random numbers that are a function of (seed, position) and of nothing else: Philox4x32-10.

J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw: Parallel random numbers: as easy as 1, 2, 3 (SC 2011),
https://doi.org/10.1145/2063384.2063405; constants and test vectors as in the authors' Random123 library. A counter
in, 128 random bits out, no state: that is why a seeded request draws the same numbers in any row, in any
company, and after it was preempted.
"""

from __future__ import annotations

import numpy as np

from flover.memory.columns import Array

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_KEY_STEPS = (np.uint64(0x9E3779B9), np.uint64(0xBB67AE85))
_LOW = np.uint64(0xFFFFFFFF)
_WORD = np.uint64(32)
_ROUNDS = 10


def philox4x32(counter: Array, key: Array) -> Array:
    """Ten rounds. `counter` [4, R] and `key` [2, R] hold 32-bit words in uint64; returns [4, R] likewise."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for turn in range(_ROUNDS):
        if turn:
            k0 = (k0 + _KEY_STEPS[0]) & _LOW
            k1 = (k1 + _KEY_STEPS[1]) & _LOW
        first, second = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (second >> _WORD) ^ c1 ^ k0, second & _LOW, (first >> _WORD) ^ c3 ^ k1, first & _LOW
    return np.stack([c0, c1, c2, c3])


def uniforms(seeds: Array, positions: Array) -> Array:
    """One number in (0, 1) per row, float64 with 52 random bits; `seeds` and `positions` are [R] int64.

    The key is the seed, the counter is the position.
    """
    key, count = seeds.astype(np.uint64), positions.astype(np.uint64)
    zero = np.zeros_like(count)
    words = philox4x32(np.stack([count & _LOW, count >> _WORD, zero, zero]), np.stack([key & _LOW, key >> _WORD]))
    bits = (words[0] << np.uint64(20)) | (words[1] >> np.uint64(12))
    drawn: Array = (bits.astype(np.float64) + 0.5) * 2.0**-52
    return drawn
