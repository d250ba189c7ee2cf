"""The header of a GGUF file: metadata, and where each tensor lies. The format is ggml's docs/gguf.md, versions 2 and 3.

A file may be damaged or made to harm: every count and every place is compared with the size of the file before
anything is read there or kept.
"""

from __future__ import annotations

import math
import mmap
import struct
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from flover.errors import ModelError
from flover.files import check_regular, open_regular, shown
from flover.source.gguf_types import TYPES

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_DIMENSIONS = 4
MAX_NAME_BYTES = 2**16
MAX_TEXT_BYTES = 2**32 - 1
_STRING, _ARRAY, _BOOL = 8, 9, 7
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", _BOOL: "?", 10: "Q", 11: "q", 12: "d"}
_SIZES = {kind: struct.calcsize(f"<{code}") for kind, code in _SCALARS.items()} | {_STRING: 8}
_LEAST_PAIR = 8 + 4 + 1  # bytes of a key of no length, its type and its value
_LEAST_TENSOR = 8 + 4 + 8 + 4 + 8


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor of a file: `type` is ggml's number, `shape` as numpy has it (the last dimension lies together), `start`
    the place of its first byte in the file."""

    name: str
    type: int
    shape: tuple[int, ...]
    start: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class GgufFile:
    """A file's header. Arrays of numbers are `Numbers`, those of booleans lists, those of texts `Texts`."""

    path: Path
    metadata: dict[str, Any]
    tensors: list[Stored]


@dataclass(frozen=True, slots=True)
class Numbers:
    """An array of numbers, still in the file from `start` on: an engine never needs those of a vocabulary. `code` is
    that of a type in `struct`."""

    path: Path
    start: int
    count: int
    code: str

    def read(self) -> array[Any]:
        """All of them."""
        numbers = array(self.code)
        with open_regular(self.path, check_regular(self.path)) as file:
            file.seek(self.start)
            numbers.frombytes(file.read(self.count * numbers.itemsize))
        return numbers


@dataclass(frozen=True, slots=True)
class Texts:
    """An array of texts, still in the file from `start` on: `lengths` are their bytes, before each of which its length
    lies."""

    path: Path
    start: int
    lengths: array[int]

    @property
    def count(self) -> int:
        return len(self.lengths)

    def read(self) -> list[str]:
        """All of them. Raises `ModelError` for what is not UTF-8."""
        return self.pick(range(self.count))

    def pick(self, indices: Sequence[int]) -> list[str]:
        """Those at `indices`, in this order. Raises `ModelError` for what is not UTF-8."""
        if not indices:
            return []
        lengths = self.lengths[: max(indices) + 1]
        ends = array("Q", accumulate(lengths))
        prefix = _SIZES[_STRING]
        with open_regular(self.path, check_regular(self.path)) as file:
            file.seek(self.start)
            raw = file.read(ends[-1] + prefix * len(ends))
        try:
            return [raw[(end := ends[at] + prefix * (at + 1)) - lengths[at] : end].decode() for at in indices]
        except UnicodeDecodeError as error:
            raise ModelError(f"{self.path} is damaged: a text of its metadata is not UTF-8") from error


def read_header(path: Path) -> GgufFile:
    """Metadata and tensors of a file; no tensor is read. Raises `ModelError` for what is damaged or not understood."""
    size = check_regular(path)
    if size < len(MAGIC) + 20:
        raise ModelError(f"{path} is not a GGUF file: it has {size} bytes")
    with open_regular(path, size) as file, mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as data:
        return _Reader(path, data).file()


class _Reader:
    """Reads on from `at`; nothing is taken from beyond the end."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.data, self.end = path, data, len(data)
        self.at = 0

    def file(self) -> GgufFile:
        if self.take(4) != MAGIC:
            raise ModelError(f"{self.path} is not a GGUF file: it does not begin with {MAGIC.decode()}")
        version = self.number("I")
        if version not in VERSIONS:
            other = "; its numbers are big-endian" if version & 0xFFFF == 0 else ""
            raise self.error(f"version {version} of the format is not read, only {VERSIONS}{other}")
        num_tensors = self.count(_LEAST_TENSOR, "tensors", self.number("Q"))
        metadata: dict[str, Any] = {}
        for _ in range(self.count(_LEAST_PAIR, "keys", self.number("Q"))):
            key = self.text()
            if key in metadata:
                raise self.error(f"the key {shown(key)} is there twice")
            metadata[key] = self.value(self.number("I"), key)
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise self.error(f"general.alignment must be a power of two, got {shown(alignment)}")
        infos = [self.tensor() for _ in range(num_tensors)]
        first = -(-self.at // alignment) * alignment
        return GgufFile(self.path, metadata, self.placed(infos, first, alignment))

    def value(self, kind: int, key: str) -> Any:
        if kind == _STRING:
            return self.text(self.end)
        if kind in _SCALARS:
            return self.number(_SCALARS[kind])
        if kind != _ARRAY:
            raise self.error(f"{shown(key)} has a value of the unknown type {kind}")
        kind, count = self.number("I"), self.number("Q")
        if kind not in _SIZES:
            raise self.error(f"{shown(key)} is an array of the type {kind}, which is not read")
        self.count(_SIZES[kind], f"values of {shown(key)}", count)
        if kind == _STRING:
            return self.skip_texts(count)
        if kind == _BOOL:
            return [byte != 0 for byte in self.take(count)]
        self.at += count * _SIZES[kind]
        return Numbers(self.path, self.at - count * _SIZES[kind], count, _SCALARS[kind])

    def skip_texts(self, count: int) -> Texts:
        start, at, end, data = self.at, self.at, self.end, self.data
        length_of = struct.Struct("<Q").unpack_from
        lengths = array("I")
        keep = lengths.append
        for _ in range(count):
            if end - at < 8:
                raise self.error("it is cut short inside its metadata")
            length = length_of(data, at)[0]
            at += 8 + length
            if at > end or length > MAX_TEXT_BYTES:
                raise self.error("a text of its metadata reaches beyond its end, or is longer than 4 GiB")
            keep(length)
        self.at = at
        return Texts(self.path, start, lengths)

    def tensor(self) -> tuple[str, int, tuple[int, ...], int]:
        name, dimensions = self.text(), self.number("I")
        if not 1 <= dimensions <= MAX_DIMENSIONS:
            raise self.error(f"the tensor {shown(name)} has {dimensions} dimensions")
        shape = tuple(self.number("Q") for _ in range(dimensions))
        return name, self.number("I"), shape[::-1], self.number("Q")

    def placed(self, infos: list[tuple[str, int, tuple[int, ...], int]], first: int, alignment: int) -> list[Stored]:
        """The tensors with their places in the file, none beyond its end, none over another."""
        found: list[Stored] = []
        for name, kind, shape, offset in infos:
            if kind not in TYPES:
                raise self.error(f"the tensor {shown(name)} has the unknown type {kind}")
            block = TYPES[kind]
            numbers = math.prod(shape)
            if numbers < 1 or shape[-1] % block.numbers:
                raise self.error(
                    f"the tensor {shown(name)} has the shape {list(shape)}, which {block.name} cannot hold"
                )
            num_bytes = numbers // block.numbers * block.num_bytes
            if offset % alignment or first + offset + num_bytes > self.end:
                raise self.error(
                    f"the tensor {shown(name)} is said to be {num_bytes} bytes from {first + offset} on, but the file "
                    f"has {self.end} bytes, and tensors begin at multiples of {alignment}"
                )
            found.append(Stored(name, kind, shape, first + offset, num_bytes))
        if len({stored.name for stored in found}) < len(found):
            raise self.error("two of its tensors have the same name")
        ordered = sorted(found, key=lambda stored: stored.start)
        for before, after in pairwise(ordered):
            if before.start + before.num_bytes > after.start:
                raise self.error(f"the tensors {shown(before.name)} and {shown(after.name)} overlap")
        return found

    def count(self, least_bytes: int, what: str, count: int) -> int:
        """A count of things that take so many bytes at least."""
        if count * least_bytes > self.end - self.at:
            raise self.error(f"it announces {count} {what}, more than it has room for")
        return count

    def number(self, code: str) -> Any:
        return struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))[0]

    def text(self, limit: int = MAX_NAME_BYTES) -> str:
        length = self.number("Q")
        if length > limit:
            raise self.error(f"it has a text of {length} bytes where at most {limit} are read")
        try:
            return self.take(length).decode()
        except UnicodeDecodeError as error:
            raise self.error("a text of its metadata is not UTF-8") from error

    def take(self, count: int) -> bytes:
        if count > self.end - self.at:
            raise self.error("it is cut short inside its metadata")
        self.at += count
        return self.data[self.at - count : self.at]

    def error(self, problem: str) -> ModelError:
        return ModelError(f"{self.path} is damaged or not supported: {problem}")
