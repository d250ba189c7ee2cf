"""Matrices as the C++ kernels keep them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from flover import _cpu
from flover.errors import InvariantError, ModelError
from flover.ops import INPUTS_TOGETHER, Part, WeightFormat
from flover.ops.cpu_layout import address, floats

FORMATS: dict[WeightFormat, int] = {"float32": 0, "bfloat16": 1, "float16": 2, "int8": 3, "int4": 4}
BYTES_PER_WEIGHT: dict[WeightFormat, float] = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1, "int4": 0.625}
"""Of a large matrix; int4 counts its scales and offsets."""


class PackedWeight:
    """A matrix in panels of 16 outputs (csrc/weight.h)."""

    __slots__ = ("data", "format", "gated", "part", "shape")

    def __init__(
        self, shape: tuple[int, int], weight_format: WeightFormat, gated: bool, part: Part | None = None
    ) -> None:
        """Room for a matrix. Raises `MemoryError`."""
        together = INPUTS_TOGETHER.get(weight_format, 1)
        if part and any(end % together for end in (part.start, part.start + shape[1]) if end < part.whole):
            raise InvariantError(f"{weight_format} cannot be cut to {shape[1]} columns from {part.start} on")
        self.shape = shape
        self.part = part
        self.format = weight_format
        self.gated = gated
        self.data = _cpu.PackedWeight(FORMATS[weight_format], *shape, gated)

    @property
    def num_bytes(self) -> int:
        return self.data.bytes

    def store(self, first: int, rows: npt.NDArray[np.float32]) -> None:
        """Quantize and pack."""
        part = self.part or Part(0, self.shape[1])
        if rows.ndim != 2 or rows.shape[1] != part.whole:
            raise InvariantError(f"rows of shape {list(rows.shape)} do not fit a weight of {list(self.shape)}, {part}")
        packed = np.ascontiguousarray(rows, dtype=np.float32)
        try:
            self.data.store(first, len(packed), floats(packed), part.whole, part.start)
        except ValueError as error:
            raise ModelError(str(error)) from error

    def unpack(self) -> npt.NDArray[np.float32]:
        """The numbers that the kernels compute with, float32 [out, in]."""
        plain = np.empty(self.shape, dtype=np.float32)
        for index in range(self.shape[0]):
            self.data.row(index, address(plain[index]))
        return plain
