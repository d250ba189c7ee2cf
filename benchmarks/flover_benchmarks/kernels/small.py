"""The benchmark of the ops other than linears and attention, in microseconds per call."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from flover import _cpu
from flover.bench.timing import Call, best_mean, keeping
from flover.memory.kvcache import KVCache
from flover.model.config import ModelConfig
from flover.ops import WeightFormat
from flover.ops.cpu import CpuOps
from flover.ops.cpu_layout import address, native_pages, page_shapes
from flover.ops.cpu_sizes import BYTES_PER_WEIGHT
from flover.ops.cpu_weight import PackedWeight
from flover_benchmarks.kernels.attention import CACHES, PAGE_SIZE
from flover_benchmarks.kernels.figures import Measurement
from flover_benchmarks.kernels.torch_threads import torch_threads

ROWS = (1, 32)
_REPEAT = 100
_CACHE = "bfloat16"

Made = tuple[Call, Call | None, float]
"""The call of our kernel, torch's, and the bytes that they move."""


def measure_small(
    op: str, config: ModelConfig, ops: CpuOps, weight_format: WeightFormat, rows: int, seconds: float
) -> Measurement:
    """One measurement; bytes are those of inputs and outputs."""
    kind: str
    if op == "embed":
        kind, made = weight_format, _embed(config, ops.runner, weight_format, rows)
    else:
        kind, make = {"norm": ("float32", _norm), "head_norm": ("float32", _head_norm), "rotary": (_CACHE, _rotary)}[op]
        made = make(config, ops.runner, rows)
    ours, theirs, size = made
    spent = best_mean(ours, seconds, _REPEAT)
    their_seconds = None
    if theirs is not None:
        with torch_threads(ops.runner.threads), torch.inference_mode():
            their_seconds = best_mean(theirs, seconds, _REPEAT)
    return Measurement(
        op=op,
        name=op,
        kind=kind,
        threads=ops.runner.threads,
        rows=rows,
        seconds=spent,
        reads=True,
        bytes=size,
        torch_seconds=their_seconds,
    )


def _norm(config: ModelConfig, runner: _cpu.KernelRunner, rows: int) -> Made:
    """The norm with residual, as everywhere in a decoder except its start."""
    size, eps = config.hidden_size, config.norm_eps
    x, residual, total, normed = torch.randn(4, rows, size)
    weight, bias = torch.ones(size), torch.zeros(size)
    moved = 4.0 * x.nbytes + weight.nbytes
    op = _cpu.Norm(
        x=x.data_ptr(),
        residual=residual.data_ptr(),
        weight=weight.data_ptr(),
        bias=bias.data_ptr() if config.norm == "layer" else 0,
        rows=rows,
        size=size,
        eps=eps,
        total=total.data_ptr(),
        normed=normed.data_ptr(),
    )
    ours = keeping((x, residual, weight, bias, total, normed), lambda: runner.run(op))
    if config.norm == "rms":
        return ours, lambda: F.rms_norm(x + residual, (size,), weight, eps), moved
    return ours, lambda: F.layer_norm(x + residual, (size,), weight, bias, eps), moved


def _head_norm(config: ModelConfig, runner: _cpu.KernelRunner, rows: int) -> Made:
    qkv, weight = _qkv(config, rows), torch.ones(config.head_dim)
    dim, eps = config.head_dim, config.norm_eps
    normed = qkv[:, : config.num_heads + config.num_kv_heads]
    op = _cpu.HeadNorm(
        x=qkv.data_ptr(),
        rows=rows,
        stride=qkv.stride(0),
        query_parts=config.num_heads,
        query_size=dim,
        key_parts=config.num_kv_heads,
        key_size=dim,
        query_weight=weight.data_ptr(),
        key_weight=weight.data_ptr(),
        eps=eps,
    )
    return (
        keeping((qkv, weight), lambda: runner.run(op)),
        lambda: F.rms_norm(normed, (dim,), weight, eps),
        2.0 * normed.numel() * normed.itemsize,
    )


def _rotary(config: ModelConfig, runner: _cpu.KernelRunner, rows: int) -> Made:
    """The rotary op; every row writes into its own page."""
    qkv, rope, dtype = _qkv(config, rows), config.layers[0].rope, CACHES[_CACHE]
    rotary_dim = 0 if rope is None else rope.dim
    cos, sin = torch.rand(2, rows, max(1, rotary_dim // 2))
    pages = KVCache(config, rows + 1, PAGE_SIZE, dtype, page_shapes).layers[0]
    slots = (np.arange(rows) + 1) * PAGE_SIZE
    turned = 2.0 * rows * (config.query_size + config.kv_size) * qkv.itemsize
    written = rows * config.kv_bytes_per_token(dtype) / config.num_layers
    op = _cpu.Rotary(
        qkv=qkv.data_ptr(),
        rows=rows,
        query_heads=config.num_heads,
        cos=cos.data_ptr(),
        sin=sin.data_ptr(),
        rotary_dim=rotary_dim,
        interleaved=rope is not None and rope.interleaved,
        query_norm=0,
        key_norm=0,
        eps=0.0,
        slots=address(slots),
        pages=native_pages(pages),
    )
    ours = keeping((qkv, cos, sin, slots, pages), lambda: runner.run(op))
    return ours, None, turned + written + rows * config.kv_size * qkv.itemsize


def _embed(config: ModelConfig, runner: _cpu.KernelRunner, weight_format: WeightFormat, rows: int) -> Made:
    shape = (config.vocab_size, config.hidden_size)
    plain = torch.randn(config.vocab_size, 1).expand(shape).contiguous()
    table = PackedWeight(shape, weight_format, False)
    table.store(0, plain.numpy())
    ids = torch.randint(config.vocab_size, (rows,), generator=torch.Generator().manual_seed(0))
    y = torch.empty(rows, config.hidden_size)
    op = _cpu.Embed(weight=table.data, ids=ids.data_ptr(), rows=rows, factor=1.0, y=y.data_ptr())
    return (
        keeping((ids, y), lambda: runner.run(op)),
        lambda: F.embedding(ids, plain),
        rows * config.hidden_size * (BYTES_PER_WEIGHT[weight_format] + plain.itemsize),
    )


def _qkv(config: ModelConfig, rows: int) -> Tensor:
    return torch.randn(rows, config.num_heads + 2 * config.num_kv_heads, config.head_dim)
