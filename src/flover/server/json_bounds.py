"""Counts the values and depth of JSON text without building it, so that too large bodies are refused early.

Works on bytes; the decoder checks the syntax later.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator, Mapping
from itertools import accumulate, compress
from operator import countOf

import msgspec

from flover.config import Limits, flag_name
from flover.errors import RequestError

CHUNK = 2**13
_MARKS = b'",:[]{}'
_NOT_MARKS = bytes(set(range(256)) - set(_MARKS))
_STEPS = bytes.maketrans(b"[{]},:", b"\x01\x01\xff\xff\0\0")
_IS_COMMA = bytes(mark == 0x2C for mark in range(256))
_UTF8 = codecs.getincrementaldecoder("utf-8")
_LONE_SURROGATE = re.compile(
    rb"\\u[dD](?:[89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|[c-fC-F][0-9a-fA-F]{2}(?<!\\u[dD][89abAB]..\\u[dD]...))"
)


def check_json(data: bytes, limits: Limits) -> None:
    """Check that a body is UTF-8, and its number of values and depth. Raises `RequestError`."""
    if not data.isascii():
        _check_utf8(data)
    openings = data.count(b"[") + data.count(b"{")
    if openings <= limits.max_json_depth and _num_values(data) <= limits.max_json_values:
        return
    if num_values(data, limits.max_json_values) > limits.max_json_values:
        flag = flag_name("max_json_values")
        raise RequestError(f"the body has more than {flag} {limits.max_json_values} names and values")
    depth = 0
    for marks in _outside_strings(_without_text(data)):
        depths = list(accumulate(_steps(marks), initial=depth))
        if max(depths) > limits.max_json_depth:
            flag = flag_name("max_json_depth")
            raise RequestError(f"the body has more than {flag} {limits.max_json_depth} lists and objects in each other")
        depth = depths[-1]


def _without_text(data: bytes) -> bytes:
    """The marks of JSON, those in strings too, and the quotation marks of strings."""
    return data.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _NOT_MARKS)


def _outside_strings(plain: bytes) -> Iterator[bytes]:
    """The marks `,:[]{}` that are not in strings, in order, a piece at a time."""
    inside = 0
    for start in range(0, len(plain), CHUNK):
        pieces = plain[start : start + CHUNK].split(b'"')
        yield b"".join(pieces[inside::2])
        inside ^= (len(pieces) - 1) % 2


def num_values(data: bytes, most: int) -> int:
    """An upper bound of the number of names and values; more than `most` if there are more strings."""
    plain = _without_text(data)
    if plain.count(b'"') // 2 > most:
        return most + 1
    return 1 + sum(_num_values(marks) - 1 for marks in _outside_strings(plain))


SMALL_BYTES = 8192
"""Lists and objects of at most this size are decoded to count their members."""
_small = msgspec.json.Decoder(list[msgspec.Raw] | dict[str, msgspec.Raw])


def has_more_members(raw: bytes, most: int) -> bool:
    """Whether a list or an object has more than `most` members. `raw` is within the limits of a whole body."""
    if raw.count(b",") < most:
        return False
    if len(raw) <= SMALL_BYTES:  # cheaper than to look at each mark
        return len(_small.decode(raw)) > most
    return _has_more_members(raw, most)


def _has_more_members(raw: bytes, most: int) -> bool:
    """The same, and a name that comes twice counts as two."""
    depth = count = 0
    for marks in _outside_strings(_without_text(raw)):
        depths = list(accumulate(_steps(marks), initial=depth))
        count += countOf(compress(depths[1:], marks.translate(_IS_COMMA)), 1)
        if count >= most:
            return True
        depth = depths[-1]
    return False


def has_name_twice(raw: bytes, members: Mapping[str, msgspec.Raw]) -> bool:
    """Whether an object has a name twice, of which a decoder kept one of the `members`."""
    commas = raw.count(b",") - sum(bytes(value).count(b",") for value in members.values())
    if commas < max(len(members), 1):  # between members; more are in names or in what was not kept
        return False
    return _has_more_members(raw, len(members))


def name_that_comes_twice(raw: bytes) -> str:
    """Such a name; empty in an object that is too large to look for it."""
    if len(raw) > SMALL_BYTES:
        return ""
    pairs: list[tuple[str, object]] = json.loads(
        raw, object_pairs_hook=lambda found: found, parse_int=str, parse_float=str
    )
    names = [name for name, _ in pairs]
    return next(name for name in names if names.count(name) > 1)


def mark_lone_surrogate(data: bytes, mark: bytes) -> bytes | None:
    """The JSON with `mark` in place of the first escape of a lone surrogate, and other characters for all further ones;
    None if there is none. `mark` is as long as an escape."""
    found = _LONE_SURROGATE.search(data.replace(b"\\\\", b"__"))
    if found is None:
        return None
    whole = data.replace(b"\\\\", b"__").replace(b"\\ud", b"\\ue").replace(b"\\uD", b"\\uE")
    return whole[: found.start()] + mark + whole[found.end() :]


def _steps(marks: bytes) -> memoryview:
    """The change of depth at each mark."""
    return memoryview(marks.translate(_STEPS)).cast("b")


def _num_values(marks: bytes) -> int:
    """An upper bound of the number of names and values; exact if no list or object is empty."""
    return 1 + sum(marks.count(mark) for mark in (b",", b":", b"[", b"{"))


def _check_utf8(data: bytes) -> None:
    decoder, start = _UTF8(), 0
    try:
        for start in range(0, len(data), CHUNK):
            decoder.decode(data[start : start + CHUNK], final=start + CHUNK >= len(data))
    except UnicodeDecodeError as error:
        pending = len(error.object) - len(data[start : start + CHUNK])
        raise RequestError(f"the body is not UTF-8 (byte {start - pending + error.start})") from error
