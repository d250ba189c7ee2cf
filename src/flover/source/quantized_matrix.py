"""Rows of a quantized matrix, read from the tensors that it lies in (`quantized.py`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from flover.errors import ModelError
from flover.source import TensorInfo
from flover.source.numbers import forget, widen
from flover.source.quantization import Scheme
from flover.source.quantized_blocks import (
    INT4_ZERO,
    INT8_ZERO,
    Bytes,
    by_output_of_awq,
    bytes_of,
    joined_halves,
    mxfp4_blocks,
    order_of,
    reordered,
    rows_at_once,
    scale_words,
    to_blocks,
    zeros_of,
)
from flover.weight_formats import BLOCKS, WeightFormat

Array: TypeAlias = npt.NDArray[Any]
Get: TypeAlias = Callable[[TensorInfo], Array]
"""Gives a tensor as it lies in its file."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """`info` is the matrix as a reader sees it, [out, in] in blocks. `shared`: inputs that have a scale in common."""

    info: TensorInfo
    scheme: Scheme
    numbers: TensorInfo
    scales: TensorInfo
    zeros: TensorInfo | None
    groups: TensorInfo | None
    shared: int

    def order(self, get: Get) -> npt.NDArray[np.int32] | None:
        """The inputs in the order in which the blocks have them; None: in their own."""
        if self.groups is None:
            return None
        count = self.info.shape[1] // self.shared
        order = order_of(get(self.groups), count)
        if order is None:
            raise ModelError(
                f"{self.groups.file}: {self.groups.name} does not put {self.shared} inputs into each of {count} groups"
            )
        return None if (order == np.arange(len(order))).all() else order

    def read(self, get: Get) -> Bytes:
        """All rows, [out, bytes of a row], or those of all experts, [experts, out, bytes of a row]."""
        if len(self.info.shape) == 3:
            experts, out_size, in_size = self.info.shape
            found = np.empty((experts, out_size, BLOCKS["mxfp4"].row_bytes(in_size)), dtype=np.uint8)
            for expert, (numbers, scales) in enumerate(zip(get(self.numbers), get(self.scales), strict=True)):
                found[expert] = mxfp4_blocks(numbers.reshape(out_size, -1), scales)
            return found
        if self.info.dtype == "mxfp4":
            return mxfp4_blocks(get(self.numbers), get(self.scales))
        numbers, order = get(self.numbers), self.order(get)
        scales, zeros = self._scales(widen(get(self.scales))), None
        if self.zeros is not None:
            zeros = self._zeros(get(self.zeros))
        out_size, step = self.info.shape[0], rows_at_once(self.info.shape)
        weight_format = cast(WeightFormat, self.info.dtype)
        blocks = np.empty((out_size, BLOCKS[weight_format].row_bytes(self.info.shape[1])), dtype=np.uint8)
        for first in range(0, out_size, step):
            rows = slice(first, min(first + step, out_size))
            packed = self._rows(numbers, rows)
            if order is not None:
                packed = reordered(packed, self.scheme.bits, order)
            words = scale_words(scales[rows], None if self.scheme.bits == 8 else _rows_of(zeros, scales, rows))
            if words is None:
                raise ModelError(
                    f"{self.scales.file}: {self.scales.name} has scales that need more than the 16 bits of float16 or "
                    "bfloat16; for 4 bits these are not supported"
                )
            blocks[rows] = to_blocks(words, self.shared, packed, weight_format)
        forget(numbers)
        return blocks

    def _rows(self, numbers: Array, rows: slice) -> Bytes:
        """Rows of the matrix as bytes, inputs in order."""
        match self.scheme.packing:
            case "gptq":
                packed = bytes_of(numbers[:, rows].T)
            case "awq":
                packed = joined_halves(by_output_of_awq(numbers[:, rows.start // 8 : rows.stop // 8]).T)
            case _:
                packed = bytes_of(numbers[rows])
        unsigned = self.scheme.bits == 8 and self.scheme.packing in ("gptq", "pack-quantized")
        return packed ^ np.uint8(INT8_ZERO) if unsigned else packed

    def _scales(self, scales: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """By output, [out, groups]."""
        out_size = self.info.shape[0]
        if self.scheme.packing in ("gptq", "awq"):
            return scales.T
        if self.scheme.block is not None:
            return np.repeat(scales, self.scheme.block[0], axis=0)[:out_size]
        rows = scales.reshape(-1, 1) if scales.ndim < 2 else scales
        return np.broadcast_to(rows, (out_size, rows.shape[1]))

    def _zeros(self, words: Array) -> Bytes:
        """By output, [out, groups]."""
        assert self.zeros is not None
        match self.scheme.packing:
            case "awq":
                return by_output_of_awq(words).T
            case "pack-quantized":
                words = words.T
        zeros = zeros_of(words, self.scheme.bits, plus_one=self.scheme.plus_one).T[: self.info.shape[0]]
        if self.scheme.bits == 8 and (zeros != INT8_ZERO).any():
            raise ModelError(
                f"{self.zeros.file}: {self.zeros.name} has zero points other than {INT8_ZERO}, which are not supported "
                "for 8 bits"
            )
        return zeros


def _rows_of(zeros: Bytes | None, scales: npt.NDArray[np.float32], rows: slice) -> Bytes:
    """Zero points of 4 bits; without any, those of symmetric weights."""
    return np.full(scales[rows].shape, INT4_ZERO, dtype=np.uint8) if zeros is None else zeros[rows]
