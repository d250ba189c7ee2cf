"""Shapes that the JSON Schemas of all APIs are made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from flover.sampling_checks import ALL, RANGES, Range

Schema = dict[str, Any]

NULL: Schema = {"type": "null"}
FLAG: Schema = {"type": ["boolean", "null"]}
TEXT: Schema = {"type": ["string", "null"]}
OBJECT: Schema = {"type": ["object", "null"]}


def number(allowed: Range) -> Schema:
    """A number in a range, or null."""
    kind = "integer" if allowed.integer else "number"
    limits = {"minimum": allowed.low, "maximum": allowed.high}
    if allowed.or_all:
        return {"anyOf": [{"type": kind, **limits}, {"const": ALL}, NULL]}
    return {"type": [kind, "null"], **limits}


def numbers(names: Iterable[str]) -> dict[str, Schema]:
    """Those of the fields that are sampling parameters, in their ranges."""
    return {name: number(RANGES[name]) for name in names if name in RANGES}


def text_or_parts(kind: Schema, required: Sequence[str] = ("type", "text")) -> Schema:
    """The content of a message: text, or parts whose `type` is as `kind` says."""
    part = {
        "type": "object",
        "required": list(required),
        "properties": {"type": kind, "text": {"type": "string"}},
    }
    return {"anyOf": [{"type": "string"}, {"type": "array", "items": part}]}


def user_message(content: Schema, description: str, **more: Schema) -> Schema:
    """A message of the user; `description` says what else is answered."""
    return {
        "type": "object",
        "required": ["role", "content"],
        "properties": {**more, "role": {"const": "user"}, "content": content},
        "description": description,
    }


def body(properties: dict[str, Schema], required: Sequence[str] = ()) -> Schema:
    """A body whose other fields must be null."""
    needed = {"required": list(required)} if required else {}
    return {"type": "object", **needed, "properties": properties, "additionalProperties": NULL}
