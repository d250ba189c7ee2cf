"""Decodes the body of a request into one of the types of `protocol.py`.

Values are measured before they are built. The decoder first validates the syntax of the whole body without building
anything; then the fields are decoded one by one, the shortest first, so that a wrong number beside a long text is found
before the text is decoded. The first error ends it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache, reduce
from operator import or_
from types import NoneType
from typing import Any, TypeVar, get_args

import msgspec
from msgspec import Raw

from flover.config import Limits, flag_name
from flover.errors import RequestError, named, shown
from flover.request import ModelFacts
from flover.sampling_checks import MAX_BIASES, MAX_STOP_IDS
from flover.server.fields import (
    INFORMATION,
    MAX_INFORMATION_BYTES,
    MAX_NEUTRAL_BYTES,
    NEUTRAL,
    STRICT,
    is_neutral,
    refused_field,
    unknown_field,
)
from flover.server.json_bounds import check_json, has_more_members, mark_lone_surrogate
from flover.server.protocol import (
    MAX_TEMPLATE_ARGUMENTS,
    ChatBody,
    Message,
    Prompts,
    ResponseFormat,
    Scalar,
    StreamOptions,
    ToolChoice,
)
from flover.server.read_prompts import read_messages, read_prompts, read_token_ids
from flover.server.read_structured import read_format, read_structured
from flover.server.read_tools import check_tools, read_tool_choice, read_tools
from flover.server.read_values import MAX_MEMBERS, begins, check_list, is_null, read_members, read_value
from flover.structured_outputs import StructuredOutputsParams

AN_OBJECT = "a JSON object"
_STREAM_OPTIONS = ("include_usage", "continuous_usage_stats", "include_obfuscation")
_MARK = b"\x7f-----"
"""A mark as long as an escape that does not occur in valid text."""

B = TypeVar("B", bound=msgspec.Struct)


def read_body(
    data: bytes, kind: type[B], limits: Limits, *, strict: bool = False, facts: ModelFacts | None = None
) -> B:
    """The body as a `kind`. `facts` are those of the loaded model, for limits that depend on it. With `strict`
    unsupported fields are refused, except those that OpenAI's clients send. Raises `RequestError`."""
    members = _members(data, limits)
    types = field_types(kind)
    for name, raw in members.items():
        if name not in types:
            _check_other(name, raw, types.keys(), strict=strict)
    given = {name: raw for name, raw in members.items() if name in types and not is_null(raw)}
    for name in required_fields(kind):
        if name not in given:
            raise RequestError(f"{name} is required", param=name)
    bounds = _Bounds(limits, facts, strict, cut="truncate_prompt_tokens" in given)
    values: dict[str, Any] = {}
    for name in sorted(given, key=lambda name: len(memoryview(given[name]))):
        read, raw = _READERS.get(types[name]), given[name]
        values[name] = read_value(raw, types[name], name) if read is None else read(raw, name, bounds)
    body = kind(**values)
    if isinstance(body, ChatBody):
        check_tools(body)
    return body


def _members(data: bytes, limits: Limits) -> dict[str, Raw]:
    """The fields of the body, not decoded. Raises `RequestError` if it is not a JSON object or too large."""
    check_json(data, limits)
    if not data.strip():
        raise RequestError("the body is empty: it must be a JSON object")
    if data.startswith(b"\xef\xbb\xbf"):
        raise RequestError("the body begins with a byte order mark: it must be a JSON object and nothing else")
    raw = _checked(data)
    if not begins(raw, "{"):
        raise RequestError(f"the body must be {AN_OBJECT}, got {shown(raw)}")
    try:
        return read_members(raw, "the body", AN_OBJECT)
    except RequestError as error:
        raise RequestError(error.message) from None  # no field of its own is at fault


def _checked(data: bytes) -> Raw:
    """The whole body, after the decoder has validated it."""
    try:
        return msgspec.json.decode(data, type=Raw)
    except msgspec.DecodeError as error:
        name = _surrogate_field(data)
        if name is not None:
            message = "holds half of a surrogate pair, which is no character: text must be Unicode"
            raise RequestError(
                f"{named(name) if name else 'the name of a field'} {message}",
                param=name[:64] if name.isidentifier() else None,
            ) from None
        reason = str(error).removeprefix("JSON is malformed: ").replace("Input data was truncated", "it ends too early")
        raise RequestError(f"the body is not valid JSON: {reason}") from None
    except RecursionError:
        raise RequestError("the body has too many lists and objects in each other") from None


def _surrogate_field(data: bytes) -> str | None:
    """The field with a lone surrogate, "" if it is in a field's name; None if there is none or it cannot be found."""
    marked = mark_lone_surrogate(data, _MARK)
    if marked is None or _MARK in data or has_more_members(marked, MAX_MEMBERS):
        return None
    try:
        members = msgspec.json.decode(marked, type=dict[str, Raw])
    except msgspec.MsgspecError:
        return None
    for name, raw in members.items():
        if _MARK.decode() in name:
            return ""
        if _MARK in bytes(raw):
            return name
    return None


def _check_other(name: str, raw: Raw, known: Collection[str], *, strict: bool) -> None:
    """Check a field that is not supported: neutral values are accepted. Raises `RequestError` for others."""
    size = len(memoryview(raw))
    if strict and name not in STRICT:
        raise unknown_field(name, [*known, *STRICT])
    if is_null(raw):
        return
    if name in INFORMATION:
        if size > MAX_INFORMATION_BYTES:
            raise RequestError(f"{name} may be at most {MAX_INFORMATION_BYTES} bytes of JSON, got {size}", param=name)
        if strict:
            read_value(raw, STRICT[name], name)
        return
    neutral = NEUTRAL.get(name)
    if neutral is None:
        raise unknown_field(name, [*known, *INFORMATION, *NEUTRAL])
    if size > MAX_NEUTRAL_BYTES or not is_neutral(raw, neutral):
        raise refused_field(name, raw)


@dataclass(frozen=True, slots=True)
class _Bounds:
    """The limits for the values of one body."""

    limits: Limits
    facts: ModelFacts | None
    strict: bool
    cut: bool
    """Whether prompts may be longer than the context, because they will be truncated."""


def _read_strings(raw: Raw, name: str, bounds: _Bounds) -> list[str] | None:
    """`stop`, `bad_words`, and texts of Ollama's: their number is limited by the server. An empty list is the same as
    none."""
    alone = name != "bad_words"
    if begins(raw, '"'):
        text = read_value(raw, str | list[str] if alone else list[str], name)
        return [text] if text else None
    setting = {"stop": "max_stop_strings", "bad_words": "max_bad_words", "input": "max_request_seqs"}[name]
    wanted = "a string or a list of strings" if alone else "a list of strings"
    check_list(raw, name, wanted, getattr(bounds.limits, setting), "strings", flag_name(setting))
    return read_value(raw, list[str], name) or None


def _read_ids(raw: Raw, name: str, bounds: _Bounds) -> list[int] | None:
    if name == "stop_token_ids":
        check_list(raw, name, "a list of token ids", MAX_STOP_IDS, "token ids")
        return read_value(raw, list[int], name) or None
    if name == "allowed_token_ids" and bounds.facts is not None:
        check_list(raw, name, "a list of token ids", bounds.facts.vocab_size, "token ids")
    return read_token_ids(raw, name, None)


def _read_bias(raw: Raw, name: str, bounds: _Bounds) -> dict[str, float]:
    members = read_members(raw, name, "an object of token ids and numbers", MAX_BIASES)
    return {token: read_value(value, float, f"{name}.{token[:64]}") for token, value in members.items()}


def _read_template_arguments(raw: Raw, name: str, bounds: _Bounds) -> dict[str, Any]:
    wanted = "an object of strings, numbers, true and false"
    members = read_members(raw, name, wanted, MAX_TEMPLATE_ARGUMENTS)
    return {key: read_value(value, Scalar, f"{name}.{key[:64]}") for key, value in members.items()}


def _read_stream_options(raw: Raw, name: str, bounds: _Bounds) -> StreamOptions:
    members = read_members(raw, name, "an object")
    values: dict[str, bool | None] = {}
    for key, value in members.items():
        if key not in _STREAM_OPTIONS and (bounds.strict or not is_null(value)):
            raise RequestError(unknown_field(key, _STREAM_OPTIONS, f"{name}.").message, param=name)
        if key in _STREAM_OPTIONS and not is_null(value):
            values[key] = read_value(value, bool, f"{name}.{key}")
    values.pop("include_obfuscation", None)  # random text that hides lengths; there is none here
    return StreamOptions(**values)


_READERS: Mapping[Any, Callable[[Raw, str, _Bounds], Any]] = {
    Prompts: lambda raw, name, bounds: read_prompts(raw, name, bounds.limits, None if bounds.cut else bounds.facts),
    list[Message]: lambda raw, name, bounds: read_messages(raw, bounds.limits, strict=bounds.strict),
    list[int]: _read_ids,
    list[str]: _read_strings,
    str | list[str]: _read_strings,
    dict[str, float]: _read_bias,
    dict[str, Scalar]: _read_template_arguments,
    StreamOptions: _read_stream_options,
    ResponseFormat: lambda raw, name, bounds: read_format(raw, name),
    StructuredOutputsParams: lambda raw, name, bounds: read_structured(raw, name),
    ToolChoice: lambda raw, name, bounds: read_tool_choice(raw),
    Raw: lambda raw, name, bounds: read_tools(raw),
}
"""Readers of fields that need limits or error messages of their own."""


@cache
def field_types(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """The type of each field, without the None of an absent field."""
    return {field.name: _without_none(field.type) for field in msgspec.structs.fields(kind)}


@cache
def required_fields(kind: type[msgspec.Struct]) -> list[str]:
    """The required fields of a body of this type."""
    return [field.name for field in msgspec.structs.fields(kind) if field.required]


def _without_none(kind: Any) -> Any:
    members = [member for member in get_args(kind) if member is not NoneType]
    return reduce(or_, members) if NoneType in get_args(kind) else kind
