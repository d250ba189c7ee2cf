"""Matrices as the C++ kernels keep them."""

from __future__ import annotations

from typing import TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from flover import _cpu
from flover.errors import InvariantError, ModelError
from flover.ops import BLOCKS, Part, WeightFormat, joined
from flover.ops.cpu_layout import address, floats
from flover.weight_formats import inputs_together, rotation_of, segments_of

NUMBERS: dict[WeightFormat, int] = {"float32": 0, "bfloat16": 1, "float16": 2, "int8": 3, "int4": 4}
"""Formats that float32 numbers are stored to."""
FORMATS: dict[WeightFormat, int] = {name: index for index, name in enumerate(get_args(WeightFormat))}


class PackedWeight:
    """A matrix in panels of 16 outputs (csrc/weight.h)."""

    __slots__ = ("_order", "data", "format", "gated", "part", "rotation", "shape", "shared")

    def __init__(
        self, shape: tuple[int, int], weight_format: WeightFormat, gated: bool, part: Part | None = None
    ) -> None:
        """Room for a matrix. Raises `MemoryError`."""
        block = BLOCKS.get(weight_format)
        if block and shape[1] % block.inputs:
            raise InvariantError(f"{weight_format} has blocks of {block.inputs} inputs, the weight {shape[1]} inputs")
        together = inputs_together(weight_format, part.whole if part else shape[1])
        if part and any(end % together for end in (part.start, part.start + shape[1]) if end < part.whole):
            raise InvariantError(f"{weight_format} cannot be cut to {shape[1]} columns from {part.start} on")
        self.shape = shape
        self.part = part
        self.shared = part is not None and part.whole > shape[1]
        self.format = weight_format
        self.gated = gated
        self.rotation = rotation_of(weight_format, part.whole if part else shape[1])
        self._order: tuple[npt.NDArray[np.int32] | None] | None = None
        segments = segments_of(weight_format, part.whole, shape[1]) if part else 1
        self.data = _cpu.PackedWeight(FORMATS[weight_format], *shape, gated, self.rotation, segments)

    @property
    def num_bytes(self) -> int:
        return self.data.bytes

    def store(self, first: int, rows: npt.NDArray[np.float32]) -> None:
        """Quantize and pack."""
        part = self._whole()
        if self.format in BLOCKS:
            raise InvariantError(f"numbers are not quantized to {self.format}: it takes the blocks of a file")
        if rows.ndim != 2 or rows.shape[1] != part.whole:
            raise InvariantError(f"rows of shape {list(rows.shape)} do not fit a weight of {list(self.shape)}, {part}")
        packed = np.ascontiguousarray(rows, dtype=np.float32)
        try:
            self.data.store(first, len(packed), floats(packed), part.whole, part.start)
        except ValueError as error:
            raise ModelError(str(error)) from error

    def store_blocks(self, first: int, rows: npt.NDArray[np.uint8], order: npt.NDArray[np.int32] | None = None) -> None:
        """Pack the blocks of a file, exactly as they are."""
        part, block = self._whole(), BLOCKS.get(self.format)
        if block is None:
            raise InvariantError(f"a weight in {self.format} is not stored in blocks")
        if rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != block.row_bytes(part.whole):
            raise InvariantError(
                f"{rows.dtype} rows of shape {list(rows.shape)} are not those of a {self.format} weight of "
                f"{list(self.shape)}, {part}: {block.row_bytes(part.whole)} bytes each"
            )
        self._set_order(order)
        packed = np.ascontiguousarray(rows)
        try:
            self.data.store_blocks(first, len(packed), address(packed), part.whole, part.start)
        except ValueError as error:
            raise ModelError(str(error)) from error

    def _set_order(self, order: npt.NDArray[np.int32] | None) -> None:
        """The order of the inputs in all rows: that of the first ones that are stored."""
        if self._order is None:
            if order is not None:
                if self.shared or self.format == "fp8_e4m3":
                    raise ModelError("its inputs are in another order (g_idx), so ranks cannot share its columns")
                kept = np.ascontiguousarray(order, dtype=np.int32)
                self.data.set_order(address(kept))
            self._order = (order,)
        elif self._order[0] is not order and not np.array_equal(self._order[0], order):  # type: ignore[arg-type]
            raise ModelError("its inputs are in another order (g_idx) than those of matrices that are joined with it")

    def unpack(self) -> npt.NDArray[np.float32]:
        """The numbers that the kernels compute with, float32 [out, in]: int8 and int4 rotated (csrc/weight.h)."""
        plain = np.empty(self.shape, dtype=np.float32)
        for index in range(self.shape[0]):
            self.data.row(index, address(plain[index]))
        return plain

    def _whole(self) -> Part:
        return self.part or Part(0, self.shape[1])


class JoinedWeight(joined.JoinedWeight[PackedWeight]):
    """Packed matrices that are used as one."""

    __slots__ = ()

    def unpack(self) -> npt.NDArray[np.float32]:
        """The numbers that the kernels compute with, float32 [out, in]."""
        return np.concatenate([member.unpack() for member in self.members])


CpuWeight: TypeAlias = PackedWeight | JoinedWeight


def members_of(weight: CpuWeight) -> list[tuple[PackedWeight, int]]:
    """The matrices that make the weight, each with the place of its first output."""
    if isinstance(weight, JoinedWeight):
        return list(zip(weight.members, weight.starts, strict=True))
    return [(weight, 0)]
