"""Products whose inputs ranks share, which are threads here: with `batch_invariant` the bits of one on two and four."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from support.fake_gpu import Launches
from support.gpu import DEVICE
from support.thread_ranks import on_ranks
from torch import Tensor
from triton.runtime.interpreter import InterpretedFunction

from flover.ops import ONE_SCALE, Alone, Group, Part, Reduction, WeightFormat
from flover.ops.cuda.launch import Compilations
from flover.ops.cuda.quantize import Activations
from flover.ops.cuda.table import cuda_ops
from flover.ops.cuda.tree import add_parts
from flover.ops.group import tree_sum

pytestmark = pytest.mark.gpu
HIDDEN, INNER, OUTPUTS = 64, 512, 20


class OnDevice:
    """The collectives of threads, of tensors of the device."""

    def __init__(self, group: Group) -> None:
        self.group, self.rank, self.size, self.local_size = group, group.rank, group.size, group.local_size
        self.reduced: list[Reduction] = []

    def all_reduce(self, reduction: Reduction, x: Tensor) -> None:
        self.reduced.append(reduction)
        host = x.cpu().numpy().copy()
        self.group.all_reduce(reduction, host)
        x.copy_(torch.from_numpy(host))


def feed_forward(group: Any, weight_format: WeightFormat, x: Tensor, in_order: bool) -> Tensor:
    """Up, cut by outputs, and down, cut by inputs, of which up prepares what down reads."""
    ops = cuda_ops(DEVICE, batch_invariant=in_order, group=group)
    rng, own = np.random.default_rng(0), INNER // group.size
    up_rows, down_rows = (rng.normal(size=size).astype(np.float32) for size in ((INNER, HIDDEN), (OUTPUTS, INNER)))
    bias = ops.array(rng.normal(size=OUTPUTS).astype(np.float32))
    up = ops.new_weight((own, HIDDEN), weight_format, False)
    up.store(0, up_rows[group.rank * own : (group.rank + 1) * own])
    down = ops.new_weight((OUTPUTS, own), weight_format, False, Part(group.rank * own, INNER))
    down.store(0, down_rows)
    assert ops.prepare is not None
    inner = ops.prepare(ops, down).linear(x, up, None, "silu")
    if weight_format in ONE_SCALE:
        assert (inner.recipe.way if isinstance(inner, Activations) else "") == ("rotated" if len(x) <= 64 else "")
    return ops.linear(inner, down, bias, None)


def on_rank(rank: Group, weight_format: WeightFormat, x: Tensor, in_order: bool) -> tuple[Tensor, list[Reduction]]:
    """What it gives, and its collectives."""
    group = OnDevice(rank)
    return feed_forward(group, weight_format, x, in_order), group.reduced


@pytest.mark.parametrize("weight_format", ["float32", "int8", "int4"])
def test_ranks_have_the_bits_of_one(weight_format: WeightFormat, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few rows, whose scales the product finds, and more than 64; a number that is none spoils its own row alone."""
    launches = Launches(Compilations())  # the interpreter takes one thread at a time
    monkeypatch.setattr(InterpretedFunction, "run", lambda kernel, *args, **kw: launches.run(kernel, *args, **kw))
    for rows, sizes in ((2, (2, 4)), (65, (2,))):
        x = torch.from_numpy(np.random.default_rng(rows).normal(size=(rows, HIDDEN)).astype(np.float32)).to(DEVICE)
        x[1, 5] = torch.inf
        expected = feed_forward(Alone(), weight_format, x, True)
        assert expected[0].isfinite().all() and expected[1].isnan().all()
        for size in sizes:
            for found, reduced in on_ranks(size, lambda rank, x=x: on_rank(rank, weight_format, x, True)):
                assert torch.equal(found.nan_to_num(), expected.nan_to_num())
                assert reduced == [*(["max"] if weight_format in ONE_SCALE else []), "sum"]
        if rows == 2:
            for found, _ in on_ranks(2, lambda rank, x=x: on_rank(rank, weight_format, x, False)):
                torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4, equal_nan=True)


@pytest.mark.parametrize("count", [2, 3, 5, 8])
def test_parts_are_added_as_a_tree(count: int) -> None:
    parts = torch.randn(count, 3, 211, generator=torch.Generator().manual_seed(count)).to(DEVICE) * 1e3
    y = torch.empty(3, 211, device=DEVICE)
    add_parts(parts, y)
    assert torch.equal(y, tree_sum(list(parts)))
    half = parts.bfloat16()
    add_parts(half, y)
    assert torch.equal(y, tree_sum(list(half.float())))
