"""The GGUF quantization formats that the benchmark writes, in numpy.

Sources: llama.cpp, `ggml/src/ggml-common.h` (block layouts) and `ggml/src/ggml-quants.c` (reference
quantizers). A tensor is packed row by row; a row is divided into blocks of `KINDS[kind].block` values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
_Q4_SUBBLOCK, _Q6_SUBBLOCK = 32, 16


@dataclass(frozen=True, slots=True)
class QuantFormat:
    """A format: ggml's type number, values and bytes per block, and the packing function.

    `pack` maps float32 [blocks, block] to bytes [blocks, size].
    """

    number: int
    block: int
    size: int
    pack: Callable[[Floats], Bytes]


def pack_rows(kind: str, rows: Floats) -> Bytes:
    """The bytes of a matrix [rows, columns], or of a vector, in a format; columns must be whole blocks."""
    form = KINDS[kind]
    assert rows.shape[-1] % form.block == 0, (kind, rows.shape)
    return form.pack(np.ascontiguousarray(rows, dtype=np.float32).reshape(-1, form.block)).reshape(-1)


def fits(kind: str, columns: int) -> bool:
    """Whether a row of `columns` values is a whole number of blocks."""
    return columns % KINDS[kind].block == 0


def _plain(dtype: str) -> Callable[[Floats], Bytes]:
    return lambda blocks: blocks.astype(dtype).view(np.uint8)


def _bf16(blocks: Floats) -> Bytes:
    """Round to nearest even, as a bfloat16 is the upper half of a float32; no NaN comes here."""
    bits = blocks.view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return (rounded >> np.uint32(16)).astype("<u2").view(np.uint8)


def _q8_0(blocks: Floats) -> Bytes:
    """A scale and 32 signed bytes: x = scale * q."""
    scale = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
    steps = blocks * _inverse(scale)
    size = np.floor(np.abs(steps))
    size += np.abs(steps) - size >= 0.5  # halves are rounded away from zero
    q = np.copysign(size, steps).astype(np.int8)
    return np.concatenate([_half(scale), q.view(np.uint8)], axis=1)


def _q4_0(blocks: Floats) -> Bytes:
    """A scale and 32 numbers of 4 bits: x = scale * (q - 8); the number farthest from zero becomes exactly q = 0.

    Byte i holds number i in its low half and number i + 16 in its high half.
    """
    farthest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1, keepdims=True), axis=1)
    scale = farthest / np.float32(-8)
    q = np.trunc(blocks * _inverse(scale) + np.float32(8.5)).clip(0, 15).astype(np.uint8)
    return np.concatenate([_half(scale), q[:, :16] | (q[:, 16:] << 4)], axis=1)


def _q4_k(blocks: Floats) -> Bytes:
    """256 numbers of 4 bits in 8 parts: x = scale * part's 6 bits * q - offset * part's other 6 bits.

    llama.cpp searches for the part's scale and offset with the least error; this takes the smallest and the largest
    number's. Layout of every 64 numbers: 32 bytes with number i in the low half and i + 32 in the high half.
    """
    count = len(blocks)
    parts = blocks.reshape(count, -1, _Q4_SUBBLOCK)
    least = np.minimum(parts.min(axis=2), 0)
    wanted = np.stack([(parts.max(axis=2) - least) / np.float32(15), -least])  # scale and offset of each part
    steps = (wanted.max(axis=2, keepdims=True) / np.float32(63)).astype(np.float16).astype(np.float32)
    six = np.rint(wanted * _inverse(steps)).clip(0, 63)
    scale, offset = (six * steps)[:, :, :, None]
    q = np.rint((parts + offset) * _inverse(scale)).clip(0, 15).astype(np.uint8).reshape(count, 4, 2, 32)
    low = six[:, :, :4].astype(np.uint8)
    high = six[:, :, 4:].astype(np.uint8)
    halves = (high[0] & 15) | ((high[1] & 15) << 4)
    bits = [low[0] | ((high[0] >> 4) << 6), low[1] | ((high[1] >> 4) << 6), halves]
    flat = [_half(steps[0]), _half(steps[1]), *bits, (q[:, :, 0] | (q[:, :, 1] << 4)).reshape(count, -1)]
    return np.concatenate(flat, axis=1)


def _q6_k(blocks: Floats) -> Bytes:
    """256 numbers of 6 bits in 16 parts: x = scale * part's signed byte * (q - 32).

    llama.cpp searches for the part's scale with the least error; this takes the largest number's. Layout of a half of
    128 numbers: 64 bytes with the low 4 bits of numbers i and i + 64, 32 bytes with the high 2 bits of i, i + 32,
    i + 64 and i + 96.
    """
    count = len(blocks)
    parts = blocks.reshape(count, -1, _Q6_SUBBLOCK)
    farthest = np.take_along_axis(parts, np.abs(parts).argmax(axis=2, keepdims=True), axis=2)[:, :, 0]
    wanted = farthest / np.float32(-32)
    largest = np.take_along_axis(wanted, np.abs(wanted).argmax(axis=1, keepdims=True), axis=1)
    scale = (largest / np.float32(-128)).astype(np.float16).astype(np.float32)
    part_scales = np.rint(wanted * _inverse(scale)).clip(-128, 127).astype(np.int8)
    steps = parts * _inverse(scale * part_scales)[:, :, None]
    q = (np.rint(steps).clip(-32, 31) + 32).astype(np.uint8).reshape(count, 2, 4, 32)
    low = (q[:, :, :2] & 15) | ((q[:, :, 2:] & 15) << 4)
    high = q >> 4
    high = high[:, :, 0] | (high[:, :, 1] << 2) | (high[:, :, 2] << 4) | (high[:, :, 3] << 6)
    flat = [low.reshape(count, -1), high.reshape(count, -1), part_scales.view(np.uint8), _half(scale)]
    return np.concatenate(flat, axis=1)


def _inverse(scale: Floats) -> Floats:
    """1 / scale, and 0 where the scale is."""
    return np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale != 0)


def _half(scale: Floats) -> Bytes:
    return scale.astype("<f2").view(np.uint8)


KINDS = {
    "f32": QuantFormat(0, 1, 4, _plain("<f4")),
    "f16": QuantFormat(1, 1, 2, _plain("<f2")),
    "bf16": QuantFormat(30, 1, 2, _bf16),
    "q4_0": QuantFormat(2, 32, 18, _q4_0),
    "q8_0": QuantFormat(8, 32, 34, _q8_0),
    "q4_k": QuantFormat(12, 256, 144, _q4_k),
    "q6_k": QuantFormat(14, 256, 210, _q6_k),
}
"""By name."""
