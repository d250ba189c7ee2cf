"""A forward pass as one call: the operations are recorded once and run again by the kernels' own code.

Recording runs the decoder on one token with a `Recorder` in the place of the kernels: it notes which kernel reads and
writes which buffer. A buffer is needed from the call that first touches it to the last one that does; buffers that
are never needed at the same time share a place in one workspace, which is laid out for the tokens of each run. Where
ranks put together what they have, one program ends and the next one begins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from flover import _cpu
from flover.errors import InvariantError
from flover.ops import Group, RaggedBatch

_LINE = 16
"""Tokens that a workspace is rounded up to: whole cache lines of float32."""


@dataclass(slots=True)
class _Buffer:
    """`width` floats per token, from the call `first` to the call `last`."""

    tensor: Tensor  # kept, so that its address stays its own
    width: int
    first: int = -1
    last: int = -1
    offset: int = -1


Meeting: TypeAlias = Literal["sum", "largest"]
"""What ranks make of what each of them has: a collective of `Group`, in place."""


@dataclass(frozen=True, slots=True)
class _Place:
    """`width` floats per token, `offset` floats per token into the workspace."""

    offset: int
    width: int


@dataclass(frozen=True, slots=True)
class _Meet:
    """A pause between two programs: the collective of the group, on what lies in this place."""

    collective: Callable[[Tensor], None]
    place: _Place


@dataclass(frozen=True, slots=True)
class _Call:
    kernel: str  # or a `Meeting`
    args: tuple[Any, ...]
    places: tuple[int, ...]  # which of args are buffers, constants or 0


class Recorder:
    """Stands for `_cpu.Engine` while a forward is recorded: takes its calls, on one token, and computes nothing."""

    def __init__(self, example: RaggedBatch, constants: Sequence[Tensor]) -> None:
        self._positions = example.positions.data_ptr()
        self._inputs = {example.token_ids.data_ptr(), self._positions}
        self._constants = {tensor.data_ptr() for tensor in constants}
        self._buffers: dict[int, _Buffer] = {}
        self._calls: list[_Call] = []

    def new(self, shape: tuple[int, ...]) -> Tensor:
        """A buffer for one token."""
        tensor = torch.zeros(shape)
        self._buffers[tensor.data_ptr()] = _Buffer(tensor, tensor.numel())
        return tensor

    def embed(self, weight: _cpu.PackedWeight, ids: int, rows: int, y: int) -> None:
        if ids not in self._inputs:
            raise InvariantError("only token ids and positions can be looked up in a recorded forward")
        self._note("embed", (weight, ids == self._positions, y), (2,))

    def angles(
        self, positions: int, rows: int, frequencies: int, count: int, factor: float, cos: int, sin: int
    ) -> None:
        self._note("angles", (frequencies, count, factor, cos, sin), (0, 3, 4))

    def add(self, a: int, b: int, rows: int, size: int, y: int) -> None:
        self._note("add", (a, b, size, y), (0, 1, 3))

    def norm(
        self, x: int, residual: int, weight: int, bias: int, rows: int, size: int, eps: float, total: int, normed: int
    ) -> None:
        self._note("norm", (x, residual, weight, bias, size, eps, total, normed), (0, 1, 2, 3, 6, 7))

    def head_norm(self, x: int, rows: int, *args: Any) -> None:
        self._note("head_norm", (x, *args), (0, 5, 6))

    def linear(
        self, weight: _cpu.PackedWeight, x: int, rows: int, reach: int, bias: int, activation: int, y: int
    ) -> None:
        self._note("linear", (weight, x, reach, bias, activation, y), (1, 2, 3, 5))

    def reach(self, x: int, rows: int, size: int, y: int) -> None:
        self._note("reach", (x, size, y), (0, 2))

    def rotary(
        self,
        qkv: int,
        rows: int,
        query_heads: int,
        cos: int,
        sin: int,
        turning: int,
        interleaved: bool,
        slots: int,
        pages: _cpu.Pages,
    ) -> None:
        self._note("rotary", (qkv, query_heads, cos, sin, turning, interleaved, pages), (0, 2, 3))

    def attention(
        self,
        queries: int,
        query_stride: int,
        query_heads: int,
        rows: int,
        query_starts: int,
        context_lens: int,
        page_table: int,
        table_stride: int,
        scale: float,
        window: int,
        y: int,
        pages: _cpu.Pages,
    ) -> None:
        self._note("attention", (queries, query_stride, query_heads, scale, window, y, pages), (0, 5))

    def meet(self, meeting: Meeting, x: int) -> None:
        """Not a kernel: all ranks put together what each has in x."""
        self._note(meeting, (x,), (0,))

    def finish(self, engine: _cpu.Engine, group: Group, result: Tensor) -> ForwardProgram:
        """The program whose outcome is `result`, a buffer [1, size]."""
        outcome = self._buffers[result.data_ptr()]
        outcome.last = len(self._calls)
        width = _share_places([buffer for buffer in self._buffers.values() if buffer.first >= 0])
        meetings = {"sum": group.sum, "largest": group.largest}
        steps: list[_cpu.Program | _Meet] = [_cpu.Program()]
        for call in self._calls:
            if call.kernel in meetings:
                buffer = self._buffers[call.args[0]]
                steps += [_Meet(meetings[call.kernel], _Place(buffer.offset, buffer.width)), _cpu.Program()]
                continue
            args = [self._resolve(arg) if i in call.places else arg for i, arg in enumerate(call.args)]
            getattr(steps[-1], call.kernel)(*args)
        return ForwardProgram(engine, steps, width, _Place(outcome.offset, outcome.width))

    def _note(self, kernel: str, args: tuple[Any, ...], places: tuple[int, ...]) -> None:
        for index in places:
            address = args[index]
            if address in self._buffers:
                buffer = self._buffers[address]
                buffer.first = len(self._calls) if buffer.first < 0 else buffer.first
                buffer.last = len(self._calls)
            elif address and address not in self._constants:
                raise InvariantError(f"{kernel} uses a tensor that no recorded operation has made")
        self._calls.append(_Call(kernel, args, places))

    def _resolve(self, address: int) -> int:
        buffer = self._buffers.get(address)
        return address if buffer is None else 2 * buffer.offset + 1


def _share_places(buffers: list[_Buffer]) -> int:
    """Give each buffer the lowest place that is free all the time it is needed. Returns the width of all together."""
    placed: list[_Buffer] = []
    for buffer in sorted(buffers, key=lambda buffer: buffer.first):
        living = sorted((b for b in placed if b.last >= buffer.first), key=lambda b: b.offset)
        buffer.offset = 0
        for other in living:
            if buffer.offset + buffer.width <= other.offset:
                break
            buffer.offset = other.offset + other.width
        placed.append(buffer)
    return max((buffer.offset + buffer.width for buffer in buffers), default=0)


class ForwardProgram:
    """Runs the recorded kernels on any batch. The result is valid until the next run."""

    def __init__(
        self,
        engine: _cpu.Engine,
        steps: Sequence[_cpu.Program | _Meet],
        width: int,
        outcome: _Place,
    ) -> None:
        self._engine = engine
        self._steps = steps
        self._width = width
        self._outcome = outcome
        self._workspace = torch.empty(0)

    def __call__(self, batch: RaggedBatch) -> Tensor:
        """The outcome for the batch, [tokens, size]."""
        tokens = batch.num_tokens
        lines = -(-tokens // _LINE) * _LINE
        if self._workspace.numel() < lines * self._width:
            self._workspace = torch.empty(lines * self._width)
        table = batch.page_table
        run = (
            tokens,
            batch.num_rows,
            batch.token_ids.data_ptr(),
            batch.positions.data_ptr(),
            batch.slots.data_ptr(),
            batch.query_starts.data_ptr(),
            batch.context_lens.data_ptr(),
            table.data_ptr(),
            table.shape[1],
            self._workspace.data_ptr(),
        )
        for step in self._steps:
            if isinstance(step, _Meet):
                step.collective(self._at(step.place, tokens, lines))
            else:
                step.run(self._engine, *run)
        return self._at(self._outcome, tokens, lines)

    def _at(self, place: _Place, tokens: int, lines: int) -> Tensor:
        start = place.offset * lines
        return self._workspace[start : start + tokens * place.width].view(tokens, place.width)
