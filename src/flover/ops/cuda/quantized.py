"""Quantized matrices as the GPU keeps them: one description of a format for all that stores, multiplies and looks up.

A weight is scale * (q - zero) + offset, as in csrc/blocks.h and csrc/weight.h. Inputs go in blocks of 32. All bytes of
a matrix lie in one piece of memory, section after section, the outputs of a block one after another, so that programs
read runs of it:

    numbers  [units, outputs, 32] bytes: numbers of 8 bits of a block, or of 4 bits of two, the first in the low halves
    planes   [blocks, planes, outputs] words: a further bit of all 32 numbers of a block
    scales   [records, outputs]: float16, float32, or the exponent of a power of two; for int8 one record
    offsets  [records, outputs] float16
    factors  [units, outputs] words: a byte for every 32 / parts inputs of the unit's blocks, in order, that belongs to
             the scale; where the offset has such too, it follows each
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from flover.errors import ModelError
from flover.ops import Part, WeightFormat
from flover.ops.cuda.panels import Pieces, take_apart
from flover.ops.cuda.weight import zeros
from flover.weight_formats import rotation_of

if TYPE_CHECKING:
    from flover.ops.cpu_weight import PackedWeight

BLOCK = 32
"""Inputs whose activations share a scale."""
_MOST_NUMBERS = 2**33
"""Of a matrix: kernels count words of four bytes in 32 bits."""
_ALIGNMENT = 16
"""Outputs are padded to a multiple of so many: every section and every row of it begins at 16 bytes."""


class Quantized(NamedTuple):
    """A format. `low` bits of a number lie in bytes and `planes` in words; `record` blocks share scale and offset."""

    low: int
    planes: int = 0
    zero: int = 0
    record: int = 1
    parts: int = 1
    scale: str = "half"  # exponent, single; word: float32 whose lowest byte is what stands for zero; row: of an output
    offset: bool = False
    factors: str = "none"  # scale, both; nibbles: of the scale in the low half, of the offset in the high one
    code: str = "same"  # iq4, fp4, fp8: what the bits of a number stand for

    @property
    def together(self) -> int:
        """Blocks of a unit: those whose numbers share bytes, or whose factors share a word."""
        return 1 if self.low == 8 else 2


QUANTIZED: Mapping[WeightFormat, Quantized] = {
    "int8": Quantized(8, record=1 << 30, scale="row"),
    "int4": Quantized(4, offset=True),
    "q8_0": Quantized(8),
    "q4_0": Quantized(4, zero=8),
    "q4_1": Quantized(4, offset=True),
    "q5_0": Quantized(4, 1, zero=16),
    "q5_1": Quantized(4, 1, offset=True),
    "q2_k": Quantized(0, 2, record=8, parts=2, offset=True, factors="nibbles"),
    "q3_k": Quantized(0, 3, zero=4, record=8, parts=2, factors="scale"),
    "q4_k": Quantized(4, record=8, offset=True, factors="both"),
    "q5_k": Quantized(4, 1, record=8, offset=True, factors="both"),
    "q6_k": Quantized(4, 2, zero=32, record=8, parts=2, factors="scale"),
    "iq4_nl": Quantized(4, code="iq4"),
    "iq4_xs": Quantized(4, record=8, factors="scale", code="iq4"),
    "mxfp4": Quantized(4, scale="exponent", code="fp4"),
    "int4_g32": Quantized(4, scale="word"),
    "int4_g64": Quantized(4, record=2, scale="word"),
    "int4_g128": Quantized(4, record=4, scale="word"),
    "int8_g32": Quantized(8, scale="single"),
    "int8_g64": Quantized(8, record=2, scale="single"),
    "fp8_e4m3": Quantized(8, record=2, scale="single", code="fp8"),
}
SCALES: Mapping[str, torch.dtype] = {
    "half": torch.float16,
    "exponent": torch.uint8,
    "single": torch.float32,
    "word": torch.int32,
    "row": torch.float32,
}


class Sections(NamedTuple):
    """Where the sections behind the numbers begin."""

    planes: int
    scales: int
    offsets: int
    factors: int
    end: int


def sections_of(kind: Quantized, stride: int, blocks: int) -> Sections:
    """Of a matrix of so many padded outputs and blocks of inputs."""
    records = -(-blocks // kind.record)
    of_an_output = (
        blocks * kind.low * BLOCK // 8,
        blocks * kind.planes * 4,
        records * SCALES[kind.scale].itemsize,
        records * 2 * kind.offset,
        0 if kind.factors == "none" else blocks // kind.together * 4,
    )
    return Sections(*accumulate(size * stride for size in of_an_output))


class QuantizedWeight:
    """A matrix [out, in] in a quantized format. What it gives where its rows are looked up is of type `activations`;
    with `fp8_activations` (of fp8_e4m3) its products take activations in FP8."""

    __slots__ = ("_order", "activations", "blocks", "data", "format", "fp8_activations", "gated", "order", "part",
                 "rotation", "segments", "shape", "stride")  # fmt: skip

    def __init__(
        self,
        device: torch.device,
        activations: torch.dtype,
        shape: tuple[int, int],
        weight_format: WeightFormat,
        gated: bool,
        part: Part | None,
        fp8_activations: bool = False,
        segments: int = 1,
    ) -> None:
        """Room for a matrix. Raises `MemoryError`, `ModelError`."""
        self.shape, self.format, self.gated, self.part = shape, weight_format, gated, part
        self.activations, self.fp8_activations = activations, fp8_activations
        self.segments = segments
        self.rotation = rotation_of(weight_format, part.whole if part else shape[1])
        kind = self.kind
        self.blocks = -(-shape[1] // (BLOCK * kind.together)) * kind.together
        self.stride = -(-shape[0] // _ALIGNMENT) * _ALIGNMENT
        if self.stride * self.blocks * BLOCK >= _MOST_NUMBERS:
            raise ModelError(f"a matrix of {shape[0]} by {shape[1]} in {weight_format} is too large: 2^33 numbers")
        self.data = zeros((sections_of(kind, self.stride, self.blocks).end,), torch.uint8, device)
        self.order: Tensor | None = None
        self._order: tuple[npt.NDArray[np.int32] | None] | None = None

    @property
    def kind(self) -> Quantized:
        """The description of its format."""
        return QUANTIZED[self.format]

    @property
    def sections(self) -> Sections:
        """Where they begin."""
        return sections_of(self.kind, self.stride, self.blocks)

    @property
    def num_bytes(self) -> int:
        return self.data.nbytes

    def store(self, first: int, rows: npt.NDArray[np.float32]) -> None:
        """Quantize as the CPU does, and keep it in the GPU's layout."""
        packed = self._packed(len(rows))
        packed.store(0, rows)
        self._keep(first, packed)

    def store_blocks(self, first: int, rows: npt.NDArray[np.uint8], order: npt.NDArray[np.int32] | None = None) -> None:
        """Keep the blocks of a file, exactly as they are."""
        packed = self._packed(len(rows))
        packed.store_blocks(0, rows, order)
        if self._order is None:
            self._order = (order,)
            if order is not None:
                self.order = torch.from_numpy(order.astype(np.int32)).to(self.data.device)
        elif self._order[0] is not order and not np.array_equal(self._order[0], order):  # type: ignore[arg-type]
            raise ModelError("its inputs are in another order (g_idx) than those of matrices that are joined with it")
        self._keep(first, packed)

    def _packed(self, count: int) -> PackedWeight:
        """Room for so many rows as the CPU has them."""
        from flover.ops.cpu_weight import PackedWeight  # compiled: models that are not quantized do without

        return PackedWeight((count, self.shape[1]), self.format, False, self.part)

    def _keep(self, first: int, packed: PackedWeight) -> None:
        raw = torch.frombuffer(bytearray(packed.data.packed()), dtype=torch.uint8).to(self.data.device)
        rows, pieces = slice(first, first + packed.shape[0]), take_apart(self.format, self.kind, raw, *packed.shape)
        kind, at, blocks = self.kind, self.sections, self.blocks
        numbers = torch.zeros((packed.shape[0], blocks, BLOCK), dtype=torch.uint8, device=raw.device)
        numbers.view(len(numbers), -1)[:, : pieces.numbers.shape[1]] = pieces.numbers
        low = numbers[:, 0::2] & 15 | numbers[:, 1::2] << 4 if kind.low == 4 else numbers
        if kind.low:
            section = self.data[: at.planes].view(-1, self.stride, BLOCK)
            section[:, rows] = low.transpose(0, 1)
        if kind.planes:
            shifts = torch.arange(kind.low, kind.low + kind.planes, dtype=torch.uint8, device=raw.device)
            bits = (numbers[:, :, None] >> shifts[:, None] & 1).long() << torch.arange(BLOCK, device=raw.device)
            self._rows(at.planes, torch.int32, bits.sum(-1).int().flatten(1), rows)
        self._keep_scales(rows, pieces)

    def _keep_scales(self, rows: slice, pieces: Pieces) -> None:
        at, kind = self.sections, self.kind
        self._rows(at.scales, SCALES[kind.scale], pieces.scales, rows)
        if pieces.offsets is not None:
            self._rows(at.offsets, torch.float16, pieces.offsets, rows)
        if pieces.factors:
            each = torch.stack(pieces.factors, -1).flatten(1)
            words = torch.zeros((len(each), self.blocks // kind.together, 4), dtype=torch.uint8, device=each.device)
            words[..., : each.shape[1] // words.shape[1]] = each.unflatten(1, (words.shape[1], -1))
            self._rows(at.factors, torch.int32, words.view(torch.int32).squeeze(-1), rows)

    def _rows(self, start: int, dtype: torch.dtype, values: Tensor, rows: slice) -> None:
        """Numbers [rows, n] into a section [n, outputs]."""
        flat = self.data[start : start + values.shape[1] * self.stride * dtype.itemsize]
        flat.view(dtype).view(-1, self.stride)[:, rows] = values.T
