"""Decodes single values of a body from raw JSON to the declared type.

Each value is measured before it is decoded, and decoding stops at the first error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal, NoReturn, get_args, get_origin

import msgspec
from msgspec import Raw

from flover.errors import MAX_SHOWN_BYTES, RequestError, first_name, named, shown, too_many, wrong_value
from flover.request import MAX_HIDDEN_SIZE
from flover.sampling_checks import PRIORITY
from flover.server.json_bounds import has_more_members, has_name_twice, name_that_comes_twice
from flover.server.protocol import (
    Deadline,
    Dimensions,
    Effort,
    EncodingFormat,
    Name,
    Priority,
    Salt,
    Scalar,
    ThinkingTokens,
)

MAX_MEMBERS = 1024
"""Maximum number of fields of an object whose fields are decoded one by one."""
_PLACE = re.compile(r" - at `(?:key in )?\$([^`]*)`$")
_MISSING = re.compile(r"missing required field `(\w+)`")
_GOT = re.compile(r"got `(\w+)`")
_KINDS = {
    "str": "a string",
    "int": "a number",
    "float": "a number",
    "bool": "true or false",
    "null": "null",
    "array": "a list",
    "object": "an object",
}
_WANTED: Mapping[Any, str] = {
    bool: "true or false",
    str: "a string",
    int: "a whole number",
    float: "a number",
    list[int]: "a list of token ids",
    list[str]: "a list of strings",
    str | list[str]: "a string or a list of strings",
    dict[str, str]: "an object of strings",
    Name: 'up to 64 letters, digits, ".", "_" and "-"',
    Salt: 'up to 128 letters, digits, "_" and "-"',
    Effort: "a word of small letters",
    Priority: PRIORITY.wanted,
    EncodingFormat: '"float" or "base64"',
    Dimensions: f"a whole number, 1 to {MAX_HIDDEN_SIZE}",
    ThinkingTokens: "a number of tokens, or -1 for no budget",
    Deadline: "a whole number of milliseconds, 1 to 86400000",
    Scalar: "a string, a number, true, false or null",
}
_MEMBER_WANTED: Mapping[Any, str] = {
    list[int]: "a token id",
    list[str]: "a string",
    str | list[str]: "a string",
    dict[str, str]: "a string",
}


def refuse(param: str, message: str) -> NoReturn:
    """Raise the error of a field."""
    raise RequestError(message, param=param)


def as_raw(value: Any) -> Raw:
    """A value of another API, as a field of a chat completion's body has it."""
    return Raw(msgspec.json.encode(value))


@cache
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


def read_value(raw: Raw, kind: Any, where: str, wanted: str | None = None) -> Any:
    """A value of type `kind`; `wanted` describes it in errors. Raises `RequestError`."""
    try:
        return _decoder(kind).decode(raw)
    except msgspec.ValidationError as error:
        whole = _read_whole(raw, kind)
        if whole is None:
            raise _explain(error, raw, kind, where, wanted) from None
        return whole


def read_members(raw: Raw, where: str, wanted: str, most: int = MAX_MEMBERS) -> dict[str, Raw]:
    """The fields of an object, not decoded. Raises `RequestError`."""
    check_kind(raw, "{", where, wanted)
    data = bytes(raw)
    if has_more_members(data, most):
        raise too_many(where, most, "fields")
    members: dict[str, Raw] = _decoder(dict[str, Raw]).decode(raw)
    if has_name_twice(data, members):
        name = name_that_comes_twice(data)
        raise RequestError(f"{where} has {named(name) if name else 'a field'} twice", param=first_name(where))
    return members


def read_items(raw: Raw, where: str, wanted: str, most: int, kind: str, flag: str = "") -> list[Raw]:
    """The members of a list, not decoded. Raises `RequestError`."""
    check_list(raw, where, wanted, most, kind, flag)
    items: list[Raw] = _decoder(list[Raw]).decode(raw)
    return items


def check_list(raw: Raw, where: str, wanted: str, most: int, kind: str, flag: str = "") -> None:
    """Check that the value is a list of at most `most` members. Raises `RequestError`."""
    check_kind(raw, "[", where, wanted)
    if has_more_members(bytes(raw), most):
        raise too_many(where, most, kind, flag=flag)


def check_kind(raw: Raw, start: str, where: str, wanted: str) -> None:
    """Check the first character, which gives the kind of a JSON value. Raises `RequestError`."""
    if not begins(raw, start):
        raise wrong_value(where, wanted, raw)


def begins(raw: Raw, starts: str) -> bool:
    """Whether the value begins with one of these characters. Raw values have no surrounding whitespace."""
    value = memoryview(raw)
    return bool(value) and chr(value[0]) in starts


def is_null(raw: Raw) -> bool:
    """Whether the value is null."""
    return len(memoryview(raw)) == 4 and bytes(raw) == b"null"


def _read_whole(raw: Raw, kind: Any) -> Any:
    """A whole number written with a decimal point, as in 5.0, which some clients send; else None."""
    if kind not in (int, list[int], Priority, Deadline, Dimensions) or len(memoryview(raw)) > MAX_SHOWN_BYTES:
        return None
    try:
        found = _decoder(list[float] if kind == list[int] else float).decode(raw)
        numbers = found if isinstance(found, list) else [found]
        if not all(number.is_integer() and abs(number) < 2**53 for number in numbers):
            return None
        whole = [int(number) for number in numbers]
        return msgspec.convert(whole if isinstance(found, list) else whole[0], kind)
    except msgspec.ValidationError:
        return None


def _explain(error: msgspec.ValidationError, raw: Raw, kind: Any, where: str, wanted: str | None) -> RequestError:
    message = str(error)
    found = _PLACE.search(message)
    place = found.group(1) if found else ""
    missing = _MISSING.search(message)
    if missing:
        return RequestError(f"{where}{place}.{missing.group(1)} is required", param=first_name(where))
    if not place:
        return wrong_value(where, wanted or _WANTED.get(kind) or _choices(kind) or _expected(message), raw)
    got = _GOT.search(message)
    sort = ", got a number out of range" if "out of range" in message else ""
    if got is not None:
        sort = f", got {_KINDS.get(got.group(1), got.group(1))}"
    inner = _at(raw, place)
    if inner is not None:
        sort = f", got {shown(inner)}"
    wanted = _MEMBER_WANTED.get(kind) or _expected(message)
    what = f"each value of {where}" if place == "[...]" else f"{where}{place}"
    return RequestError(f"{what} must be {wanted}{sort}", param=first_name(where))


def _choices(kind: Any) -> str:
    """The values of a type that is a choice."""
    return " or ".join(f'"{value}"' for value in get_args(kind)) if get_origin(kind) is Literal else ""


def _expected(message: str) -> str:
    """The type that msgspec expected, in the words of our errors."""
    found = re.search(r"Expected `(\w+)", message)
    return _KINDS.get(found.group(1), found.group(1)) if found else "a value that the API has for it"


def _at(raw: Raw, place: str) -> Raw | None:
    """The member of a short list at `[index]`."""
    index = re.fullmatch(r"\[(\d+)\]", place)
    if index is None or len(memoryview(raw)) > MAX_SHOWN_BYTES:
        return None
    items: list[Raw] = _decoder(list[Raw]).decode(raw)
    return items[int(index.group(1))]
