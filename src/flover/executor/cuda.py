"""One GPU as a platform, and the executor on it: weights, pages, forward and sampling there, rows' columns on the host.

An iteration copies one packed buffer to the device for the forward, one more where rows ask for more than the largest
logit, and one back with tokens and log-probabilities. Nothing else waits for the device. It has not run on a GPU yet:
tests run it on tensors of the CPU, with Triton's interpreter.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from flover.config import EngineConfig, flag_name
from flover.errors import ConfigError
from flover.executor.device import Computes, DeviceExecutor
from flover.memory.buffers import RowView
from flover.memory.columns import NO_LOGPROBS, Feature
from flover.memory.kvcache import KVShape, PageCache
from flover.memory.machine import Machine, usable_cores
from flover.model.batch import Batch
from flover.model.describe import Description
from flover.model.sampling.logprobs import SLICE_LOGITS
from flover.model.sampling.packed import pack
from flover.model.sampling.sampler import NO_TOKEN, Sampled, tell_errors
from flover.ops import Array, DType, Group, HostArray, Ops, Pages
from flover.ops.cuda.choose import choose, logprobs
from flover.ops.cuda.choose import to_device as choices_to_device
from flover.ops.cuda.device import Gpu, find_gpu, free_unused, joined, new_pages, to_device, to_host
from flover.ops.cuda.order import argmax
from flover.ops.cuda.table import cuda_ops
from flover.ops.cuda.weight import FORMATS
from flover.request import ModelFacts, TokenLogprobs

LEAST_CAPABILITY = 8, 0
"""Of GPUs since Ampere, which multiply bfloat16."""
_BATCH = ("token_ids", "positions", "slots", "query_starts", "context_lens", "page_table")


class CudaCache:
    """Keys and values of every layer in the memory of a GPU, all of it taken at start."""

    def __init__(self, shape: KVShape, num_pages: int, page_size: int, dtype: DType, gpu: Gpu, ops: Ops) -> None:
        """Raises `ConfigError` if there is no memory for them."""
        shapes = ops.page_shapes(num_pages, page_size, shape.num_kv_heads, shape.head_dim)
        try:
            self.layers: tuple[Pages, ...] = tuple(
                Pages(*(new_pages(one, dtype, gpu.device) for one in shapes), page_size, dtype)  # type: ignore[call-arg,arg-type]
                for _ in range(shape.num_layers)
            )
        except MemoryError as error:
            raise ConfigError(
                f"{gpu.name} has no memory for {num_pages} pages of keys and values: lower --gpu-memory-utilization or "
                "--kv-cache-memory-bytes"
            ) from error

    def trim(self, free_pages: list[int]) -> None:
        """Nothing: the memory of a GPU is not shared with who may need it meanwhile."""

    def close(self) -> None:
        """Free the pages. Calling it twice is harmless."""
        self.layers = ()


class CudaExecutor(DeviceExecutor):
    """Rows, pages and weights on one GPU; `device` of its `gpu` has all tensors."""

    def __init__(self, decoder: Computes, kv: PageCache, facts: ModelFacts, num_rows: int, gpu: Gpu) -> None:
        super().__init__(decoder, kv, facts, num_rows)
        self._device = gpu.device

    def reset(self) -> None:
        """After running out of memory too: what the failed iteration has left is freed."""
        super().reset()
        free_unused(self._device)

    def _forward(self, batch: Batch) -> Array:
        arrays: dict[str, Any] = dict(to_device({name: getattr(batch, name) for name in _BATCH}, self._device))
        return super()._forward(dataclasses.replace(batch, **arrays))

    def _on_host(self, states: Array) -> HostArray:
        (found,) = to_host([states.float()])
        return found

    def _choose(self, logits: Array, rows: RowView) -> Sampled:
        chosen, largest = choose(logits, choices_to_device(pack(rows, logits.shape[1]), self._device))
        num_top = np.where(rows["features"] & Feature.LOGPROBS != 0, rows["logprobs"], NO_LOGPROBS)
        asked = self._logprobs(logits, chosen, num_top)
        ids, best, *found = to_host([chosen, largest, *(tensor for _, tensors in asked for tensor in tensors)])
        sampled = Sampled(ids)
        tell_errors(sampled, best, rows)
        for number, (places, _) in enumerate(asked):
            entries = _entries(found[3 * number : 3 * number + 3])
            sampled.logprobs |= {
                place: entry for place, entry in zip(places, entries, strict=True) if ids[place] != NO_TOKEN
            }
        return sampled

    def _logprobs(self, logits: Array, ids: Array, num_top: HostArray) -> list[tuple[list[int], Sequence[Array]]]:
        """For the rows that ask for so many alternatives: their places, and what `ops.cuda.choose.logprobs` gives."""
        asked: list[tuple[list[int], Sequence[Array]]] = []
        for count in np.unique(num_top).tolist():
            if count != NO_LOGPROBS:
                places = np.flatnonzero(num_top == count).tolist()
                chosen = ids[places].clamp(min=0)  # a row without a token has no entry in the end
                asked.append((places, logprobs(logits[places], chosen, logits.shape[1] if count < 0 else count)))
        return asked

    def _prompt_logprobs(
        self, before: Array | None, own: Array, next_ids: HostArray, num_top: int
    ) -> list[TokenLogprobs] | None:
        hidden, entries = own[:-1] if before is None else joined(before, own[:-1]), list[TokenLogprobs]()
        step = max(1, SLICE_LOGITS // self.facts.vocab_size)
        for first in range(0, len(next_ids), step):
            logits = self._decoder.logits(hidden[first : first + step])
            assert logits is not None
            chosen = to_device({"ids": next_ids[first : first + step]}, self._device)["ids"]
            largest, _ = argmax(logits)
            found = logprobs(logits, chosen, logits.shape[1] if num_top < 0 else num_top)
            best, *columns = to_host([largest, *found])
            if not np.isfinite(best).all():
                return None
            entries += _entries(columns)
        return entries


class CudaPlatform:
    """One GPU, as `config` uses it: the one that torch finds, or `gpu`."""

    deterministic = False  # the number of rows chooses cuBLAS's kernels
    device = "cuda"

    def __init__(self, config: EngineConfig, gpu: Gpu | None = None) -> None:
        """Raises `ConfigError` if there is no GPU, or one that is too old."""
        self._config = config
        found = gpu or find_gpu()
        if found is None:
            raise ConfigError("--device cuda: torch finds no GPU (is there one, with a driver that torch can use?)")
        if found.capability < LEAST_CAPABILITY:
            has, needed = (".".join(map(str, one)) for one in (found.capability, LEAST_CAPABILITY))
            raise ConfigError(f"--device cuda: {found.name} has compute capability {has}, at least {needed} is needed")
        for name in ("tensor_parallel_size", "data_parallel_size"):
            if (size := getattr(config, name)) > 1:
                raise ConfigError(f"--device cuda computes on one GPU: {flag_name(name)} must be 1, got {size}")
        self.gpu = found

    @property
    def description(self) -> str:
        """Name, capability and memory of the GPU."""
        gpu, capability = self.gpu, ".".join(map(str, self.gpu.capability))
        memory, free = (f"{size / 2**30:.1f} GiB" for size in (gpu.total_bytes, gpu.free_bytes))
        return f"cuda: {gpu.name}, compute capability {capability}, {memory}, {free} available"

    def machine(self) -> Machine:
        """The memory that --gpu-memory-utilization leaves, of which pages may take all that weights do not."""
        gpu, share = self.gpu, self._config.gpu_memory_utilization
        available = max(0, int(share * gpu.total_bytes) - (gpu.total_bytes - gpu.free_bytes))
        where = f"what --gpu-memory-utilization {share:g} leaves of {gpu.name}'s memory"
        return Machine(usable_cores(), available, pool_share=1.0, memory=where)

    def check(self, described: Description) -> None:
        """Formats of weights, and of keys and values."""
        kept = sorted({rows.format for rows in chain.from_iterable(described.formats.values())} - FORMATS.keys())
        if kept:
            raise ConfigError(f"--device cuda keeps weights as {', '.join(FORMATS)}, not {kept[0]}: use --device cpu")
        if described.kv_dtype not in FORMATS:
            raise ConfigError(f"--device cuda keeps keys and values as {', '.join(FORMATS)}, not {described.kv_dtype}")

    def new_ops(self, num_threads: int, group: Group) -> Ops:
        """Triton's kernels and torch's products."""
        return cuda_ops(self.gpu.device, group=group)

    def new_cache(self, shape: KVShape, num_pages: int, page_size: int, dtype: DType, ops: Ops) -> CudaCache:
        """Tensors of the GPU."""
        return CudaCache(shape, num_pages, page_size, dtype, self.gpu, ops)

    def new_executor(self, decoder: Computes, kv: PageCache, facts: ModelFacts, num_rows: int) -> CudaExecutor:
        """The one that samples on the GPU."""
        return CudaExecutor(decoder, kv, facts, num_rows, self.gpu)


def _entries(found: Sequence[HostArray]) -> list[TokenLogprobs]:
    columns = zip(*(array.tolist() for array in found), strict=True)
    return [TokenLogprobs(ids, values, ranks) for ids, values, ranks in columns]
