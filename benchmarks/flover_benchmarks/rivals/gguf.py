"""Writes GGUF files: a header, key/value metadata, a list of tensors, their bytes.

Source: `docs/gguf.md` of ggml, version 3, little-endian. Tensors are made and written one at a time.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flover_benchmarks.rivals.quants import KINDS, Floats, fits, pack_rows

MAGIC, VERSION, ALIGNMENT = b"GGUF", 3, 32
_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9
Facts = dict[str, bool | int | float | str | list[int] | list[float] | list[str]]
"""Metadata by key. An int is written as a uint32, in a list as an int32; a float as a float32."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor to write: name, shape in torch's order, format, and a function that returns its values."""

    name: str
    shape: tuple[int, ...]
    kind: str
    read: Callable[[], Floats]

    def __post_init__(self) -> None:
        assert fits(self.kind, self.shape[-1]), (self.name, self.kind, self.shape)

    @property
    def num_bytes(self) -> int:
        form, count = KINDS[self.kind], 1
        for length in self.shape:
            count *= length
        return count // form.block * form.size


def write_gguf(path: Path, facts: Facts, tensors: Sequence[Tensor]) -> None:
    """Write the file."""
    with path.open("wb") as file:
        file.write(MAGIC + struct.pack("<IQQ", VERSION, len(tensors), len(facts)))
        for key, value in facts.items():
            file.write(_text(key) + _value(value))
        offset = 0
        for tensor in tensors:
            dims = tuple(reversed(tensor.shape))  # ggml names the innermost dimension first
            file.write(_text(tensor.name) + struct.pack(f"<I{len(dims)}Q", len(dims), *dims))
            file.write(struct.pack("<IQ", KINDS[tensor.kind].number, offset))
            offset += _padded(tensor.num_bytes)
        file.write(bytes(_padded(file.tell()) - file.tell()))
        for tensor in tensors:
            numbers = tensor.read()
            assert numbers.shape == tensor.shape, (tensor.name, numbers.shape, tensor.shape)
            packed = pack_rows(tensor.kind, numbers)
            assert packed.nbytes == tensor.num_bytes
            file.write(packed.data)
            file.write(bytes(_padded(packed.nbytes) - packed.nbytes))


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value: Any) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<I?", _BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", _UINT32, value)
    if isinstance(value, float):
        return struct.pack("<If", _FLOAT32, value)
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _text(value)
    return struct.pack("<I", _ARRAY) + _array(value)


def _array(values: list[Any]) -> bytes:
    if isinstance(values[0], str):
        return struct.pack("<IQ", _STRING, len(values)) + b"".join(map(_text, values))
    number, code = (_FLOAT32, "f") if isinstance(values[0], float) else (_INT32, "i")
    return struct.pack(f"<IQ{len(values)}{code}", number, len(values), *values)
