"""Engines of several ranks that are threads of this process: on fake GPUs, with Gloo in NCCL's place, or on the CPU."""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from support.fake_gpu import FakeGraphs, Launches
from support.gpu import FAKE
from support.triton_interpreter import skip_overflow_checks
from triton.runtime.interpreter import InterpretedFunction

from flover.config import EngineConfig
from flover.engine.loop import Engine
from flover.executor.background import overlapping
from flover.executor.cuda import CudaPlatform
from flover.executor.load import load_device
from flover.model.describe import Description
from flover.ops import Group, Ops
from flover.ops.cuda.launch import Compilations
from flover.parallel.device_group import DeviceGroup
from flover.parallel.gloo import connect, dist
from flover.parallel.group import GlooGroup
from flover.parallel.rank_group import RankGroup
from flover.parallel.ranks import Leader, follow
from flover.service.build import scheduler_config

WAIT = timedelta(seconds=60)


class FakeNccl:
    """NCCL's calls, done by Gloo: captured ones are done again whenever the graph runs. `seen` has all of them. They
    return nothing to wait for, as NCCL's do on the stream that computes (torch 2.8 and newer)."""

    def __init__(self, gloo: Any, launches: Launches) -> None:
        self._gloo, self._launches = gloo, launches
        self.seen: list[tuple[Any, ...]] = []
        self.aborted = threading.Event()

    def allreduce(self, tensors: list[Any], options: Any) -> None:
        self._do(
            tensors[0],
            lambda: self._gloo.allreduce(tensors, options),
            "sum" if options.reduceOp == dist.ReduceOp.SUM else "max",
        )

    def _allgather_base(self, output: Any, x: Any, options: Any) -> None:
        self._do(x, lambda: self._gloo._allgather_base(output, x, options), "all_gather")

    def gather(self, outputs: list[Any], inputs: list[Any], options: Any) -> None:
        self._do(inputs[0], lambda: self._gloo.gather(outputs, inputs, options), "gather")

    def _do(self, x: Any, collective: Any, name: str) -> None:
        assert x.is_contiguous()

        def step() -> None:
            self.seen.append((name, str(x.dtype), tuple(x.shape)))
            collective().wait(WAIT)

        self._launches.launch(step)

    def abort(self) -> None:
        self.aborted.set()


class RankOnGpu(CudaPlatform):
    """A fake GPU of several, with graphs."""

    launches: Launches

    def new_ops(self, num_threads: int, group: Group, described: Description) -> Ops:
        self.graphs = FakeGraphs(self.launches)
        return replace(super().new_ops(num_threads, group, described), capture=self.graphs)


@dataclass
class Ranks:
    """A group in this process. `nccl` and `platforms` are those of all ranks, on GPUs."""

    engine: Engine
    nccl: list[FakeNccl]
    platforms: list[Any]


@contextmanager
def engine_of_ranks(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, device: str, size: int = 2, **settings: Any
) -> Iterator[Ranks]:
    """Rank 0 leads in this thread; the others' threads are given up where a test fails."""
    config = EngineConfig(
        model=str(checkpoint), skip_tokenizer_init=True, target_itl_ms=0.0, device=device, tensor_parallel_size=size,
        num_threads=1, **{"kv_cache_memory_bytes": 2**21, **settings},
    )  # fmt: skip
    skip_overflow_checks(monkeypatch)
    store, launches = dist.HashStore(), Launches(Compilations())
    nccl: list[FakeNccl | None] = [None] * size
    platforms: list[Any] = [None] * size
    if device == "cuda":
        RankOnGpu.launches = launches
        monkeypatch.setattr(InterpretedFunction, "run", lambda kernel, *args, **kw: launches.run(kernel, *args, **kw))

    def connect_model(store: Any, rank: int, size: int) -> FakeNccl:
        nccl[rank] = made = FakeNccl(connect(store, "model", rank, size, "127.0.0.1", WAIT), launches)
        return made

    def start(rank: int) -> tuple[RankGroup, Any]:
        common: dict[str, Any] = {"local_size": size, "address": "127.0.0.1", "timeout": 60.0}
        if device == "cuda":
            in_order = config.batch_invariant
            group: RankGroup = DeviceGroup(store, rank, size, connect_model, in_order=in_order, **common)
            platforms[rank] = RankOnGpu(config, replace(FAKE, count=size), rank)
        else:
            group = GlooGroup(store, rank, size, **common)
        return group, load_device(config, lambda *args: None, group, platforms[rank])

    with ThreadPoolExecutor(size) as threads:
        (group, own), *others = threads.map(start, range(size))
    ended: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def run(group: RankGroup, executor: Any) -> None:
        try:
            follow(executor, group)
            executor.close()
            group.close()
            ended.put(None)
        except BaseException as error:
            ended.put(error)

    for other in others:
        threading.Thread(target=run, args=other, daemon=True).start()
    leader = Leader(own, group, lambda: None, lambda they_leave: None)
    seconds = itertools.count()
    around = overlapping(leader) if config.async_scheduling else leader
    engine = Engine(around, scheduler_config(config, own.facts), lambda: float(next(seconds)))
    yield Ranks(engine, [one for one in nccl if one is not None], platforms)
    engine.close()
    for _ in others:
        if (error := ended.get(timeout=30)) is not None:
            raise error
