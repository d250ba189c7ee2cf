"""From the CPU's panels of 16 outputs (csrc/weight.h, csrc/blocks.h) to numbers, scales and factors by output.

The CPU's kernels read a file's blocks, check them, and quantize; what they make is taken apart here, on the device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from flover.ops import WeightFormat

if TYPE_CHECKING:
    from flover.ops.cuda.quantized import Quantized

_PANEL, _LINE = 16, 64
_SCALE_BYTES = {"half": 2, "exponent": 1, "single": 4, "word": 4}
_TYPES = {"half": torch.float16, "exponent": torch.uint8, "single": torch.float32, "word": torch.int32}


class Pieces(NamedTuple):
    """Of every output: numbers [out, inputs] uint8 (8 bits: signed bytes, or those of a float), scales and offsets
    [out, records], and factors of scales, and of offsets, [out, blocks * parts]."""

    numbers: Tensor
    scales: Tensor
    offsets: Tensor | None = None
    factors: tuple[Tensor, ...] = ()


def take_apart(weight_format: WeightFormat, kind: Quantized, raw: Tensor, out: int, inputs: int) -> Pieces:
    """The memory of a weight that is not gated."""
    match weight_format:
        case "int8":
            return _int8(raw, out, inputs)
        case "int4":
            return _int4(raw, out, inputs)
        case _:
            return _blocks(kind, raw, out, inputs)


def _int8(raw: Tensor, out: int, inputs: int) -> Pieces:
    panels, steps = -(-out // _PANEL), -(-inputs // 4)
    data = raw[: panels * steps * _LINE].view(panels, steps, _PANEL, 4)
    scales = raw[data.numel() :][: panels * _PANEL * 4].view(torch.float32)
    return Pieces(_by_output(data.transpose(1, 2).flatten(2), out), scales[:out, None])


def _int4(raw: Tensor, out: int, inputs: int) -> Pieces:
    panels, blocks = -(-out // _PANEL), -(-inputs // 32)
    size = -(-blocks * 320 // _LINE) * _LINE
    record = raw[: panels * size].view(panels, size)[:, : blocks * 320].view(panels, blocks, 320)
    halves = record[..., :64].contiguous().view(torch.float16).view(panels, blocks, 2, _PANEL)
    shared = record[..., 64:].view(panels, blocks, 8, 8, 4)  # step, output, input
    numbers = torch.cat((shared & 15, shared >> 4), 3).permute(0, 3, 1, 2, 4).flatten(2)
    scales, offsets = (_by_output(halves[:, :, i].transpose(1, 2), out) for i in range(2))
    return Pieces(_by_output(numbers, out), scales, offsets)


def _blocks(kind: Quantized, raw: Tensor, out: int, inputs: int) -> Pieces:
    panels, records, blocks = -(-out // _PANEL), inputs // 32 // kind.record, inputs // 32
    scale_bytes = _PANEL * _SCALE_BYTES[kind.scale]
    head = scale_bytes + (2 * _PANEL if kind.offset else 0)
    kinds = {"none": 0, "both": 2}.get(kind.factors, 1)
    low, high = (2, kind.planes - 2) if kind.low == 0 else (kind.low, kind.planes)
    factor_bytes = kinds * kind.parts * _PANEL
    record_bytes = head + kind.record * (factor_bytes + (low + high) * _LINE)
    size = -(-records * record_bytes // _LINE) * _LINE
    record = raw.view(panels, size)[:, : records * record_bytes].view(panels, records, record_bytes)
    scales = record[..., :scale_bytes].contiguous().view(_TYPES[kind.scale]).transpose(1, 2)
    offsets = record[..., scale_bytes:head].contiguous().view(torch.float16).transpose(1, 2)
    steps = record[..., head:].reshape(panels, blocks, -1)
    factors = steps[..., :factor_bytes].unflatten(2, (kinds, kind.parts, _PANEL)) if kinds else None
    planes = steps[..., factor_bytes:]
    numbers = _bits(planes[..., : low * _LINE], low)
    if high:
        numbers = numbers | _bits(planes[..., low * _LINE :], high) << low
    if kind.low == 8 and kind.code == "same":
        numbers = numbers ^ 128
    return Pieces(
        _by_output(numbers, out),
        _by_output(scales, out),
        _by_output(offsets, out) if kind.offset else None,
        tuple(_by_output(factors[:, :, i].permute(0, 3, 1, 2).flatten(2), out) for i in range(kinds))
        if factors is not None
        else (),
    )


def _bits(planes: Tensor, bits: int) -> Tensor:
    """Numbers [panels, 16, inputs] of planes [panels, blocks, bytes] of so many bits."""
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=planes.device).view(-1, 1, 1)
    each: Tensor = planes.unflatten(2, (bits, 1, _PANEL, 4)) >> shifts & ((1 << bits) - 1)
    return each.permute(0, 4, 1, 2, 3, 5).flatten(2)


def _by_output(values: Tensor, out: int) -> Tensor:
    """[panels, 16, n] as [out, n]."""
    return values.reshape(-1, values.shape[2])[:out]
