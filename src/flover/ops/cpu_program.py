"""A forward pass as one call: the operations are recorded once and run again by the kernels' own code.

Recording runs the decoder on one token with a `ProgramRecorder` in the place of the kernels: it notes which operation
reads and writes which buffer. A buffer is needed from the operation that first uses it to the last one that does;
buffers that are never needed at the same time share memory in one workspace, which is laid out for the tokens of each
run. Where ranks reduce, one program ends and the next one begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flover import _cpu
from flover.errors import InvariantError
from flover.ops import Array, Group, RaggedBatch, Reduction
from flover.ops.cpu_layout import address

_LINE = 16
"""Tokens that a workspace is rounded up to: whole cache lines of float32."""


@dataclass(slots=True)
class _Buffer:
    """`width` floats per token, used from the operation `first` to the operation `last`; from `finish` on it lies
    `offset` floats per token into the workspace."""

    array: Array  # kept, so that its address stays its own
    width: int
    first: int = -1
    last: int = -1
    offset: int = -1

    def used(self, index: int) -> None:
        self.first = index if self.first < 0 else self.first
        self.last = index


@dataclass(frozen=True, slots=True)
class _AllReduce:
    """A pause between two programs: the ranks reduce what each of them has in this buffer."""

    reduction: Reduction
    buffer: _Buffer


class ProgramRecorder:
    """Takes the operations of a forward on one token instead of `_cpu.KernelRunner`, and computes nothing."""

    def __init__(self, example: RaggedBatch, constants: Sequence[Array]) -> None:
        self._inputs = {
            address(getattr(example, name)): _cpu.input(index)
            for index, name in enumerate(_cpu.Batch.pointers)
            if name != "workspace" and getattr(example, name) is not None
        }
        self._constants = {0, *(address(array) for array in constants)}
        self._kept: list[Array] = []
        self._buffers: dict[int, _Buffer] = {}
        self._recorded: list[_cpu.Op | _AllReduce] = []

    def new(self, shape: tuple[int, ...]) -> Array:
        """A buffer for one token."""
        array = np.zeros(shape, dtype=np.float32)
        self._buffers[address(array)] = _Buffer(array, array.size)
        return array

    def constant(self, array: Array) -> Array:
        """An array that operations read, kept for all runs."""
        self._constants.add(address(array))
        self._kept.append(array)
        return array

    def run(self, op: _cpu.Op) -> None:
        """Note an operation; what comes from the batch becomes a reference to the batch of each run."""
        for name in op.pointers:
            value = op.get(name)
            if value in self._buffers:
                self._buffers[value].used(len(self._recorded))
            elif value in self._inputs:
                op.set(name, self._inputs[value])
            elif value not in self._constants:
                raise InvariantError(f"{type(op).__name__}.{name} is an array that no recorded operation has made")
        self._recorded.append(op)

    def all_reduce(self, reduction: Reduction, x: Array) -> None:
        """Note that all ranks reduce what each has in this buffer."""
        buffer = self._buffers[address(x)]
        buffer.used(len(self._recorded))
        self._recorded.append(_AllReduce(reduction, buffer))

    def finish(self, runner: _cpu.KernelRunner, group: Group, result: Array) -> ForwardProgram:
        """The program whose outcome is `result`, a buffer [1, size]."""
        outcome = self._buffers[address(result)]
        outcome.used(len(self._recorded))
        width = _share_places([buffer for buffer in self._buffers.values() if buffer.first >= 0])
        steps: list[_cpu.Program | _AllReduce] = [program := _cpu.Program()]
        for recorded in self._recorded:
            if isinstance(recorded, _AllReduce):
                steps += [recorded, program := _cpu.Program()]
                continue
            for name in recorded.pointers:
                buffer = self._buffers.get(recorded.get(name))
                if buffer is not None:
                    recorded.set(name, _cpu.workspace(buffer.offset))
            program.append(recorded)
        return ForwardProgram(runner, group, steps, width, outcome, self._kept)


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
    """Runs the recorded operations on any batch. The result is valid until the next run."""

    def __init__(
        self,
        runner: _cpu.KernelRunner,
        group: Group,
        steps: Sequence[_cpu.Program | _AllReduce],
        width: int,
        outcome: _Buffer,
        constants: Sequence[Array],
    ) -> None:
        self._runner = runner
        self._group = group
        self._steps = steps
        self._width = width
        self._outcome = outcome
        self._constants = constants
        self._workspace = np.empty(0, dtype=np.float32)

    def __call__(self, batch: RaggedBatch) -> Array:
        """The outcome for the batch, [tokens, size]."""
        tokens = batch.num_tokens
        lines = -(-tokens // _LINE) * _LINE
        if self._workspace.size < lines * self._width:
            self._workspace = np.empty(lines * self._width, dtype=np.float32)
        native = _cpu.Batch(
            tokens=tokens,
            rows=batch.num_rows,
            token_ids=address(batch.token_ids),
            positions=address(batch.positions),
            slots=address(batch.slots),
            query_starts=address(batch.query_starts),
            context_lens=address(batch.context_lens),
            page_table=address(batch.page_table),
            table_stride=batch.page_table.shape[1],
            adapters=0 if batch.adapters is None else address(batch.adapters),
            workspace=address(self._workspace),
        )
        for step in self._steps:
            if isinstance(step, _AllReduce):
                self._group.all_reduce(step.reduction, self._at(step.buffer, tokens, lines))
            else:
                step.run(self._runner, native)
        return self._at(self._outcome, tokens, lines)

    def _at(self, buffer: _Buffer, tokens: int, lines: int) -> Array:
        start = buffer.offset * lines
        return self._workspace[start : start + tokens * buffer.width].reshape(tokens, buffer.width)
