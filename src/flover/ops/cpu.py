"""The op table on the C++ kernels of csrc/.

What a token gets depends on that token and its own context alone, bit for bit: not on the other rows, the chunks,
the page size, the number of threads or the instruction set. The kernels are built so (ARCHITECTURE.md, "CPU
kernels"); here is only the passage from numpy's arrays to addresses.

Activations are float32 whatever the weights are kept in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from flover import _cpu
from flover.errors import ConfigError, InvariantError
from flover.ops import ONE_SCALE, Alone, Array, Group, Ops, Pages, RaggedBatch, Reduction
from flover.ops.cpu_adapters import CpuAdapters
from flover.ops.cpu_experts import ExpertOps
from flover.ops.cpu_isa import instruction_sets as instruction_sets
from flover.ops.cpu_layout import (
    ACTIVATIONS,
    AttentionPlan,
    address,
    floats,
    ids_of,
    native_pages,
    page_shapes,
    plan_attention,
)
from flover.ops.cpu_program import ProgramRecorder
from flover.ops.cpu_sampling import argmax, logsumexp, sample
from flover.ops.cpu_weight import CpuWeight, JoinedWeight, PackedWeight, members_of


class CpuOps:
    """The table's functions, for one instruction set and one pool of threads."""

    def __init__(self, isa: str, num_threads: int, group: Group | None = None) -> None:
        """Raises `ConfigError` if the machine cannot run `isa` ("auto": the fastest it can)."""
        known = instruction_sets()
        if isa != "auto" and isa not in known:
            raise ConfigError(f"--cpu-isa {isa}: this machine runs {', '.join(known)}")
        self.runner = _cpu.KernelRunner(known[0] if isa == "auto" else isa, num_threads)
        self.group = group or Alone()
        self._recorder: ProgramRecorder | None = None  # takes the operations instead of the runner
        self.experts = ExpertOps(self._run, self._new, self._constant, self._absmax_of_all, self._all_reduce)
        self.adapters = CpuAdapters(self._run, self._new, self._constant, self.linear)

    def embed(self, ids: Array, table: PackedWeight, factor: float) -> Array:
        """Rows of the table, times the factor."""
        y = self._new(len(ids), table.shape[1])
        self._run(_cpu.Embed(weight=table.data, ids=ids_of(ids), rows=len(ids), factor=factor, y=floats(y)))
        return y

    def rms_norm(self, x: Array, residual: Array | None, weight: Array, eps: float) -> tuple[Array, Array]:
        """Root mean square norm, after adding the residual."""
        return self._norm(x, residual, weight, None, eps)

    def layer_norm(
        self, x: Array, residual: Array | None, weight: Array, bias: Array, eps: float
    ) -> tuple[Array, Array]:
        """Layer norm, after adding the residual."""
        return self._norm(x, residual, weight, bias, eps)

    def _norm(
        self, x: Array, residual: Array | None, weight: Array, bias: Array | None, eps: float
    ) -> tuple[Array, Array]:
        rows, size = x.shape
        normed = self._new(rows, size)
        total = x if residual is None else self._new(rows, size)
        self._run(
            _cpu.Norm(
                x=floats(x),
                residual=floats(residual),
                weight=floats(weight),
                bias=floats(bias),
                rows=rows,
                size=size,
                eps=eps,
                total=floats(total),
                normed=floats(normed),
            )
        )
        return normed, total

    def head_norm(
        self, qkv: Array, num_heads: int, num_kv_heads: int, query_weight: Array, key_weight: Array, eps: float
    ) -> Array:
        """RMS norm of queries and keys, in place."""
        rows, heads, dim = qkv.shape
        self._run(
            _cpu.HeadNorm(
                x=floats(qkv),
                rows=rows,
                stride=heads * dim,
                query_parts=num_heads * dim // len(query_weight),
                query_size=len(query_weight),
                key_parts=num_kv_heads * dim // len(key_weight),
                key_size=len(key_weight),
                query_weight=floats(query_weight),
                key_weight=floats(key_weight),
                eps=eps,
            )
        )
        return qkv

    def linear(
        self, x: Array, weight: CpuWeight, bias: Array | None, kind: str | None, added: tuple[int, int] = (0, 0)
    ) -> Array:
        """x times the weight's transpose, plus the bias and what adapters add (`CpuAdapters`), activated and gated."""
        out_size, in_size = weight.shape
        if x.shape[1] != in_size:
            raise InvariantError(f"x has {x.shape[1]} columns, the weight {in_size} inputs")
        members, gated = members_of(weight), isinstance(weight, PackedWeight) and weight.gated
        shared = members[0][0].shared
        if shared and (gated or kind is not None or added[0]):
            raise InvariantError("what ranks give is added up before anything is done with it")
        y = self._new(x.shape[0], out_size // 2 if gated else out_size)
        for member, column in members:
            absmax = self._absmax_of_all(x, 1, member.rotation) if shared and member.format in ONE_SCALE else None
            self._run(
                _cpu.Linear(
                    weight=member.data,
                    x=floats(x),
                    rows=x.shape[0],
                    absmax=floats(absmax),
                    bias=floats(None if shared else bias),
                    added=added[0],
                    adds=added[1],
                    added_stride=out_size,
                    activation=ACTIVATIONS[kind],
                    y=floats(y),
                    stride=y.shape[1],
                    column=column,
                )
            )
        if shared:
            self._all_reduce("sum", y)
            return y if bias is None else self.add(y, bias)
        return y

    def _absmax_of_all(self, x: Array, parts: int, rotation: int) -> Array:
        """The largest magnitude of each part of the rows that x is this rank's shard of, rotated, [T, parts]."""
        rows, size = x.shape
        absmax = self._new(rows, parts)
        self._run(
            _cpu.AbsMax(x=floats(x), rows=rows, parts=parts, size=size // parts, rotation=rotation, y=floats(absmax))
        )
        self._all_reduce("max", absmax)
        return absmax

    def angles(self, positions: Array, frequencies: Array, factor: float) -> tuple[Array, Array]:
        """Cosines and sines of position times frequency."""
        rows, count = len(positions), len(frequencies)
        cos, sin = self._new(rows, count), self._new(rows, count)
        self._run(
            _cpu.Angles(
                positions=ids_of(positions),
                rows=rows,
                frequencies=floats(frequencies),
                count=count,
                factor=factor,
                cos=floats(cos),
                sin=floats(sin),
            )
        )
        return cos, sin

    def rotary_write(
        self,
        qkv: Array,
        num_heads: int,
        cos: Array | None,
        sin: Array | None,
        interleaved: bool,
        pages: Pages,
        slots: Array,
        query_norm: Array | None = None,
        key_norm: Array | None = None,
        eps: float = 0.0,
    ) -> Array:
        """Rotate queries and keys in place, write keys and values."""
        self._run(
            _cpu.Rotary(
                qkv=floats(qkv),
                rows=qkv.shape[0],
                query_heads=num_heads,
                cos=floats(cos),
                sin=floats(sin),
                rotary_dim=0 if cos is None else 2 * cos.shape[1],
                interleaved=interleaved,
                query_norm=floats(query_norm),
                key_norm=floats(key_norm),
                eps=eps,
                slots=ids_of(slots),
                pages=native_pages(pages),
            )
        )
        return qkv[:, :num_heads]

    def attention(
        self,
        queries: Array,
        pages: Pages,
        plan: AttentionPlan,
        scale: float,
        window: int | None,
        softcap: float = 0.0,
        slopes: Array | None = None,
        sinks: Array | None = None,
    ) -> Array:
        """Attention of every token over its row's pages."""
        tokens, heads, dim = queries.shape
        if queries.dtype != np.float32 or (tokens and queries.strides[1:] != (4 * dim, 4)):
            raise InvariantError("queries must be float32 with their heads one after another")
        y = self._new(tokens, heads * dim)
        table = plan.page_table
        self._run(
            _cpu.Attention(
                queries=address(queries),
                query_stride=queries.strides[0] // 4,
                query_heads=heads,
                rows=table.shape[0],
                query_starts=address(plan.query_starts),
                context_lens=address(plan.context_lens),
                page_table=address(table),
                table_stride=table.shape[1],
                scale=scale,
                window=window or 0,
                softcap=softcap,
                slopes=floats(slopes),
                sinks=floats(sinks),
                y=floats(y),
                pages=native_pages(pages),
            )
        )
        return y

    def add(self, x: Array, y: Array) -> Array:
        """x + y, which may be one row for all."""
        (rows, size), stride = x.shape, x.shape[1] if y.ndim == 2 else 0
        total = self._new(rows, size)
        self._run(_cpu.Add(a=floats(x), b=floats(y), rows=rows, size=size, b_stride=stride, y=floats(total)))
        return total

    def softcap(self, x: Array, cap: float) -> Array:
        """cap * tanh(x / cap), in place."""
        self._run(_cpu.SoftCap(x=floats(x), rows=len(x), size=x.shape[1], cap=cap))
        return x

    def all_reduce(self, x: Array) -> Array:
        """The sum over all ranks, in place."""
        if self.group.size > 1:
            self._all_reduce("sum", x)
        return x

    def capture(
        self, compute: Callable[[], Array], example: RaggedBatch, constants: Sequence[Array]
    ) -> Callable[[RaggedBatch], Array]:
        """Record a forward; see `cpu_program.py`."""
        self._recorder = recorder = ProgramRecorder(example, constants)
        try:
            result = compute()
        finally:
            self._recorder = None
        return recorder.finish(self.runner, self.group, result)

    def _run(self, op: _cpu.Op) -> None:
        (self._recorder or self.runner).run(op)

    def _all_reduce(self, reduction: Reduction, x: Array) -> None:
        if self._recorder is not None:
            self._recorder.all_reduce(reduction, x)
        else:
            self.group.all_reduce(reduction, x)

    def _constant(self, array: Array) -> Array:
        return array if self._recorder is None else self._recorder.constant(array)

    def _new(self, *shape: int) -> Array:
        return np.empty(shape, dtype=np.float32) if self._recorder is None else self._recorder.new(shape)


def cpu_ops(isa: str, num_threads: int, group: Group | None = None) -> Ops:
    """The table for that instruction set ("auto": the fastest) on so many threads, for a rank of `group`. Raises
    `ConfigError`."""
    made = CpuOps(isa, num_threads, group)
    return Ops(
        name=f"cpu ({made.runner.isa})",
        array=np.ascontiguousarray,
        page_shapes=page_shapes,
        new_weight=PackedWeight,
        embed=made.embed,  # type: ignore[arg-type]  # weights are this module's own
        rms_norm=made.rms_norm,
        layer_norm=made.layer_norm,
        head_norm=made.head_norm,
        linear=made.linear,  # type: ignore[arg-type]
        experts=made.experts.run,
        add_gated=made.experts.add_gated,
        angles=made.angles,
        rotary_write=made.rotary_write,
        scale_queries=made.experts.scale_queries,
        plan_attention=plan_attention,
        attention=made.attention,
        add=made.add,
        softcap=made.softcap,
        argmax=partial(argmax, made.runner),
        logsumexp=partial(logsumexp, made.runner),
        sample=partial(sample, made.runner),
        kernel_seconds=lambda: made.runner.seconds,
        group=made.group,
        all_reduce=made.all_reduce,
        join=JoinedWeight,  # type: ignore[arg-type]
        adapters=made.adapters,
        capture=made.capture,
    )
