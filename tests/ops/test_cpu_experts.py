"""Experts on the CPU: those that the scores choose, with the bits of their linears, in any company."""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt
import pytest
from flover_benchmarks.kernels.blocks import random_blocks
from support.thread_ranks import on_ranks

from flover.errors import InvariantError
from flover.ops import BLOCKS, Experts, Group, Ops, Part, Routing, WeightFormat
from flover.ops.cpu import cpu_ops, instruction_sets
from flover.ops.cpu_weight import NUMBERS, PackedWeight

Floats = npt.NDArray[np.float32]
ISAS = instruction_sets()
FORMATS: tuple[WeightFormat, ...] = (*NUMBERS, *BLOCKS)
ACT_ORDER: tuple[WeightFormat, ...] = ("int4_g64", "int8_g64")
"""Formats whose experts have their inputs in an order of their own each."""
HIDDEN, INNER, COUNT, ROWS = 256, 256, 9, 103
ROUTING = Routing(3, normalized=False)


@functools.cache
def ops_of(isa: str, num_threads: int) -> Ops:
    return cpu_ops(isa, num_threads)


def normal(seed: int, *shape: int) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def stored(seed: int, out: int, inputs: int, kept: WeightFormat, gated: bool = False) -> PackedWeight:
    weight = PackedWeight((out, inputs), kept, gated)
    if kept in BLOCKS:
        generator = np.random.default_rng(seed)
        blocks = random_blocks(kept, out, inputs, generator)
        order = generator.permutation(inputs).astype(np.int32) if kept in ACT_ORDER else None
        weight.store_blocks(0, blocks, order)
    else:
        weight.store(0, normal(seed, out, inputs) / 16)
    return weight


@functools.cache
def matrices(kept: WeightFormat) -> tuple[list[PackedWeight], list[PackedWeight]]:
    up = [stored(expert, 2 * INNER, HIDDEN, kept, gated=True) for expert in range(COUNT)]
    return up, [stored(50 + expert, HIDDEN, INNER, kept) for expert in range(COUNT)]


def scores_of(rows: int) -> Floats:
    """Some experts are chosen by nearly every row and one by none; some scores are equal."""
    scores = normal(7, rows, COUNT).round(1)
    scores[:, 2] += 2
    scores[:, 5] = -9
    return scores


@pytest.mark.parametrize("kept", FORMATS)
def test_a_row_has_the_same_bits_in_any_company(kept: WeightFormat) -> None:
    x, scores = normal(8, ROWS, HIDDEN), scores_of(ROWS)
    expected: Floats | None = None
    for isa in ISAS:
        for num_threads in (1, 3):
            ops = ops_of(isa, num_threads)
            got = ops.experts(x, scores, Experts(*matrices(kept)), ROUTING, "silu")
            expected = got if expected is None else expected
            assert np.array_equal(got, expected)
            for rows in (slice(0, 1), slice(50, 51), slice(17, 19), slice(60, 65), slice(5, 101)):
                own = ops.experts(x[rows], scores[rows], Experts(*matrices(kept)), ROUTING, "silu")
                assert np.array_equal(own, expected[rows])
            order = np.random.default_rng(num_threads).permutation(ROWS)[:31]
            assert np.array_equal(
                ops.experts(x[order], scores[order], Experts(*matrices(kept)), ROUTING, "silu"), expected[order]
            )


@pytest.mark.parametrize("kept", FORMATS)
@pytest.mark.parametrize("isa", ISAS)
def test_an_expert_has_the_bits_of_its_linears(kept: WeightFormat, isa: str) -> None:
    """Alone it has the weight 1, which changes nothing; of equal scores the first wins."""
    ops, x, scores = ops_of(isa, 2), normal(9, 40, HIDDEN), scores_of(40)
    up, down = matrices(kept)
    got = ops.experts(x, scores, Experts(up, down), Routing(1, normalized=True), "silu")
    assert len(set(scores.argmax(1))) > 3
    for row, expert in enumerate(scores.argmax(1)):
        inner = ops.linear(x[row : row + 1], up[expert], None, "silu")
        assert np.array_equal(got[row], ops.linear(inner, down[expert], None, None)[0])


@pytest.mark.parametrize("isa", ISAS)
def test_no_other_expert_is_touched(isa: str) -> None:
    """Matrices that are not numbers would be seen, and a row that is not a number is not seen by others."""
    x, scores = normal(10, 29, HIDDEN), scores_of(29)
    up, down = (list(one) for one in matrices("float32"))
    expected = ops_of(isa, 2).experts(x, scores, Experts(up, down), ROUTING, "silu")
    up[5], down[5] = PackedWeight((2 * INNER, HIDDEN), "float32", True), PackedWeight((HIDDEN, INNER), "float32", False)
    up[5].store(0, np.full((2 * INNER, HIDDEN), np.nan, dtype=np.float32))
    down[5].store(0, np.full((HIDDEN, INNER), np.nan, dtype=np.float32))
    assert np.array_equal(ops_of(isa, 2).experts(x, scores, Experts(up, down), ROUTING, "silu"), expected)
    x[7], scores[11] = np.nan, np.nan
    found = ops_of(isa, 2).experts(x, scores, Experts(up, down), ROUTING, "silu")
    others = ~np.isin(np.arange(29), (7, 11))
    assert np.array_equal(found[others], expected[others]) and not np.isfinite(found[~others]).any()
    assert len(ops_of(isa, 2).experts(x[:0], scores[:0], Experts(up, down), ROUTING, "silu")) == 0


@pytest.mark.parametrize("kept", NUMBERS)
def test_ranks_with_a_part_of_every_expert_give_the_bits_of_one(kept: WeightFormat) -> None:
    """With biases, which are added once."""
    hidden, inner = 32, 4 * 128
    x, scores = normal(11, 13, hidden), scores_of(13)
    plain_up = [normal(expert, 2 * inner, hidden) / 16 for expert in range(COUNT)]
    plain_down = [normal(50 + expert, hidden, inner) / 16 for expert in range(COUNT)]
    up_bias, down_bias = normal(90, COUNT, 2 * inner), normal(91, COUNT, hidden)

    def compute(group: Group) -> Floats:
        own, first = inner // group.size, inner // group.size * group.rank
        rows = np.r_[first : first + own, inner + first : inner + first + own]
        up = [PackedWeight((2 * own, hidden), kept, True) for _ in range(COUNT)]
        down = [PackedWeight((hidden, own), kept, False, Part(first, inner)) for _ in range(COUNT)]
        for expert in range(COUNT):
            up[expert].store(0, plain_up[expert][rows])
            down[expert].store(0, plain_down[expert])
        experts = Experts(up, down, list(up_bias[:, rows]), list(down_bias))
        found: Floats = cpu_ops(ISAS[0], 1, group).experts(x, scores, experts, ROUTING, "silu")
        return found

    (whole,) = on_ranks(1, compute)
    for size in (2, 4):
        assert all(np.array_equal(found, whole) for found in on_ranks(size, compute))


def test_what_does_not_fit_is_refused() -> None:
    ops, (up, down), x, scores = ops_of(ISAS[0], 1), matrices("float32"), normal(1, 2, HIDDEN), scores_of(2)
    for wrong in (
        (x, scores, Experts(up, down[:-1]), ROUTING),
        (x, scores, Experts(up, down), Routing(COUNT + 1, normalized=True)),
        (x[:, :-1], scores, Experts(up, down), ROUTING),
        (x, scores, Experts([*up[:-1], stored(1, 2 * INNER, HIDDEN, "int8", gated=True)], down), ROUTING),
        (x, scores.astype(np.float64), Experts(up, down), ROUTING),
    ):
        with pytest.raises(InvariantError):
            ops.experts(*wrong, "silu")
