"""Engines on the platform of a GPU, whose tensors are the CPU's and whose kernels are interpreted; with --on-gpu they
are this machine's, and graphs are its own."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import triton
from support.fake_gpu import FakeGraphs, Launches
from support.gpu import GPU, INTERPRETED
from support.triton_interpreter import skip_overflow_checks
from torch import Tensor
from triton.runtime.interpreter import InterpretedFunction

from flover.config import EngineConfig
from flover.engine.loop import Engine
from flover.executor.background import overlapping
from flover.executor.cuda import CudaPlatform
from flover.executor.cuda_executor import CudaExecutor
from flover.executor.load import load_device
from flover.model.describe import Description
from flover.ops import Group, Ops
from flover.service.build import scheduler_config


def on_gpu(
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    platform: type[CudaPlatform] = CudaPlatform,
    *,
    warm: bool = False,
    progress: Callable[..., None] = lambda *args: None,
    **settings: Any,
) -> Engine:
    """An engine on the platform of a GPU. No number may come from a page that nothing has written."""
    if not warm:
        monkeypatch.setattr(CudaExecutor, "warm_up", lambda self, progress: None)
    Capturing.patch = monkeypatch
    skip_overflow_checks(monkeypatch)
    if not INTERPRETED:
        settings = {"kv_cache_memory_bytes": 2**26} | settings  # not all that the machine has
    config = EngineConfig(model=str(checkpoint), skip_tokenizer_init=True, target_itl_ms=0.0, device="cuda", **settings)
    executor = load_device(config, progress, platform=platform(config, GPU))
    for pages in executor._kv.layers:
        for one in (pages.key_scales, pages.value_scales) if pages.dtype == "int8" else (pages.keys, pages.values):
            one.fill_(math.nan)
    seconds = itertools.count()
    around = overlapping(executor) if config.async_scheduling else executor
    return Engine(around, scheduler_config(config, executor.facts), lambda: float(next(seconds)))


class CountedGraphs:
    """A GPU's own graphs. `runs` has the rows of every run."""

    def __init__(self, capture: Any) -> None:
        self._capture = capture
        self.runs: list[int] = []

    def __call__(self, compute: Callable[[], Tensor], example: Any, constants: Any) -> Callable[[Any], Tensor]:
        graph = self._capture(compute, example, constants)

        def run(batch: Any) -> Tensor:
            self.runs.append(example.num_rows)
            result: Tensor = graph(batch)
            return result

        return run


class Capturing(CudaPlatform):
    """With graphs, and a count of kernels that would be compiled."""

    patch: pytest.MonkeyPatch
    launches: Launches
    graphs: FakeGraphs | CountedGraphs

    def new_ops(self, num_threads: int, group: Group, described: Description) -> Ops:
        ops = super().new_ops(num_threads, group, described)
        self.__class__.launches = Launches(self.compilations)
        self.__class__.graphs = FakeGraphs(self.launches) if INTERPRETED else CountedGraphs(ops.capture)
        return dataclasses.replace(ops, capture=self.graphs)

    def new_executor(self, *args: Any) -> CudaExecutor:
        self.patch.setattr(
            InterpretedFunction, "run", lambda kernel, *args, **kw: self.launches.run(kernel, *args, **kw)
        )
        executor = super().new_executor(*args)
        if not INTERPRETED:
            self._see_compilations()
        return executor

    def _see_compilations(self) -> None:
        """Tell those of Triton's compiler in `launches.late`, as those are that the interpreter would need."""
        hook, late = triton.knobs.runtime.jit_post_compile_hook, self.launches.late

        def compiled(**known: Any) -> None:
            late.append(str(known.get("repr")))
            hook(**known)

        self.patch.setattr(triton.knobs.runtime, "jit_post_compile_hook", compiled)
