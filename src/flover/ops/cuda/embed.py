"""Rows of a table: embeddings, and the hidden states whose logits are asked for."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from flover.errors import InvariantError
from flover.ops.cuda.blocks import numbers_of, scale_of, words_of
from flover.ops.cuda.launch import OPTIONS
from flover.ops.cuda.matrices import Matrix
from flover.ops.cuda.quantize import rotation_factor
from flover.ops.cuda.quantized import QuantizedWeight
from flover.ops.cuda.rotated import rotated

_BLOCK = 1024


@triton.jit
def gather_kernel(ids, table, y, size, factor, BLOCK: tl.constexpr):
    """y[row] = factor * table[ids[row]]."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < size
    values = tl.load(table + tl.load(ids + row).to(tl.int64) * size + column, inside)
    tl.store(y + row * size + column, values.to(tl.float32) * factor, inside)


def gather_rows(table: Tensor, ids: Tensor, factor: float = 1.0) -> Tensor:
    """factor * table[ids], [T, H]."""
    rows, size = len(ids), table.shape[1]
    y = torch.empty((rows, size), dtype=table.dtype, device=table.device)
    if rows:
        gather_kernel[(rows, triton.cdiv(size, _BLOCK))](ids, table, y, size, float(factor), _BLOCK, **OPTIONS)
    return y


@triton.jit
def unpack_kernel(ids, weight, at, y, inputs, stride, blocks, back, factor, FORMAT: tl.constexpr, ROUNDS: tl.constexpr):
    """256 inputs of y[row] = factor * row ids[row] of a quantized matrix, rotated back."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * 256 + tl.arange(0, 256)
    out = tl.load(ids + row).to(tl.int32)
    together: tl.constexpr = 1 if FORMAT.low == 8 else 2
    block, word = tl.program_id(1) * 8 + tl.arange(0, 8)[:, None], tl.arange(0, 8)[None, :]
    words = words_of(weight, at, block // together, block % together, out, word, block < blocks, stride, FORMAT)
    number = tl.reshape(numbers_of(words, FORMAT, 8), [256])
    block, place = column // 32, column % 32
    record, unit, half, real = block // FORMAT.record, block // together, block % together, block < blocks
    scale, offset = scale_of(weight, at, record, unit, half, 0, out, real, stride, FORMAT)
    if FORMAT.parts == 2:
        second, second_offset = scale_of(weight, at, record, unit, half, 1, out, real, stride, FORMAT)
        scale, offset = tl.where(place < 16, scale, second), tl.where(place < 16, offset, second_offset)
    value = number.to(tl.float32) * scale
    if FORMAT.offset or FORMAT.scale == "word":
        value += offset
    value = rotated(tl.where(column < inputs, value, 0.0), 256, ROUNDS) * back
    tl.store(y + row * inputs + column, value * factor, column < inputs)


def _unpacked(ids: Tensor, table: QuantizedWeight, factor: float) -> Tensor:
    rows, inputs = len(ids), table.shape[1]
    y = torch.empty((rows, inputs), dtype=table.activations, device=table.data.device)
    if rows:
        back, rounds = rotation_factor(table.rotation), table.rotation.bit_length() - 1
        unpack_kernel[(rows, triton.cdiv(inputs, 256))](
            ids, table.data, tuple(table.sections), y, inputs, table.stride, table.blocks, back, float(factor),
            table.kind, rounds, num_warps=2, **OPTIONS,
        )  # fmt: skip
    return y


def embed(ids: Tensor, table: Matrix, factor: float) -> Tensor:
    """Rows of the table, times the factor."""
    if isinstance(table, QuantizedWeight):
        if table.order is not None:
            raise InvariantError("no file has an embedding whose inputs are in another order")
        return _unpacked(ids, table, factor)
    return gather_rows(table.data, ids, factor)
