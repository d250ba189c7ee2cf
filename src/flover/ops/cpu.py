"""The op table on the C++ kernels of csrc/.

What a token gets depends on that token and its own context alone, bit for bit: not on the other rows, the chunks,
the page size, the number of threads or the instruction set. The kernels are built so (ARCHITECTURE.md, "CPU
kernels"); here is only the passage from tensors to addresses.

Activations are float32 whatever the weights are kept in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from flover import _cpu
from flover.errors import ConfigError, InvariantError
from flover.ops import INPUTS_TOGETHER, Alone, DrawParams, Group, Ops, Pages, RaggedBatch
from flover.ops.cpu_program import Recorder
from flover.ops.cpu_weight import PackedWeight

ACTIVATIONS: dict[str | None, int] = {None: 0, "silu": 1, "gelu": 2, "gelu_tanh": 3, "relu": 4}
CACHES: dict[torch.dtype, int] = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2}


def instruction_sets() -> list[str]:
    """What this machine can run, the fastest first."""
    return _cpu.instruction_sets()


@dataclass(frozen=True, slots=True)
class _Plan:
    page_table: Tensor
    query_starts: Tensor
    context_lens: Tensor


class CpuOps:
    """The table's functions, for one instruction set and one pool of threads."""

    def __init__(self, isa: str, num_threads: int, group: Group | None = None) -> None:
        """Raises `ConfigError` if the machine cannot run `isa` ("auto": the fastest it can)."""
        known = instruction_sets()
        if isa != "auto" and isa not in known:
            raise ConfigError(f"--cpu-isa {isa}: this machine runs {', '.join(known)}")
        self.engine = _cpu.Engine(known[0] if isa == "auto" else isa, num_threads)
        self.group = group or Alone()
        self._target: _cpu.Engine | Recorder = self.engine  # who takes the calls

    def embed(self, ids: Tensor, table: PackedWeight) -> Tensor:
        """Rows of the table."""
        y = self._new(len(ids), table.shape[1])
        self._target.embed(table.data, _ids(ids), len(ids), y.data_ptr())
        return y

    def rms_norm(self, x: Tensor, residual: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """Root mean square norm, after adding the residual."""
        return self._norm(x, residual, weight, 0, eps)

    def layer_norm(
        self, x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        """Layer norm, after adding the residual."""
        return self._norm(x, residual, weight, _floats(bias), eps)

    def _norm(self, x: Tensor, residual: Tensor | None, weight: Tensor, bias: int, eps: float) -> tuple[Tensor, Tensor]:
        rows, size = x.shape
        normed = self._new(rows, size)
        total = x if residual is None else self._new(rows, size)
        added = 0 if residual is None else _floats(residual)
        address = normed.data_ptr()
        self._target.norm(_floats(x), added, _floats(weight), bias, rows, size, eps, total.data_ptr(), address)
        return normed, total

    def head_norm(
        self, qkv: Tensor, num_heads: int, num_kv_heads: int, query_weight: Tensor, key_weight: Tensor, eps: float
    ) -> Tensor:
        """RMS norm over each query and key head by itself, in place."""
        rows, heads, dim = qkv.shape
        weights = _floats(query_weight), _floats(key_weight)
        self._target.head_norm(_floats(qkv), rows, heads * dim, num_heads, num_kv_heads, dim, *weights, eps)
        return qkv

    def linear(self, x: Tensor, weight: PackedWeight, bias: Tensor | None, kind: str | None) -> Tensor:
        """x times the weight's transpose, plus the bias, activated and gated."""
        out_size, in_size = weight.shape
        if x.shape[1] != in_size:
            raise InvariantError(f"x has {x.shape[1]} columns, the weight {in_size} inputs")
        y = self._new(x.shape[0], out_size // 2 if weight.gated else out_size)
        added = 0 if bias is None else _floats(bias)
        reach = self._whole_reach(x) if weight.part and weight.format in INPUTS_TOGETHER else None
        of_whole = 0 if reach is None else reach.data_ptr()
        self._target.linear(weight.data, _floats(x), x.shape[0], of_whole, added, ACTIVATIONS[kind], y.data_ptr())
        return y

    def _whole_reach(self, x: Tensor) -> Tensor:
        """The largest magnitude of each of the rows that x is this rank's part of, [T, 1]."""
        reach = self._new(x.shape[0], 1)
        self._target.reach(_floats(x), x.shape[0], x.shape[1], reach.data_ptr())
        if isinstance(self._target, Recorder):
            self._target.meet("largest", reach.data_ptr())
        else:
            self.group.largest(reach)
        return reach

    def angles(self, positions: Tensor, frequencies: Tensor, factor: float) -> tuple[Tensor, Tensor]:
        """Cosines and sines of position times frequency."""
        rows, count = len(positions), len(frequencies)
        cos, sin = self._new(rows, count), self._new(rows, count)
        addresses = cos.data_ptr(), sin.data_ptr()
        self._target.angles(_ids(positions), rows, _floats(frequencies), count, factor, *addresses)
        return cos, sin

    def rotary_write(
        self,
        qkv: Tensor,
        num_heads: int,
        cos: Tensor | None,
        sin: Tensor | None,
        interleaved: bool,
        pages: Pages,
        slots: Tensor,
    ) -> Tensor:
        """Turn queries and keys in place, write keys and values."""
        turning = 0 if cos is None else 2 * cos.shape[1]
        tables = (0, 0) if cos is None or sin is None else (_floats(cos), _floats(sin))
        self._target.rotary(
            _floats(qkv), qkv.shape[0], num_heads, *tables, turning, interleaved, _ids(slots), _native(pages)
        )
        return qkv[:, :num_heads]

    def attention(self, queries: Tensor, pages: Pages, plan: _Plan, scale: float, window: int | None) -> Tensor:
        """Attention of every token over its row's pages."""
        tokens, heads, dim = queries.shape
        if queries.dtype != torch.float32 or queries.stride()[1:] != (dim, 1):
            raise InvariantError("queries must be float32 with their heads one after another")
        y = self._new(tokens, heads * dim)
        table = plan.page_table
        self._target.attention(
            queries.data_ptr(),
            queries.stride(0),
            heads,
            table.shape[0],
            plan.query_starts.data_ptr(),
            plan.context_lens.data_ptr(),
            table.data_ptr(),
            table.shape[1],
            scale,
            window or 0,
            y.data_ptr(),
            _native(pages),
        )
        return y

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """x + y."""
        total = self._new(*x.shape)
        self._target.add(_floats(x), _floats(y), x.shape[0], x.shape[1], total.data_ptr())
        return total

    def largest(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """The largest of each row and the first id that has it."""
        rows, size = logits.shape
        values, ids = torch.empty(rows), torch.empty(rows, dtype=torch.int64)
        self.engine.largest(_floats(logits), rows, size, values.data_ptr(), ids.data_ptr())
        return values, ids

    def draw(self, logits: Tensor, best: Tensor, params: DrawParams) -> Tensor:
        """A random token of each row."""
        rows, size = logits.shape
        ids = torch.empty(rows, dtype=torch.int64)
        temperature = np.ascontiguousarray(params.temperature, dtype=np.float32)
        min_p = np.ascontiguousarray(params.min_p, dtype=np.float64)
        top_k = np.ascontiguousarray(params.top_k, dtype=np.int64)
        top_p = np.ascontiguousarray(params.top_p, dtype=np.float64)
        uniform = np.ascontiguousarray(params.uniform, dtype=np.float64)
        self.engine.draw(
            _floats(logits),
            rows,
            size,
            _floats(best),
            temperature.ctypes.data,
            min_p.ctypes.data,
            top_k.ctypes.data,
            top_p.ctypes.data,
            uniform.ctypes.data,
            ids.data_ptr(),
        )
        return ids

    def sum_ranks(self, x: Tensor) -> Tensor:
        """The sum over all ranks, in place."""
        if self.group.size == 1:
            return x
        if isinstance(self._target, Recorder):
            self._target.meet("sum", _floats(x))
        else:
            self.group.sum(x)
        return x

    def capture(
        self, compute: Callable[[], Tensor], example: RaggedBatch, constants: Sequence[Tensor]
    ) -> Callable[[RaggedBatch], Tensor]:
        """Record a forward; see `cpu_program.py`."""
        self._target = recorder = Recorder(example, constants)
        try:
            result = compute()
        finally:
            self._target = self.engine
        return recorder.finish(self.engine, self.group, result)

    def _new(self, *shape: int) -> Tensor:
        return self._target.new(shape) if isinstance(self._target, Recorder) else torch.empty(shape)


def plan_attention(
    page_table: Tensor,
    query_starts: Tensor,
    context_lens: Tensor,
    query_lens_host: Sequence[int],
    context_lens_host: Sequence[int],
    pages: Pages,
    windows: frozenset[int | None],
) -> _Plan:
    """The kernel needs no more than the batch has."""
    for tensor in (page_table, query_starts, context_lens):
        if tensor.dtype != torch.int32 or not tensor.is_contiguous():
            raise InvariantError("page table, query starts and context lengths must be contiguous int32")
    return _Plan(page_table, query_starts, context_lens)


def page_shapes(
    num_pages: int, page_size: int, num_kv_heads: int, head_dim: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Keys lie transposed in their page, so that 16 keys fill a register."""
    return (num_pages, num_kv_heads, head_dim, page_size), (num_pages, num_kv_heads, page_size, head_dim)


def cpu_ops(isa: str, num_threads: int, group: Group | None = None) -> Ops:
    """The table for that instruction set ("auto": the fastest) on so many threads, for a rank of `group`. Raises
    `ConfigError`."""
    made = CpuOps(isa, num_threads, group)
    return Ops(
        name=f"cpu ({made.engine.isa})",
        dtype=lambda dtype: torch.float32,
        page_shapes=page_shapes,
        new_weight=PackedWeight,
        embed=made.embed,  # type: ignore[arg-type]  # weights are this module's own
        rms_norm=made.rms_norm,
        layer_norm=made.layer_norm,
        head_norm=made.head_norm,
        linear=made.linear,  # type: ignore[arg-type]
        angles=made.angles,
        rotary_write=made.rotary_write,
        plan_attention=plan_attention,
        attention=made.attention,
        add=made.add,
        largest=made.largest,
        draw=made.draw,
        kernel_seconds=lambda: made.engine.seconds,
        group=made.group,
        sum_ranks=made.sum_ranks,
        capture=made.capture,
    )


def _floats(x: Tensor) -> int:
    if x.dtype != torch.float32 or not x.is_contiguous():
        raise InvariantError(f"a kernel needs contiguous float32, not {x.dtype} with strides {x.stride()}")
    return x.data_ptr()


def _ids(x: Tensor) -> int:
    if x.dtype != torch.int64 or not x.is_contiguous():
        raise InvariantError(f"a kernel needs contiguous int64, not {x.dtype} with strides {x.stride()}")
    return x.data_ptr()


def _native(pages: Pages) -> _cpu.Pages:
    heads, dim = pages.keys.shape[1], pages.keys.shape[2]
    scales = (0, 0)
    if pages.key_scales is not None and pages.value_scales is not None:
        scales = pages.key_scales.data_ptr(), pages.value_scales.data_ptr()
    addresses = pages.keys.data_ptr(), pages.values.data_ptr()
    return _cpu.Pages(CACHES[pages.keys.dtype], *addresses, *scales, pages.page_size, heads, dim)
