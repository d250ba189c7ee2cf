"""A forward pass as one call: the operations are recorded once and run again by the kernels' own code.

Recording runs the decoder on one token with a `Recorder` in the place of the kernels: it notes which operation reads
and writes which buffer. A buffer is needed from the operation that first uses it to the last one that does; buffers
that are never needed at the same time share memory in one workspace, which is laid out for the tokens of each run.
Where ranks reduce, one program ends and the next one begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flover import _cpu
from flover.errors import InvariantError
from flover.ops import Group, RaggedBatch, Reduction

_LINE = 16
"""Tokens that a workspace is rounded up to: whole cache lines of float32."""


@dataclass(slots=True)
class _Buffer:
    """`width` floats per token, used from the operation `first` to the operation `last`; from `finish` on it lies
    `offset` floats per token into the workspace."""

    tensor: Tensor  # kept, so that its address stays its own
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


class Recorder:
    """Takes the operations of a forward on one token instead of `_cpu.KernelRunner`, and computes nothing."""

    def __init__(self, example: RaggedBatch, constants: Sequence[Tensor]) -> None:
        self._inputs = {
            getattr(example, name).data_ptr(): _cpu.input(index)
            for index, name in enumerate(_cpu.Batch.pointers)
            if name != "workspace"
        }
        self._constants = {0, *(tensor.data_ptr() for tensor in constants)}
        self._buffers: dict[int, _Buffer] = {}
        self._recorded: list[_cpu.Op | _AllReduce] = []

    def new(self, shape: tuple[int, ...]) -> Tensor:
        """A buffer for one token."""
        tensor = torch.zeros(shape)
        self._buffers[tensor.data_ptr()] = _Buffer(tensor, tensor.numel())
        return tensor

    def run(self, op: _cpu.Op) -> None:
        """Note an operation; what comes from the batch becomes a reference to the batch of each run."""
        for name in op.pointers:
            address = op.get(name)
            if address in self._buffers:
                self._buffers[address].used(len(self._recorded))
            elif address in self._inputs:
                op.set(name, self._inputs[address])
            elif address not in self._constants:
                raise InvariantError(f"{type(op).__name__}.{name} is a tensor that no recorded operation has made")
        self._recorded.append(op)

    def all_reduce(self, reduction: Reduction, address: int) -> None:
        """Note that all ranks reduce what each has in this buffer."""
        buffer = self._buffers[address]
        buffer.used(len(self._recorded))
        self._recorded.append(_AllReduce(reduction, buffer))

    def finish(self, runner: _cpu.KernelRunner, group: Group, result: Tensor) -> ForwardProgram:
        """The program whose outcome is `result`, a buffer [1, size]."""
        outcome = self._buffers[result.data_ptr()]
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
        return ForwardProgram(runner, group, steps, width, outcome)


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
    ) -> None:
        self._runner = runner
        self._group = group
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
        native = _cpu.Batch(
            tokens=tokens,
            rows=batch.num_rows,
            token_ids=batch.token_ids.data_ptr(),
            positions=batch.positions.data_ptr(),
            slots=batch.slots.data_ptr(),
            query_starts=batch.query_starts.data_ptr(),
            context_lens=batch.context_lens.data_ptr(),
            page_table=batch.page_table.data_ptr(),
            table_stride=batch.page_table.shape[1],
            workspace=self._workspace.data_ptr(),
        )
        for step in self._steps:
            if isinstance(step, _AllReduce):
                self._group.all_reduce(step.reduction, self._at(step.buffer, tokens, lines))
            else:
                step.run(self._runner, native)
        return self._at(self._outcome, tokens, lines)

    def _at(self, buffer: _Buffer, tokens: int, lines: int) -> Tensor:
        start = buffer.offset * lines
        return self._workspace[start : start + tokens * buffer.width].view(tokens, buffer.width)
