"""Parts of a weight, cut by columns as ranks keep them, have the numbers of the whole and add up to what it gives."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from flover.ops import Alone, HostArray, Part, Reduction, WeightFormat
from flover.ops.cpu import instruction_sets
from flover.ops.cpu_weight import NUMBERS, PackedWeight
from ops.bridge import store, torch_ops, unpacked

ISAS = instruction_sets()
CUTS = (0, 64, 96, 301)
"""Columns where parts begin and end: between what is quantized together, and at an odd end."""


class OneOf(Alone):
    """A rank that is told the maximum over all ranks."""

    def __init__(self, maximum: Tensor) -> None:
        self.found = maximum

    def all_reduce(self, reduction: Reduction, x: HostArray) -> None:
        assert reduction == "max"
        assert (x <= self.found.numpy()).all()
        x[:] = self.found.numpy()


def normal(seed: int, *shape: int) -> Tensor:
    """Each row and column of another size, so that parts differ in what is largest."""
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return drawn * torch.linspace(0.1, 3, shape[1]) * torch.linspace(1, 2, shape[0])[:, None]


def packed(plain: Tensor, weight_format: WeightFormat, part: Part | None = None, width: int = CUTS[-1]) -> PackedWeight:
    weight = PackedWeight((len(plain), width), weight_format, False, part)
    store(weight, 0, plain[:17])
    store(weight, 17, plain[17:])
    return weight


def parts_of(plain: Tensor, weight_format: WeightFormat) -> list[PackedWeight]:
    return [packed(plain, weight_format, Part(first, CUTS[-1]), end - first) for first, end in pairwise(CUTS)]


@pytest.mark.parametrize("weight_format", NUMBERS)
def test_parts_have_the_numbers_of_the_whole(weight_format: WeightFormat) -> None:
    plain = normal(1, 40, CUTS[-1])
    together = torch.cat([unpacked(part) for part in parts_of(plain, weight_format)], dim=1)
    assert torch.equal(together, unpacked(packed(plain, weight_format)))


@pytest.mark.parametrize("weight_format", NUMBERS)
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("rows", [1, 2, 29])
def test_what_parts_give_adds_up_to_what_the_whole_gives(weight_format: WeightFormat, isa: str, rows: int) -> None:
    plain, x = normal(2, 40, CUTS[-1]), normal(3, rows, CUTS[-1])
    whole = torch_ops(isa, 2).linear(x, packed(plain, weight_format), None, None)
    ops = torch_ops(isa, 2, OneOf(x.abs().amax(1, keepdim=True)))
    columns = torch.split(x, [end - first for first, end in pairwise(CUTS)], dim=1)
    total = torch.zeros_like(whole)
    for part, own in zip(parts_of(plain, weight_format), columns, strict=True):
        total += ops.linear(own.contiguous(), part, None, None)
    assert ((total - whole).abs() <= 1e-6 * (x.abs() @ plain.abs().T)).all()


@pytest.mark.parametrize("weight_format", NUMBERS)
@pytest.mark.parametrize("isa", ISAS)
def test_the_only_part_gives_the_bits_of_the_whole(weight_format: WeightFormat, isa: str) -> None:
    plain, x = normal(4, 40, CUTS[-1]), normal(5, 29, CUTS[-1])
    ops = torch_ops(isa, 2)
    (whole, part) = (packed(plain, weight_format, part) for part in (None, Part(0, CUTS[-1])))
    assert torch.equal(ops.linear(x, part, None, None), ops.linear(x, whole, None, None))
