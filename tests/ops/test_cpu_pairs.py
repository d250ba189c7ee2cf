"""Products with weights in bfloat16: exact to the bit on every instruction set, in any company."""

from __future__ import annotations

import numpy as np
import pytest

from flover.ops import Part
from flover.ops.cpu import cpu_ops, instruction_sets
from flover.ops.cpu_weight import PackedWeight
from flover.ops.group import tree_sum
from ops.exact import Floats, chain_of_pairs, rounded

ROWS, OUTPUTS = 101, 90
COMPANIES = ((0, ROWS), (0, 1), (51, 1), (17, 2), (3, 3), (60, 4), (8, 7), (30, 12), (30, 13), (5, 31), (5, 97))
"""First row and number of rows that are computed together."""
INPUTS = (1, 7, 64, 1301, 2048)
"""2048 are eight segments where ranks can share them."""


def numbers(seed: int, rows: int, inputs: int, least: int, most: int) -> Floats:
    """Of any size from 2^least to 2^most; a third lie in the middle between two of bfloat16."""
    generator = np.random.default_rng(seed)
    x = np.ldexp(generator.uniform(1, 2, (rows, inputs)), generator.integers(least, most, (rows, inputs)))
    bits = (x * generator.choice((-1, 1), x.shape)).astype(np.float32).view(np.uint32)
    return np.where(generator.random(x.shape) < 1 / 3, bits & 0xFFFF0000 | 0x8000, bits).view(np.float32)


def cancelling(x: Floats, weights: Floats) -> None:
    """In every 64 inputs the second half takes away what the first adds, but for a last bit here and there."""
    generator = np.random.default_rng(3)
    for first in range(0, x.shape[1] - 63, 64):
        half, rest = slice(first, first + 32), slice(first + 32, first + 64)
        nudged = np.where(generator.random(x[:, half].shape) < 0.1, 1 + 2.0**-7, 1).astype(np.float32)
        x[:, rest], weights[:, rest] = -rounded(x[:, half]) * nudged, weights[:, half]


RANGES = {"usual": ((-8, 8), (-8, 0)), "any": ((-149, 60), (-149, 60)), "tiny": ((-64, -52), (-64, -52))}
"""Of activations and weights. Tiny products are near the smallest normal number, and some factors are too small."""


@pytest.mark.parametrize("kind", RANGES)
@pytest.mark.parametrize("inputs", INPUTS)
def test_products_are_exact_to_the_bit_in_any_company(inputs: int, kind: str) -> None:
    """Those of the processor's instruction, where it has one, and of multiply-adds: of denormal numbers it makes zero,
    and they do not, so there must be none."""
    of_x, of_weights = RANGES[kind]
    x, weights = numbers(1, ROWS, inputs, *of_x), numbers(2, OUTPUTS, inputs, *of_weights)
    cancelling(x, weights)
    weight = PackedWeight((OUTPUTS, inputs), "bfloat16", False, Part(0, inputs) if inputs == 2048 else None)
    weight.store(0, weights)
    assert np.array_equal(weight.unpack(), rounded(weights))
    segments = [slice(first, first + 256) for first in range(0, inputs, 256)] if inputs == 2048 else [slice(None)]
    wanted = tree_sum([chain_of_pairs(rounded(x[:, s]), rounded(weights[:, s])) for s in segments])
    assert inputs < 64 or np.count_nonzero(wanted) > wanted.size / 8
    for isa in instruction_sets():
        for num_threads in (1, 3):
            ops = cpu_ops(isa, num_threads)
            for first, count in COMPANIES:
                y = ops.linear(x[first : first + count], weight, None, None)
                assert np.array_equal(y, wanted[first : first + count]), (isa, num_threads, first, count)


@pytest.mark.parametrize("isa", instruction_sets())
def test_a_number_that_bfloat16_cannot_hold_stays_in_its_row(isa: str) -> None:
    weight = PackedWeight((OUTPUTS, 64), "bfloat16", False)
    weight.store(0, numbers(2, OUTPUTS, 64, -8, 0))
    x = numbers(1, 20, 64, -8, 8)
    clean = cpu_ops(isa, 1).linear(x, weight, None, None)
    x[7, 11] = np.finfo(np.float32).max  # rounded up: infinite
    found = cpu_ops(isa, 1).linear(x, weight, None, None)
    assert np.isinf(found[7]).all()
    others = np.arange(20) != 7
    assert np.array_equal(found[others], clean[others])
