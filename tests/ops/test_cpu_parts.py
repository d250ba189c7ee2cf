"""Parts of a weight, cut by columns as ranks keep them, have the numbers of the whole; and what ranks compute together
has the bits of one rank."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from flover_benchmarks.kernels.blocks import random_blocks
from support.thread_ranks import on_ranks

from flover.errors import InvariantError
from flover.ops import BLOCKS, Group, HostArray, Part, WeightFormat
from flover.ops.cpu import cpu_ops, instruction_sets
from flover.ops.cpu_weight import NUMBERS, PackedWeight
from flover.weight_formats import segments_of
from ops.exact import Floats, fma

ISAS = instruction_sets()
CUTS = (0, 64, 96, 301)
"""Columns where parts begin and end: between what is quantized together, and at an odd end."""
WIDTH, OUTPUTS = 2048, 40
SHARED: tuple[WeightFormat, ...] = (*NUMBERS, "q8_0", "q2_k", "q4_k", "int4_g128", "fp8_e4m3")


def normal(seed: int, *shape: int) -> Floats:
    """Each row and column of another size, so that parts differ in what is largest."""
    drawn = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    sizes = np.linspace(0.1, 3, shape[1]) * np.linspace(1, 2, shape[0])[:, None]
    return drawn * sizes.astype(np.float32)


def packed(
    plain: HostArray, weight_format: WeightFormat, part: Part | None = None, width: int = CUTS[-1]
) -> PackedWeight:
    weight = PackedWeight((len(plain), width), weight_format, False, part)
    for rows in (slice(0, 17), slice(17, len(plain))):
        (weight.store_blocks if weight_format in BLOCKS else weight.store)(rows.start, plain[rows])
    return weight


def parts_of(plain: Floats, weight_format: WeightFormat) -> list[PackedWeight]:
    return [packed(plain, weight_format, Part(first, CUTS[-1]), end - first) for first, end in pairwise(CUTS)]


@pytest.mark.parametrize("weight_format", NUMBERS)
def test_parts_have_the_numbers_of_the_whole(weight_format: WeightFormat) -> None:
    plain = normal(1, OUTPUTS, CUTS[-1])
    together = np.concatenate([part.unpack() for part in parts_of(plain, weight_format)], axis=1)
    assert np.array_equal(together, packed(plain, weight_format).unpack())


@pytest.mark.parametrize("weight_format", NUMBERS)
@pytest.mark.parametrize("rows", [1, 29])
def test_any_parts_give_what_the_whole_gives(weight_format: WeightFormat, rows: int) -> None:
    """Also of a number of ranks that no tree is made for: the last digits may differ."""
    plain, x, bias = normal(2, OUTPUTS, CUTS[-1]), normal(3, rows, CUTS[-1]), normal(9, 1, OUTPUTS)[0]
    whole = cpu_ops(ISAS[0], 2).linear(x, packed(plain, weight_format), bias, None)
    parts = parts_of(plain, weight_format)

    def compute(group: Group) -> Floats:
        own = np.ascontiguousarray(x[:, CUTS[group.rank] : CUTS[group.rank + 1]])
        found: Floats = cpu_ops(ISAS[0], 1, group).linear(own, parts[group.rank], bias, None)
        return found

    for found in on_ranks(len(parts), compute):
        assert (np.abs(found - whole) <= 2e-6 * (np.abs(x) @ np.abs(plain.T) + np.abs(bias))).all()


@pytest.mark.parametrize("weight_format", SHARED)
@pytest.mark.parametrize("isa", ISAS)
def test_any_number_of_ranks_gives_the_bits_of_one(weight_format: WeightFormat, isa: str) -> None:
    """In each way of computing: few rows and many. One chain over all inputs gives others."""
    plain, x, bias = normal(4, OUTPUTS, WIDTH), normal(5, 29, WIDTH), normal(6, 1, OUTPUTS)[0]
    if weight_format in BLOCKS:
        plain = random_blocks(weight_format, OUTPUTS, WIDTH, np.random.default_rng(4))
    assert segments_of(weight_format, WIDTH, WIDTH) == 8
    chain = cpu_ops(isa, 1).linear(x, packed(plain, weight_format, None, WIDTH), bias, None)
    whole = cpu_ops(isa, 1).linear(x, packed(plain, weight_format, Part(0, WIDTH), WIDTH), bias, None)
    assert not np.array_equal(chain, whole)
    for size in (1, 2, 4, 8):
        width = WIDTH // size

        def compute(group: Group, width: int = width) -> list[Floats]:
            weight = packed(plain, weight_format, Part(group.rank * width, WIDTH), width)
            own = np.ascontiguousarray(x[:, group.rank * width : (group.rank + 1) * width])
            ops = cpu_ops(isa, 1, group)
            return [ops.linear(own[rows], weight, bias, None) for rows in (slice(0, 1), slice(1, 4), slice(0, 29))]

        for one, few, many in on_ranks(size, compute):
            assert np.array_equal(many, whole) and np.array_equal(one, whole[:1]) and np.array_equal(few, whole[1:4])


@pytest.mark.parametrize("isa", ISAS)
def test_a_shared_sum_is_a_tree_over_eight_chains(isa: str) -> None:
    """And nothing else: in numpy, exact to the bit."""
    plain, x = normal(7, OUTPUTS, 64), normal(8, 3, 64)
    chains = np.zeros((8, 3, OUTPUTS), np.float32)
    for segment in range(8):
        for k in range(8 * segment, 8 * segment + 8):
            chains[segment] = fma(x[:, k, None], plain[None, :, k], chains[segment])
    while len(chains) > 1:
        chains = chains[::2] + chains[1::2]
    found = cpu_ops(isa, 1).linear(x, packed(plain, "float32", Part(0, 64), 64), None, None)
    assert np.array_equal(found, chains[0])


@pytest.mark.parametrize(
    ("weight_format", "whole", "inputs", "segments"),
    [
        ("float32", 24, 24, 8),
        ("float32", 24, 6, 2),
        ("float32", 20, 20, 4),
        ("float32", 24, 8, 1),  # of three ranks
        ("float32", 48, 18, 1),  # three segments
        ("bfloat16", 24, 24, 4),  # two inputs lie together
        ("int8", 768, 768, 2),  # six blocks of 128 that are rotated together
        ("int4", 2048, 512, 2),
        ("q4_k", 1536, 1536, 2),
        ("q8_0", 300, 300, 1),
    ],
)
def test_segments_are_cut_where_ranks_are(weight_format: WeightFormat, whole: int, inputs: int, segments: int) -> None:
    assert segments_of(weight_format, whole, inputs) == segments


def test_what_is_done_with_a_sum_waits_for_all_ranks() -> None:
    weight = packed(normal(1, OUTPUTS, 64), "float32", Part(0, 64), 32)
    with pytest.raises(InvariantError, match="before anything is done with it"):
        cpu_ops(ISAS[0], 1).linear(normal(2, 3, 32), weight, None, "gelu")
