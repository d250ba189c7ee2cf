"""The kernels between the linears, alone: what counts there is microseconds per call."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from flover import _cpu
from flover.bench.kernels.attention import CACHES, PAGE_SIZE
from flover.bench.kernels.figures import Cell
from flover.bench.kernels.timing import best_mean, torch_threads
from flover.memory.kvcache import KVCache
from flover.model.config import ModelConfig
from flover.ops import WeightFormat
from flover.ops.cpu import CACHES as CACHE_KINDS
from flover.ops.cpu import CpuOps, page_shapes
from flover.ops.cpu_weight import BYTES_PER_WEIGHT, PackedWeight

ROWS = (1, 32)
_REPEAT = 100
_CACHE = "bfloat16"

Call = Callable[[], object]
Made = tuple[Call, Call | None, float]
"""Our call, torch's, and the bytes that they move."""


def measure_small(
    op: str, config: ModelConfig, ops: CpuOps, weight_format: WeightFormat, rows: int, seconds: float
) -> Cell:
    """One cell; bytes are those that come in and go out."""
    kind: str
    if op == "embed":
        kind, made = weight_format, _embed(config, ops.engine, weight_format, rows)
    else:
        kind, make = {"norm": ("float32", _norm), "head_norm": ("float32", _head_norm), "rotary": (_CACHE, _rotary)}[op]
        made = make(config, ops.engine, rows)
    ours, theirs, size = made
    spent = best_mean(ours, seconds, _REPEAT)
    their_seconds = None
    if theirs is not None:
        with torch_threads(ops.engine.threads), torch.inference_mode():
            their_seconds = best_mean(theirs, seconds, _REPEAT)
    return Cell(
        op=op,
        name=op,
        kind=kind,
        threads=ops.engine.threads,
        rows=rows,
        seconds=spent,
        reads=True,
        bytes=size,
        torch_seconds=their_seconds,
    )


def _norm(config: ModelConfig, engine: _cpu.Engine, rows: int) -> Made:
    """With the residual, as everywhere in a decoder but at its start."""
    size, eps = config.hidden_size, config.norm_eps
    x, residual, total, normed = torch.randn(4, rows, size)
    weight, bias = torch.ones(size), torch.zeros(size)
    moved = 4.0 * x.nbytes + weight.nbytes
    tensors = x, residual, weight, bias, total, normed
    added = bias.data_ptr() if config.norm == "layer" else 0
    inputs = x.data_ptr(), residual.data_ptr(), weight.data_ptr(), added
    outputs = total.data_ptr(), normed.data_ptr()
    ours = keeping(tensors, lambda: engine.norm(*inputs, rows, size, eps, *outputs))
    if config.norm == "rms":
        return ours, lambda: F.rms_norm(x + residual, (size,), weight, eps), moved
    return ours, lambda: F.layer_norm(x + residual, (size,), weight, bias, eps), moved


def _head_norm(config: ModelConfig, engine: _cpu.Engine, rows: int) -> Made:
    qkv, weight = _qkv(config, rows), torch.ones(config.head_dim)
    heads, dim, eps = (config.num_heads, config.num_kv_heads), config.head_dim, config.norm_eps
    normed, weights = qkv[:, : sum(heads)], (weight.data_ptr(), weight.data_ptr())
    return (
        lambda: engine.head_norm(qkv.data_ptr(), rows, qkv.stride(0), *heads, dim, *weights, eps),
        lambda: F.rms_norm(normed, (dim,), weight, eps),
        2.0 * normed.numel() * normed.itemsize,
    )


def _rotary(config: ModelConfig, engine: _cpu.Engine, rows: int) -> Made:
    """Every row writes into a page of its own."""
    qkv, rope, dtype = _qkv(config, rows), config.rope, CACHES[_CACHE]
    turning = 0 if rope is None else rope.dim
    cos, sin = torch.rand(2, rows, max(1, turning // 2))
    interleaved = rope is not None and rope.interleaved
    pages = KVCache(config, rows + 1, PAGE_SIZE, dtype, page_shapes).layers[0]
    addresses = pages.keys.data_ptr(), pages.values.data_ptr(), 0, 0
    native = _cpu.Pages(CACHE_KINDS[dtype], *addresses, PAGE_SIZE, config.num_kv_heads, config.head_dim)
    slots = (torch.arange(rows) + 1) * PAGE_SIZE
    turned = 2.0 * rows * (config.query_size + config.kv_size) * qkv.itemsize
    written = rows * config.kv_bytes_per_token(dtype) / config.num_layers
    inputs = qkv.data_ptr(), rows, config.num_heads, cos.data_ptr(), sin.data_ptr(), turning, interleaved
    ours = keeping((qkv, cos, sin, slots, pages), lambda: engine.rotary(*inputs, slots.data_ptr(), native))
    return ours, None, turned + written + rows * config.kv_size * qkv.itemsize


def _embed(config: ModelConfig, engine: _cpu.Engine, weight_format: WeightFormat, rows: int) -> Made:
    shape = (config.vocab_size, config.hidden_size)
    plain = torch.randn(config.vocab_size, 1).expand(shape).contiguous()
    table = PackedWeight(shape, weight_format, False)
    table.store(0, plain)
    ids = torch.randint(config.vocab_size, (rows,), generator=torch.Generator().manual_seed(0))
    y = torch.empty(rows, config.hidden_size)
    return (
        lambda: engine.embed(table.data, ids.data_ptr(), rows, y.data_ptr()),
        lambda: F.embedding(ids, plain),
        rows * config.hidden_size * (BYTES_PER_WEIGHT[weight_format] + plain.itemsize),
    )


def keeping(owners: object, call: Call) -> Call:
    """`call` works on addresses: the tensors that own them must live as long as it."""

    def kept(owners: object = owners) -> object:
        return call()

    return kept


def _qkv(config: ModelConfig, rows: int) -> Tensor:
    return torch.randn(rows, config.num_heads + 2 * config.num_kv_heads, config.head_dim)
