"""The attention benchmark: generating rows with a long context, and a prompt's first chunk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from flover.bench.timing import best_means
from flover.memory.kvcache import KVCache
from flover.model.config import ModelConfig
from flover.ops import DType, Pages
from flover.ops.cpu import CpuOps
from flover.ops.cpu_layout import page_shapes, plan_attention
from flover_benchmarks.kernels.figures import Measurement
from flover_benchmarks.kernels.linears import COLD_BYTES
from flover_benchmarks.kernels.torch_threads import torch_threads

CACHES: Mapping[str, DType] = {"float32": "float32", "bfloat16": "bfloat16", "int8": "int8"}
_TORCH = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PAGE_SIZE = 16
_SEED = 0


@dataclass(frozen=True, slots=True)
class AttentionLoad:
    """`rows` rows with `query_len` new tokens each and a context of `context_len`, those included."""

    rows: int
    query_len: int
    context_len: int

    @property
    def pairs(self) -> int:
        """Number of (query, key) pairs."""
        before = self.context_len - self.query_len
        return self.rows * (self.query_len * before + self.query_len * (self.query_len + 1) // 2)

    @property
    def generates(self) -> bool:
        return self.query_len == 1

    @property
    def label(self) -> str:
        return (
            f"{self.rows} rows of {self.context_len:,} tokens"
            if self.generates
            else f"prompt of {self.query_len} tokens"
        )


GENERATING = AttentionLoad(16, 1, 2000)
PROMPT = AttentionLoad(1, 512, 512)


@dataclass(frozen=True, slots=True)
class _KVShape:
    num_layers: int
    num_kv_heads: int
    head_dim: int


class AttentionBench:
    """Pages of enough layers to exceed the caches, assigned to the rows in random order."""

    def __init__(self, config: ModelConfig, cache: str, load: AttentionLoad, *, cold_bytes: int = COLD_BYTES) -> None:
        self.config, self.cache, self.load = config, cache, load
        dtype = CACHES[cache]
        self.tokens = load.rows * load.context_len
        layer_bytes = self.tokens * config.kv_bytes_per_token(dtype) // config.num_layers
        self.layers = max(1, -(-cold_bytes // layer_bytes)) if load.generates else 1
        self.layer_bytes = layer_bytes
        per_row = -(-load.context_len // PAGE_SIZE)
        shape = _KVShape(self.layers, config.num_kv_heads, config.head_dim)
        kv = KVCache(shape, 1 + load.rows * per_row, PAGE_SIZE, dtype, page_shapes)
        generator = np.random.default_rng(_SEED)
        for pages in kv.layers:
            _fill(pages, kv.layers[0], generator)
        self._pages = kv.layers
        order = generator.permutation(load.rows * per_row) + 1
        self._table = order.reshape(load.rows, per_row).astype(np.int32)
        shape_of_queries = load.rows * load.query_len, config.num_heads, config.head_dim
        self._queries = generator.standard_normal(shape_of_queries, dtype=np.float32)

        self._plain = self._torch_layers() if dtype in _TORCH else []

    def measure(self, ops: CpuOps, seconds: float) -> Measurement:
        """Time calls on one layer after another; operations are those of both products."""
        load, config = self.load, self.config
        scale, plan = config.head_dim**-0.5, self._plan()
        calls = [("", partial(ops.attention, self._queries, pages, plan, scale, None)) for pages in self._pages]
        ours = best_means(calls, seconds)[""]
        theirs = None
        if self._plain:
            with torch_threads(ops.runner.threads), torch.inference_mode():
                theirs = self._measure_torch(seconds)
        return Measurement(
            op="attention",
            name=load.label,
            kind=self.cache,
            threads=ops.runner.threads,
            rows=load.rows,
            reads=load.generates,
            seconds=ours,
            flop=4.0 * load.pairs * config.num_heads * config.head_dim,
            bytes=self.layer_bytes,
            torch_seconds=theirs,
            times_per_step=config.num_layers,
        )

    def _plan(self) -> Any:
        load = self.load
        starts = np.arange(0, load.rows * load.query_len + 1, load.query_len, dtype=np.int32)
        contexts = np.full(load.rows, load.context_len, dtype=np.int32)
        lens = (load.query_len,) * load.rows, (load.context_len,) * load.rows
        return plan_attention(self._table, starts, contexts, *lens, self._pages[0], frozenset({None}))

    def _torch_layers(self) -> list[tuple[Tensor, Tensor]]:
        """Contiguous keys and values. torch has no causal mask for grouped heads: a prompt's heads are repeated."""
        load, config, dtype = self.load, self.config, _TORCH[self.cache]
        shape = (load.rows, config.num_kv_heads, load.context_len, config.head_dim)
        keys = torch.randn(shape).to(dtype)
        if not load.generates:
            keys = keys.repeat_interleave(config.num_heads // config.num_kv_heads, 1)
        return [(keys.clone(), keys.clone()) for _ in range(self.layers)]

    def _measure_torch(self, seconds: float) -> float:
        call = self._torch_call()
        return best_means([("", partial(call, *pair)) for pair in self._plain], seconds)[""]

    def _torch_call(self) -> Callable[[Tensor, Tensor], Tensor]:
        """torch's fastest form: without a mask, the query heads of a key head are passed as the query length."""
        load, config = self.load, self.config
        queries = (
            torch.from_numpy(self._queries).to(_TORCH[self.cache]).view(load.rows, load.query_len, -1, config.head_dim)
        )
        if load.generates:
            queries = queries.view(load.rows, config.num_kv_heads, -1, config.head_dim)
        else:
            queries = queries.transpose(1, 2)
        causal = not load.generates
        return lambda keys, values: F.scaled_dot_product_attention(queries, keys, values, is_causal=causal)


def _fill(pages: Pages, first: Pages, generator: np.random.Generator) -> None:
    """Random keys and values, the same in every layer."""
    for name in ("keys", "values", "key_scales", "value_scales"):
        array, source = getattr(pages, name), getattr(first, name)
        if array is None:
            continue
        if pages is not first:
            array[:] = source
        elif array.dtype == np.int8:
            array[:] = generator.integers(-127, 128, array.shape, dtype=np.int8)
        elif name.endswith("scales"):
            array[:] = 1 / 64
        else:
            drawn = generator.standard_normal(array.shape, dtype=np.float32)
            array[:] = drawn.view(np.uint32) >> 16 if array.dtype == np.uint16 else drawn
