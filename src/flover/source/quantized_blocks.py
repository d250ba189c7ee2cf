"""Rows of quantized matrices as blocks: a scale of 32 bits, then the numbers of the inputs that share it, in order.

int4: two numbers in a byte, the first one in the low half; the lowest byte of the scale's float32 is not part of it but
the integer that stands for zero. int8: signed bytes. fp8_e4m3: the bytes of the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from flover.weight_formats import BLOCKS, WeightFormat

Bytes = npt.NDArray[np.uint8]
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of eight outputs lies where in a word of AWQ, from the lowest bits on."""
INT4_ZERO, INT8_ZERO = 8, 128
"""What stands for zero in symmetric weights."""
_FORMATS: dict[int, tuple[WeightFormat, ...]] = {4: ("int4_g128", "int4_g64", "int4_g32"), 8: ("int8_g64", "int8_g32")}


def integer_format(bits: int, shared: int) -> WeightFormat | None:
    """The format whose blocks are the largest part of `shared` inputs that have a scale in common; None if none is."""
    return next((name for name in _FORMATS[bits] if shared % BLOCKS[name].inputs == 0), None)


def bytes_of(words: npt.NDArray[Any]) -> Bytes:
    """The bytes of the last axis: on the machines that are supported the lowest bits come first."""
    return np.ascontiguousarray(words).view(np.uint8)


def halves_of(packed: Bytes) -> Bytes:
    """Numbers of 4 bits, the low half of every byte first."""
    numbers = np.empty((*packed.shape[:-1], 2 * packed.shape[-1]), dtype=np.uint8)
    numbers[..., 0::2] = packed & 15
    numbers[..., 1::2] = packed >> 4
    return numbers


def joined_halves(numbers: Bytes) -> Bytes:
    """Two numbers of 4 bits in a byte, the first one in the low half."""
    return numbers[..., 0::2] | np.left_shift(numbers[..., 1::2], 4, dtype=np.uint8)


def by_output_of_awq(words: npt.NDArray[np.int32]) -> Bytes:
    """The numbers of words that hold eight outputs each, [rows, outputs]."""
    stored = halves_of(bytes_of(words)).reshape(len(words), -1, 8)
    numbers = np.empty_like(stored)
    numbers[..., AWQ_ORDER] = stored
    return numbers.reshape(len(words), -1)


def zeros_of(words: npt.NDArray[np.int32], bits: int, *, plus_one: bool) -> Bytes:
    """Zero points of words along the outputs, [groups, outputs]. `plus_one`: 1 is added to each, with its carry into
    the next one, which undoes how they were made."""
    if plus_one:
        ones = sum(1 << start for start in range(0, 32, bits))
        words = (np.ascontiguousarray(words).view(np.uint32) + np.uint32(ones)).view(np.int32)
    packed = bytes_of(words)
    return halves_of(packed) if bits == 4 else packed


def reordered(numbers: Bytes, bits: int, order: npt.NDArray[np.int32]) -> Bytes:
    """Rows of packed numbers with their inputs in another order."""
    return joined_halves(halves_of(numbers)[:, order]) if bits == 4 else numbers[:, order]


def scale_words(scales: npt.NDArray[np.float32], zeros: Bytes | None) -> npt.NDArray[np.uint32] | None:
    """Scales, and zeros in their lowest byte; None if a scale has bits there."""
    words = np.ascontiguousarray(scales).view(np.uint32)
    if zeros is None:
        return words
    return None if (words & 255).any() else words | zeros


def to_blocks(words: npt.NDArray[np.uint32], shared: int, numbers: Bytes, weight_format: WeightFormat) -> Bytes:
    """Rows of a matrix, [rows, bytes]. `words` [rows, groups] have a scale for each `shared` inputs, of which the last
    group may have fewer; `numbers` are packed."""
    block = BLOCKS[weight_format]
    size = block.num_bytes - 4
    rows, count = len(numbers), numbers.shape[1] // size
    blocks = np.empty((rows, count, block.num_bytes), dtype=np.uint8)
    each = np.repeat(words, shared // block.inputs, axis=1)[:, :count]
    blocks[..., :4] = bytes_of(each).reshape(rows, count, 4)
    blocks[..., 4:] = numbers.reshape(rows, count, size)
    return blocks.reshape(rows, -1)


def mxfp4_blocks(numbers: Bytes, scales: Bytes) -> Bytes:
    """Rows of a matrix in GGUF's blocks: a scale, and 16 bytes whose low halves are the first 16 numbers. `numbers`
    [rows, in / 2] have two in a byte, the first one in the low half; `scales` are [rows, in / 32]."""
    each = halves_of(numbers).reshape(*scales.shape, 2, 16)
    blocks = np.empty((*scales.shape, BLOCKS["mxfp4"].num_bytes), dtype=np.uint8)
    blocks[..., 0] = scales
    blocks[..., 1:] = each[..., 0, :] | np.left_shift(each[..., 1, :], 4, dtype=np.uint8)
    return blocks.reshape(len(scales), -1)


def order_of(groups: npt.NDArray[Any], num_groups: int) -> npt.NDArray[np.int32] | None:
    """The inputs sorted by the group that each belongs to; None if groups are not all of one size."""
    if groups.min() < 0 or groups.max() >= num_groups:
        return None
    sizes = np.bincount(groups, minlength=num_groups)
    return np.argsort(groups, kind="stable").astype(np.int32) if (sizes == sizes[0]).all() else None


def rows_at_once(shape: Sequence[int]) -> int:
    """How many rows of a matrix are converted at once: about four million numbers, whole words of outputs."""
    return max(8, (2**22 // shape[1]) // 8 * 8)
