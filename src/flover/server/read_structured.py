"""Reads `response_format` and `structured_outputs` of a body: both are a `StructuredOutputsParams`.

The text of a JSON Schema is taken as it is; only `flover.grammar` reads what it says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Raw

from flover.errors import RequestError, named, wrong_value
from flover.server.json_bounds import has_more_members
from flover.server.protocol import ResponseFormat
from flover.server.read_values import begins, check_list, is_null, read_members, read_value
from flover.structured_outputs import FIELD, KINDS, MAX_CHOICES, StructuredOutputsParams

SCHEMA = "response_format.json_schema.schema"
"""Where the schema of a response format is, in errors."""
FORMATS = ("text", "json_object", "json_schema")
_NAMED_TYPES: Mapping[str, Any] = {"name": str | None, "description": str | None, "strict": bool | None}
NAMED_FIELDS = ("schema", *_NAMED_TYPES)
"""The fields of `response_format.json_schema`."""
_FIELDS = {field.name: field for field in msgspec.structs.fields(StructuredOutputsParams)}
_TYPES: Mapping[str, Any] = {"json_object": bool, "disable_any_whitespace": bool, "choice": list[str]}
"""Those that are not strings."""


def read_format(raw: Raw, name: str) -> ResponseFormat:
    """`response_format`. Raises `RequestError`."""
    members = _given(raw, name, "an object with type")
    if "type" not in members:
        raise RequestError(f"{name}.type is required", param=name)
    kind = read_value(members["type"], str, f"{name}.type")
    if kind not in FORMATS:
        raise RequestError(f"{name} of type {named(kind)} is not supported, only {', '.join(FORMATS)}", param=name)
    if kind == "text":
        return ResponseFormat(type=kind)
    if kind == "json_object" and "schema" not in members:
        return ResponseFormat(type=kind, constraint=StructuredOutputsParams(json_object=True))
    where, described = name, members  # where llama.cpp and others have the schema
    if kind == "json_schema" and (kind in members or "schema" not in members):
        if kind not in members:
            raise RequestError(f"{name}.{kind} is required", param=name)
        where = f"{name}.{kind}"
        described = _given(members[kind], where, "an object with name and schema")
        _check_names(described, NAMED_FIELDS, where)
    for field, type_ in _NAMED_TYPES.items():
        if field in described:
            read_value(described[field], type_, f"{where}.{field}")
    if "schema" not in described:
        raise RequestError(f"{where}.schema is required", param=name)
    if not begins(described["schema"], "{"):
        raise wrong_value(f"{where}.schema", "a JSON Schema, an object", described["schema"])
    try:
        constraint = StructuredOutputsParams(json=bytes(described["schema"]).decode())
    except RequestError as error:
        raise RequestError(error.message.replace(f"{FIELD}.json", SCHEMA), param=name) from None
    return ResponseFormat(type=kind, constraint=constraint)


def read_structured(raw: Raw, name: str) -> StructuredOutputsParams | None:
    """`structured_outputs`; an object without fields is the same as none. Raises `RequestError`."""
    members = _given(raw, name, f"an object with one of {', '.join(KINDS)}")
    _check_names(members, tuple(_FIELDS), name)
    values: dict[str, Any] = {}
    for field, value in members.items():
        where = f"{name}.{field}"
        if field == "json" and not begins(value, '"'):
            if not begins(value, "{"):
                raise wrong_value(where, "a JSON Schema, an object", value)
            values[field] = bytes(value).decode()
        elif field == "choice":
            check_list(value, where, "a list of strings", MAX_CHOICES, "strings")
            values[field] = read_value(value, list[str], where)
        else:
            values[field] = read_value(value, _TYPES.get(field, str), where)
    if values.get("json_object") is False:
        del values["json_object"]
    return StructuredOutputsParams(**values) if values else None


def _given(raw: Raw, where: str, wanted: str) -> dict[str, Raw]:
    """The fields of an object that are not null."""
    if begins(raw, "{") and has_more_members(bytes(raw), 64):
        raise RequestError(f"{where} has too many fields", param=where.partition(".")[0])
    return {name: value for name, value in read_members(raw, where, wanted).items() if not is_null(value)}


def _check_names(members: Mapping[str, Raw], known: tuple[str, ...], where: str) -> None:
    for name in members:
        if name not in known:
            raise RequestError(
                f"{where} has no field {named(name)}, only {', '.join(known)}", param=where.partition(".")[0]
            )
