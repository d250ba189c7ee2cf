"""Products of FP8 weights with activations in FP8: torch's own e4m3, and what they lose beside weights alone."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from flover_benchmarks.kernels.blocks import random_blocks
from support.gpu import CPU, DEVICE, INTERPRETED
from torch import Tensor

from flover.ops import Experts, Ops, Routing
from flover.ops.cuda.fp8 import GROUP, fp8_rows
from flover.ops.cuda.table import cuda_ops

pytestmark = pytest.mark.gpu
OPS = cuda_ops(DEVICE, fp8_activations=True)
WEIGHTS_ONLY = cuda_ops(DEVICE)
INPUTS = 320
"""The last group has half as many inputs."""


def weight_on(ops: Ops, outputs: int, *, gated: bool = False, seed: int = 0) -> tuple[object, Tensor]:
    """A matrix, and its numbers."""
    weight = ops.new_weight((outputs, INPUTS), "fp8_e4m3", gated)
    weight.store_blocks(0, random_blocks("fp8_e4m3", outputs, INPUTS, np.random.default_rng(outputs + seed)))
    numbers = ops.embed(torch.arange(outputs, device=DEVICE), weight, 1.0)
    return weight, numbers.to(CPU)  # type: ignore[attr-defined]


def activations(rows: int) -> Tensor:
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, INPUTS, generator=generator) * torch.randn(INPUTS, generator=generator).exp()
    x[1, :GROUP] = 0
    return x


def in_fp8(x: Tensor) -> Tensor:
    """The numbers that torch's e4m3 keeps, with a scale for every group of a row."""
    groups = x.split(GROUP, 1)
    scales = [one.abs().amax(1, keepdim=True) / 448 for one in groups]
    kept = [
        (one * (448 / one.abs().amax(1, keepdim=True))).nan_to_num(0).to(torch.float8_e4m3fn).float() * scale
        for one, scale in zip(groups, scales, strict=True)
    ]
    return torch.cat(kept, 1)


def test_products_are_those_of_numbers_in_fp8() -> None:
    """With bias and gate; a row that is not finite has no finite output, and others have theirs."""
    x, bias = activations(70), torch.randn(48, generator=torch.Generator().manual_seed(1))
    q, scales = fp8_rows(x.to(DEVICE), INPUTS)
    widened = q.view(torch.float8_e4m3fn).float() * scales.repeat_interleave(GROUP, 0)[:INPUTS].T
    assert torch.equal(widened.to(CPU), in_fp8(x))
    weight, numbers = weight_on(OPS, 48)
    wanted = in_fp8(x).double() @ numbers.double().T + bias
    found = OPS.linear(x.to(DEVICE), weight, bias.to(DEVICE), None).to(CPU)  # type: ignore[arg-type, attr-defined]
    assert (found - wanted).abs().max() <= 2e-6 * wanted.abs().max()
    gated, numbers = weight_on(OPS, 96, gated=True)
    gate, up = (in_fp8(x).double() @ numbers.double().T).chunk(2, 1)
    broken = x.clone()
    broken[2, 300], broken[3, 0] = torch.inf, torch.nan
    found = OPS.linear(broken.to(DEVICE), gated, None, "silu").to(CPU)  # type: ignore[arg-type, attr-defined]
    wanted = torch.nn.functional.silu(gate) * up
    assert found[2:4].isnan().all()
    others = [row for row in range(70) if row not in (2, 3)]
    assert (found[others] - wanted[others]).abs().max() <= 1e-5 * wanted[others].abs().max()
    for first, end in ((0, 1), (5, 69)):
        alone = OPS.linear(x[first:end].to(DEVICE), gated, None, "silu").to(CPU)  # type: ignore[arg-type, attr-defined]
        kept = [row - first for row in others if first <= row < end]
        assert torch.equal(alone[kept], found[first:end][kept])


def test_experts_are_products_of_their_own() -> None:
    """Of every pair of token and expert alone, whatever other tokens the expert has; one row is not finite."""
    x, scores = activations(30), torch.randn(30, 3, generator=torch.Generator().manual_seed(2))
    x[7, 300] = torch.nan
    ups = [weight_on(OPS, 2 * INPUTS, gated=True, seed=seed)[0] for seed in range(3)]
    downs = [weight_on(OPS, INPUTS, seed=seed)[0] for seed in range(3)]
    generator = torch.Generator().manual_seed(3)
    biases = [[torch.randn(size, generator=generator).to(DEVICE) for _ in range(3)] for size in (2 * INPUTS, INPUTS)]
    on_gpu = Experts(ups, downs, *biases)  # type: ignore[arg-type]
    found = OPS.experts(x.to(DEVICE), scores.to(DEVICE), on_gpu, Routing(2, True), "silu").to(CPU)  # type: ignore
    top, chosen = scores.topk(2)
    wanted = torch.zeros(30, INPUTS)
    for place, expert in itertools.product(range(2), range(3)):
        mine = (chosen[:, place] == expert).nonzero()[:, 0]
        inner = OPS.linear(x[mine].to(DEVICE), ups[expert], biases[0][expert], "silu")  # type: ignore[arg-type]
        outer = OPS.linear(inner, downs[expert], biases[1][expert], None)  # type: ignore[arg-type]
        wanted[mine] += top.softmax(1)[mine, place, None] * outer.to(CPU)  # type: ignore[attr-defined]
    assert chosen.flatten().bincount().max() > 16, "an expert has several tiles"
    others = [token for token in range(30) if token != 7]
    assert found[7].isnan().all()
    # A number between two of FP8 may become the other one where a tensor core adds in another tile.
    off = 1e-6 if INTERPRETED else 3e-2
    assert (found[others] - wanted[others]).abs().max() <= off * wanted[others].abs().max()
    alone = OPS.experts(x[5:6].to(DEVICE), scores[5:6].to(DEVICE), on_gpu, Routing(2, True), "silu")  # type: ignore
    assert torch.equal(alone.to(CPU), found[5:6])  # type: ignore[attr-defined]


def test_what_fp8_activations_lose_beside_weights_alone() -> None:
    """Root mean square of the difference by that of the outputs: below 3 %, for a number of three bits of mantissa is
    off by 2.5 % and errors of inputs are independent."""
    x = activations(64).to(DEVICE)
    both = [ops.linear(x, weight_on(ops, 48)[0], None, None).double() for ops in (OPS, WEIGHTS_ONLY)]  # type: ignore
    lost = ((both[0] - both[1]).square().mean() / both[1].square().mean()).sqrt().item()
    assert 0.005 < lost < 0.03
