"""Packed linears against the reference on the inputs of the spec, at the rows and sizes that serving meets."""

from __future__ import annotations

import pytest
import torch

from flover.ops import best_for, onednn, select
from flover.ops.spec import SPECS

REFERENCE, PACKED = select("reference"), select("onednn")


@pytest.mark.parametrize("name", sorted(SPECS))
def test_every_op_of_the_spec_agrees_with_the_reference(name: str) -> None:
    spec = SPECS[name]
    inputs = spec.make(torch.Generator().manual_seed(7), torch.float32)
    again = spec.make(torch.Generator().manual_seed(7), torch.float32)
    for got, wanted in zip(spec.run(PACKED, inputs), spec.run(REFERENCE, again), strict=True):
        scale = max(wanted.abs().max().item(), 1e-6)
        assert (got - wanted).abs().max().item() <= spec.tolerance[torch.float32] * scale


@pytest.mark.parametrize("rows", [1, 2, 7, 33, 257])
@pytest.mark.parametrize(("out_size", "in_size"), [(1, 1), (3, 129), (96, 80), (321, 48)])
def test_packed_linear_at_odd_sizes(rows: int, out_size: int, in_size: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, in_size, generator=generator)
    weight = torch.randn(out_size, in_size, generator=generator)
    bias = torch.randn(out_size, generator=generator)
    packed = onednn.pack(weight)
    assert packed.is_mkldnn
    exact = (x.double() @ weight.double().T + bias.double()).float()
    torch.testing.assert_close(onednn.linear(x, packed, bias), exact, atol=1e-4, rtol=1e-4)


def test_float32_is_packed_and_bfloat16_is_not() -> None:
    assert best_for(torch.float32) == "onednn"
    assert best_for(torch.bfloat16) == "reference"
