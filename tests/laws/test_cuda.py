"""Whole engines on the op table of a GPU, whose kernels are interpreted on tensors of the CPU: the tokens of the CPU's
own kernels, with and without asynchronous scheduling. There is no platform for GPUs yet: what it has to do is done here
in the plainest way. One packed array goes in for an iteration, logits come out."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import support.triton_interpreter  # noqa: F401  # before any kernel runs
import torch
from harness import answer, load, make, tokens
from support.checkpoints import make_checkpoint, random_prompt

from flover.engine.loop import Engine
from flover.executor import load as loading
from flover.executor.cpu import CpuPlatform
from flover.executor.device import DeviceExecutor
from flover.memory.kvcache import KVCache, KVShape
from flover.model.batch import Batch
from flover.ops import Array, DType, Group, Ops, Pages
from flover.ops.cpu import cpu_ops
from flover.ops.cuda.table import cuda_ops

ARRAYS = ("token_ids", "positions", "slots", "query_starts", "context_lens", "page_table")
ALIGNMENT = 16
pytestmark = pytest.mark.gpu


class TensorCache:
    """Pages as tensors."""

    def __init__(self, shape: KVShape, num_pages: int, page_size: int, dtype: DType, ops: Ops) -> None:
        shapes = ops.page_shapes(num_pages, page_size, shape.num_kv_heads, shape.head_dim)
        self.layers = tuple(
            Pages(*(torch.full(one, torch.nan) for one in shapes), page_size, dtype) for _ in range(shape.num_layers)
        )

    def trim(self, free_pages: list[int]) -> None: ...

    def close(self) -> None: ...


class TensorPlatform(CpuPlatform):
    """The table of a GPU on the tensors of the CPU."""

    def new_ops(self, num_threads: int, group: Group) -> Ops:
        return cuda_ops(torch.device("cpu"), group=group)

    def new_cache(self, shape: KVShape, num_pages: int, page_size: int, dtype: DType, ops: Ops) -> KVCache:
        return TensorCache(shape, num_pages, page_size, dtype, ops)  # type: ignore[return-value]


class TensorDecoder:
    """A decoder on tensors for an executor whose arrays are numpy's, which chooses tokens on the host."""

    def __init__(self, decoder: object) -> None:
        self._decoder = decoder
        host = cpu_ops("auto", 1)
        chosen = {name: getattr(host, name) for name in ("array", "argmax", "logsumexp", "sample", "kernel_seconds")}
        self.ops = dataclasses.replace(decoder.ops, **chosen)  # type: ignore[attr-defined]

    def forward(self, batch: Batch, kv: KVCache) -> Array:
        arrays = {name: np.ascontiguousarray(getattr(batch, name)) for name in ARRAYS}
        sizes = [-(-array.nbytes // ALIGNMENT) * ALIGNMENT for array in arrays.values()]
        packed, start, views = torch.zeros(sum(sizes), dtype=torch.uint8), 0, {}
        for (name, array), size in zip(arrays.items(), sizes, strict=True):
            own = packed[start : start + array.nbytes]
            own.numpy()[:] = array.reshape(-1).view(np.uint8)
            views[name] = own.view(getattr(torch, str(array.dtype))).view(array.shape)
            start += size
        return self._decoder.forward(dataclasses.replace(batch, **views), kv).numpy()  # type: ignore[attr-defined]

    def logits(self, hidden: Array) -> Array:
        return self._decoder.logits(torch.from_numpy(np.ascontiguousarray(hidden))).numpy()  # type: ignore[attr-defined]


class TensorExecutor(DeviceExecutor):
    """The executor of the CPU around such a decoder."""

    def __init__(self, decoder: object, *rest: object) -> None:
        super().__init__(TensorDecoder(decoder), *rest)  # type: ignore[arg-type]


def test_tokens_are_those_of_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrivals, a cancellation, a shared prefix, chunks, log-probabilities of a prompt."""
    checkpoint, shared = make_checkpoint(tmp_path, "llama"), random_prompt(8, 17)
    asked = [
        make("a", random_prompt(1, 3), max_tokens=8),
        make("b", [*shared, 5, 6], max_tokens=6, prompt_logprobs=0),
        make("c", [*shared, 7, 8, 9], max_tokens=6, temperature=0.9, seed=3),
    ]
    arrivals = [(0, make("gone", random_prompt(5, 20), max_tokens=30)), *((4 * i, one) for i, one in enumerate(asked))]
    engine = load(checkpoint)
    expected = answer(engine, arrivals[1:])
    engine.close()
    monkeypatch.setattr(loading, "CpuPlatform", TensorPlatform)
    monkeypatch.setattr(loading, "DeviceExecutor", TensorExecutor)
    monkeypatch.setattr(TensorExecutor, "warm_up", lambda self: None)

    def cancel(engine: Engine) -> None:
        if engine.roster.counts["iterations"] == 6:
            engine.cancel("gone")

    for overlaps in (False, True):
        engine = load(
            checkpoint,
            async_scheduling=overlaps,
            max_num_batched_tokens=16,
            max_num_seqs=4,
        )
        found = answer(engine, arrivals, cancel)
        assert found.pop("gone")
        assert {name: tokens(deltas) for name, deltas in found.items()} == {
            name: tokens(deltas) for name, deltas in expected.items()
        }
        engine.close()
