"""The collectives of the model: what they give, and that a number's sum is the same wherever it stands."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from flover.errors import ConfigError, EngineDeadError
from flover.ops import HostArray
from flover.parallel.gloo import check_torch, dist
from flover.parallel.group import GATHER_BYTES, GlooGroup

WIDTH = 257
MANY = 3 * GATHER_BYTES // (2 * 4 * WIDTH)
"""Rows that are summed slice by slice."""


class Ranks:
    """All ranks of a group, each in a thread of this process."""

    def __init__(self, size: int, timeout: float = 30.0, *, formed: bool = True) -> None:
        store = dist.HashStore()
        self.threads = ThreadPoolExecutor(size)

        def join(rank: int) -> GlooGroup:
            return GlooGroup(store, rank, size, local_size=size, address="127.0.0.1", timeout=timeout)

        self.groups = list(self.threads.map(join, range(size)))
        if formed:
            self.form()

    def form(self) -> None:
        """All of them have loaded."""
        list(self.threads.map(lambda group: group.formed(), self.groups))

    def all(self, collective: Callable[[GlooGroup, HostArray], Any], parts: Tensor) -> list[Tensor]:
        """What every rank has after the collective; parts[r] is what rank r brings."""
        mine = [part.clone() for part in parts]
        list(self.threads.map(collective, self.groups, [part.numpy() for part in mine]))
        return mine


@pytest.fixture(scope="module")
def ranks() -> dict[int, Ranks]:
    return {size: Ranks(size) for size in (2, 3, 4)}


def summed(group: GlooGroup, x: HostArray) -> None:
    group.all_reduce("sum", x)


def largest(group: GlooGroup, x: HostArray) -> None:
    group.all_reduce("max", x)


def drawn(size: int, rows: int, width: int, seed: int) -> Tensor:
    """Numbers of very different size: any other order of adding shows."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, rows, width, generator=generator) * 10 ** torch.randint(
        -3, 4, (size, rows, width), generator=generator
    )


@given(size=st.sampled_from([2, 3, 4]), rows=st.integers(1, 40), width=st.integers(1, WIDTH), seed=st.integers(0, 999))
@settings(max_examples=60, deadline=None)
def test_a_rows_sum_is_the_same_in_any_company(
    ranks: dict[int, Ranks], size: int, rows: int, width: int, seed: int
) -> None:
    parts = drawn(size, rows, width, seed)
    together = ranks[size].all(summed, parts)
    first = Random(seed).randrange(rows)
    last = Random(seed + 1).randint(first + 1, rows)
    for some in ranks[size].all(summed, parts[:, first:last]):
        assert torch.equal(some, together[0][first:last])
    assert all(torch.equal(other, together[0]) for other in together)


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("rows", [1, MANY])
def test_sums_are_added_as_a_tree(ranks: dict[int, Ranks], size: int, rows: int) -> None:
    """Both ways of summing give the bits of this one order, so that the row's company may choose the way."""
    parts = drawn(size, rows, WIDTH, rows)
    assert (parts[0].nbytes > GATHER_BYTES) == (rows == MANY)
    wanted = parts[0] + parts[1]
    if size > 2:
        wanted += parts[2] + parts[3] if size == 4 else parts[2]
    assert all(torch.equal(total, wanted) for total in ranks[size].all(summed, parts))


@pytest.mark.parametrize("size", [2, 3, 4])
def test_the_largest_of_all_ranks(ranks: dict[int, Ranks], size: int) -> None:
    parts = drawn(size, 7, 1, 0)
    assert all(torch.equal(found, parts.amax(0)) for found in ranks[size].all(largest, parts))


def test_counts_what_a_rank_sends(ranks: dict[int, Ranks]) -> None:
    """One exchange of a small tensor; two of a large one, the second of a slice."""
    group = ranks[4].groups[0]
    for rows, calls, numbers in ((1, 1, WIDTH), (MANY, 2, MANY * WIDTH + -(-MANY * WIDTH // 4))):
        before = group.calls, group.num_bytes
        ranks[4].all(summed, drawn(4, rows, WIDTH, 0))
        assert (group.calls - before[0], group.num_bytes - before[1]) == (calls, 4 * numbers)


@pytest.mark.parametrize("rows", [1, MANY])
def test_a_rank_that_does_not_come_ends_the_sum_after_the_timeout(rows: int) -> None:
    ranks = Ranks(3, timeout=0.5)
    began = time.monotonic()
    with pytest.raises(EngineDeadError, match="does not answer"):
        ranks.groups[0].all_reduce("sum", np.zeros((rows, WIDTH), dtype=np.float32))
    assert time.monotonic() - began < 30


def test_while_the_group_forms_a_rank_may_be_late() -> None:
    """As long as ranks load and warm up, a rank has minutes; then it has the timeout."""
    ranks = Ranks(2, timeout=0.3, formed=False)
    x = [np.ones(3, dtype=np.float32) for _ in ranks.groups]

    def late(seconds: float) -> None:
        time.sleep(seconds)
        ranks.groups[1].all_reduce("sum", x[1])

    waiting = ranks.threads.submit(late, 0.8)
    ranks.groups[0].all_reduce("sum", x[0])
    waiting.result(10)
    assert x[0].tolist() == [2.0, 2.0, 2.0]
    ranks.form()
    with pytest.raises(EngineDeadError, match="does not answer"):
        ranks.groups[0].all_reduce("sum", x[0])


def test_a_torch_whose_gloo_is_another_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    check_torch()
    with pytest.raises(ConfigError, match=r"torch 2\.6 or newer .* got torch 2\.5\.1"):
        check_torch("2.5.1+cpu")
    monkeypatch.delattr(dist.ProcessGroupGloo, "_Options")
    with pytest.raises(ConfigError, match=r"got torch 3\.0"):
        check_torch("3.0.0a0+git")
