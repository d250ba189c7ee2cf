"""The JSON Schema of an answer that is a call of one of several functions, each with a schema of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_VALUES = frozenset(("const", "default", "enum", "examples"))
"""What holds values and no schemas."""
_NAMES = frozenset(("$id", "$schema"))
"""What a schema inside another must not say of itself."""


def any_call(
    tools: Mapping[str, Mapping[str, Any]], place: str = "", text: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """That of a call of any of these functions, an object with `name` and `parameters`, or else of a text with its own
    schema. It stands at this JSON Pointer of the whole schema."""
    found = []
    for number, (name, schema) in enumerate(tools.items()):
        arguments = embedded(schema, f"{place}/anyOf/{number}/properties/parameters")
        properties = {"name": {"const": name}, "parameters": arguments}
        found.append(
            {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}
        )
    if text is not None:
        found.append(embedded(text, f"{place}/anyOf/{len(found)}"))
    return {"anyOf": found}


def embedded(schema: Mapping[str, Any], place: str) -> dict[str, Any]:
    """A schema of its own as part of another, in which it stands at this JSON Pointer: its references lead there."""
    return {key: _moved(key, value, place) for key, value in schema.items() if key not in _NAMES}


def _moved(key: str, value: Any, place: str) -> Any:
    if key in _VALUES:
        return value
    if key == "$ref" and isinstance(value, str):
        return f"#{place}{value[1:]}" if value == "#" or value.startswith("#/") else value
    if isinstance(value, Mapping):
        return {name: _moved(name, inner, place) for name, inner in value.items()}
    return [_moved("", inner, place) for inner in value] if isinstance(value, list) else value
