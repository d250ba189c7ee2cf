"""The group of ranks with a GPU each, with Gloo in NCCL's place, and what ends a collective that hangs."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from flover.config import EngineConfig
from flover.errors import ConfigError, RankLostError
from flover.ops.group import tree_sum
from flover.parallel import device_group
from flover.parallel.device_group import DeviceGroup
from flover.parallel.gloo import connect, dist
from flover.parallel.launch import load_group
from flover.parallel.rendezvous import join
from flover.parallel.watchdog import Watchdog

WAIT = timedelta(seconds=30)


class Backend:
    """What a rank needs of `ProcessGroupNCCL`, done by Gloo. As there (torch 2.8 and newer) what is not asynchronous
    returns nothing."""

    made: list[Backend] = []

    class Options:
        _timeout = timedelta(0)

    def __init__(self, store: Any, rank: int, size: int, options: Any) -> None:
        self.timeout, self.device, self.num_aborts, self.async_ops = options._timeout, None, 0, set[bool]()
        self._gloo = connect(store, "model", rank, size, "127.0.0.1", WAIT)
        self.made.append(self)

    def eager_connect_single_device(self, device: torch.device) -> None:
        self.device = device

    def allreduce(self, tensors: list[Any], options: Any) -> None:
        self.async_ops.add(options.asyncOp)
        self._gloo.allreduce(tensors, options).wait(WAIT)

    def gather(self, outputs: list[Any], inputs: list[Any], options: Any) -> None:
        self.async_ops.add(options.asyncOp)
        self._gloo.gather(outputs, inputs, options).wait(WAIT)

    def _allgather_base(self, output: Any, x: Any, options: Any) -> None:
        self.async_ops.add(options.asyncOp)
        self._gloo._allgather_base(output, x, options).wait(WAIT)

    def abort(self) -> None:
        self.num_aborts += 1


def test_a_rank_joins_with_the_gpu_of_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The communicator is made at once, on the rank's GPU; collectives run on the stream that computes."""
    monkeypatch.setattr(dist, "is_nccl_available", lambda: True)
    monkeypatch.setattr(dist, "ProcessGroupNCCL", Backend, raising=False)
    monkeypatch.setattr(torch.cuda, "device", contextlib.nullcontext)
    Backend.made.clear()
    config = EngineConfig(device="cuda", tensor_parallel_size=2)
    with ThreadPoolExecutor(2) as threads:
        joined = threads.map(lambda rank: join(config, rank, str(tmp_path / "store"))[0], range(2))
        groups: list[Any] = sorted(joined, key=lambda group: group.rank)
        assert sorted(str(one.device) for one in Backend.made) == ["cuda:0", "cuda:1"]
        assert {one.timeout for one in Backend.made} == {timedelta(minutes=5)}
        sums = [torch.full((2, 3), float(rank + 1)) for rank in range(2)]
        tops = [torch.tensor([float(rank), -rank]) for rank in range(2)]
        ids = [torch.tensor([7, -1]), torch.zeros(2, dtype=torch.int64)]
        for reduction, tensors in (("sum", sums), ("max", tops), ("sum", ids)):
            list(threads.map(lambda group, x, kind=reduction: group.all_reduce(kind, x), groups, tensors))
        assert all(x.eq(3).all() for x in sums)
        assert [x.tolist() for x in tops] == [[1.0, 0.0]] * 2
        assert [x.tolist() for x in ids] == [[7, -1]] * 2
        logits = [torch.arange(6.0).view(2, 3) + 10 * rank for rank in range(2)]
        first, second = threads.map(lambda group, x: group.gather(x, [2, 1]), groups, logits)
    assert first.tolist() == [[0, 1, 10], [3, 4, 13]] and second is None
    assert {flag for one in Backend.made for flag in one.async_ops} == {False}
    assert [(group.calls, group.num_bytes) for group in groups] == [(4, 24 + 8 + 16 + 24)] * 2
    for group in groups:
        group.close()
    assert [one.num_aborts for one in Backend.made] == [1, 1]


def test_a_sum_in_order_is_one_tree_over_the_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --batch-invariant: 1 and 2^-24 three times are 1 in order, and more as a tree; the largest stays NCCL's."""
    monkeypatch.setattr(dist, "is_nccl_available", lambda: True)
    monkeypatch.setattr(dist, "ProcessGroupNCCL", Backend, raising=False)
    monkeypatch.setattr(torch.cuda, "device", contextlib.nullcontext)
    monkeypatch.setattr(device_group, "add_parts", lambda parts, y: y.copy_(tree_sum(list(parts))))
    config = EngineConfig(device="cuda", tensor_parallel_size=4, batch_invariant=True)
    small = 2.0**-24
    with ThreadPoolExecutor(4) as threads:
        joined = threads.map(lambda rank: join(config, rank, str(tmp_path / "store"))[0], range(4))
        groups: list[Any] = sorted(joined, key=lambda group: group.rank)
        sums = [torch.tensor([[1.0, small][rank > 0], float(rank)]) for rank in range(4)]
        tops = [torch.tensor([float(rank)]) for rank in range(4)]
        for reduction, tensors in (("sum", sums), ("max", tops)):
            list(threads.map(lambda group, x, kind=reduction: group.all_reduce(kind, x), groups, tensors))
    for group in groups:
        group.close()
    assert [x.tolist() for x in sums] == [[1 + 2 * small, 6.0]] * 4
    assert [x.tolist() for x in tops] == [[3.0]] * 4


def test_a_torch_without_nccl_is_refused_before_a_rank_starts() -> None:
    assert not dist.is_nccl_available()
    with pytest.raises(ConfigError, match="several ranks on GPUs need a torch that was built with NCCL"):
        load_group(EngineConfig(device="cuda", tensor_parallel_size=2), lambda done, total: None)


class Hanging:
    """Collectives that are done when they are told to be; a clock; the aborts."""

    def __init__(self) -> None:
        self.now, self.aborted = 0.0, threading.Event()
        self.watchdog = Watchdog(self.aborted.set, lambda: 10.0, lambda: self.now, poll_seconds=1e6)
        self.done = [False, False]
        for number in range(2):
            self.watchdog.launched(lambda number=number: self.done[number])

    def at(self, now: float) -> str | None:
        self.now = now
        self.watchdog.look()
        return self.watchdog.problem


def test_a_collective_that_takes_too_long_is_aborted() -> None:
    hanging = Hanging()
    assert hanging.at(9) is None
    hanging.done[0] = True
    hanging.watchdog.launched(lambda: False)
    assert hanging.at(10) is None and not hanging.aborted.is_set()
    assert hanging.at(11) == "a rank does not answer: a collective has taken more than 10 s"
    assert hanging.aborted.is_set()
    hanging.aborted.clear()
    hanging.at(99)
    assert not hanging.aborted.is_set(), "once is enough"
    idle = Hanging()
    idle.done[:] = True, True
    assert idle.at(1000) is None, "an idle group waits for nothing"


def test_a_rank_that_ends_aborts_what_waits_for_it_and_nothing_else() -> None:
    def gone() -> None:
        raise RankLostError("rank 1 was killed by signal 9")

    hanging, idle = Hanging(), Hanging()
    idle.done[:] = True, True
    for one in (hanging, idle):
        one.watchdog.watch(gone)
    assert idle.at(1) is None
    assert hanging.at(1) == "rank 1 was killed by signal 9" and hanging.aborted.is_set()


def test_the_host_hears_of_an_abort(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread finds it; whoever waited for the device asks the group whether to believe it."""
    aborted = threading.Event()

    class Silent:
        def abort(self) -> None:
            aborted.set()

        def gather(self, *args: Any) -> Any:
            return self

        def wait(self) -> None: ...

    def gone() -> None:
        raise RankLostError("rank 1 was killed by signal 9")

    monkeypatch.setattr("flover.parallel.device_group._finished", lambda device: lambda: aborted.is_set())
    group = DeviceGroup(
        dist.HashStore(), 0, 1, lambda *args: Silent(), local_size=1, address="127.0.0.1", timeout=30.0
    )  # fmt: skip
    group.check()
    group.watch(gone)
    group.gather(torch.zeros(1, 4), [4])
    assert aborted.wait(10)
    with pytest.raises(RankLostError, match="rank 1 was killed by signal 9"):
        group.check()
    group.close()
