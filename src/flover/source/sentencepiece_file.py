"""Reads SentencePiece's tokenizer.model, a protobuf message (sentencepiece_model.proto), of which few fields are used.

The file is untrusted: lengths are compared with what is left of the message, and every piece takes at least two bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from flover.errors import ModelError

FILE = "tokenizer.model"
UNKNOWN, CONTROL, USER_DEFINED, BYTE = 2, 3, 4, 6
"""Kinds of pieces; 1 is a normal one."""
BPE = 2
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_PIECE_TEXT, _PIECE_KIND, _MODEL_TYPE, _CHARSMAP, _EXTRA_WHITESPACES = 1, 3, 3, 2, 4


@dataclass(frozen=True, slots=True)
class SentencePieceFile:
    """Texts and kinds of all pieces, by id; `algorithm` is `BPE` or another, `charsmap` whether texts are normalised,
    `removes_whitespaces` whether repeated spaces are one."""

    texts: list[str]
    kinds: list[int]
    algorithm: int
    charsmap: bool
    removes_whitespaces: bool


def read_sentencepiece(raw: bytes, where: str) -> SentencePieceFile:
    """The content of a file that errors call `where`. Raises `ModelError` if it is damaged."""
    texts: list[str] = []
    kinds: list[int] = []
    specs: dict[int, Mapping[int, int | memoryview]] = {_TRAINER: {}, _NORMALIZER: {}}
    try:
        for number, value in _fields(memoryview(raw)):
            if number in (_PIECES, *specs):
                fields = dict(_fields(_message(value)))
                if number == _PIECES:
                    texts.append(str(_message(fields.get(_PIECE_TEXT, memoryview(b""))), "utf-8"))
                    kinds.append(_number(fields.get(_PIECE_KIND, 1)))
                else:
                    specs[number] = fields
        trainer, normalizer = specs[_TRAINER], specs[_NORMALIZER]
        found = SentencePieceFile(
            texts=texts,
            kinds=kinds,
            algorithm=_number(trainer.get(_MODEL_TYPE, 1)),
            charsmap=len(_message(normalizer.get(_CHARSMAP, memoryview(b"")))) > 0,
            removes_whitespaces=_number(normalizer.get(_EXTRA_WHITESPACES, 1)) != 0,
        )
    except ValueError as error:
        raise ModelError(f"{where} is damaged or not a file of SentencePiece: {error}") from error
    if not texts:
        raise ModelError(f"{where} has no pieces: it is damaged or not a file of SentencePiece")
    return found


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of each field of a message: the integer, or the bytes, of which fixed sizes are some too."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == _VARINT:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if kind == _BYTES:
            size, at = _varint(data, at)
        elif kind in (_FIXED32, _FIXED64):
            size = 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"there is no type of field {kind}")
        if size > len(data) - at:
            raise ValueError(f"a field of {size} bytes is longer than the {len(data) - at} that are left")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """A number of seven bits per byte, the lowest first, and the place behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("it ends inside a number")
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("a number has more than ten bytes")


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number is where bytes must be")
    return value


def _number(value: int | memoryview) -> int:
    if not isinstance(value, int):
        raise ValueError("bytes are where a number must be")
    return value
