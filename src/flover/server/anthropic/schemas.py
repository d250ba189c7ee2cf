"""JSON Schemas of Anthropic's API for `/openapi.json`. They describe text; blocks of tools are left to Anthropic's
documentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flover.sampling_checks import MAX_ID, RANGES, Range
from flover.server.protocol import MAX_TOOLS

Schema = dict[str, Any]

_NULL: Schema = {"type": "null"}
_BLOCK: Schema = {
    "type": "object",
    "required": ["type", "text"],
    "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
}
_CONTENT: Schema = {"anyOf": [{"type": "string"}, {"type": "array", "items": _BLOCK}]}
_MESSAGE: Schema = {
    "type": "object",
    "required": ["role", "content"],
    "properties": {"role": {"const": "user"}, "content": _CONTENT},
    "description": "The role assistant, and blocks of tools, are answered too.",
}
_TOOL: Schema = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 128},
        "description": {"type": ["string", "null"]},
        "input_schema": {"type": ["object", "null"]},
        "type": {"enum": ["custom", None]},
    },
}
_USAGE: Schema = {"type": "object", "properties": {"input_tokens": {"type": "integer"}}, "required": ["input_tokens"]}
COUNT: Schema = _USAGE
MESSAGE: Schema = {
    "type": "object",
    "required": ["id", "type", "role", "model", "content", "stop_reason", "stop_sequence", "usage"],
    "properties": {
        "type": {"const": "message"},
        "role": {"const": "assistant"},
        "content": {"type": "array", "items": {"type": "object", "required": ["type"]}},
        "stop_reason": {"enum": ["end_turn", "max_tokens", "stop_sequence", "tool_use"]},
        "stop_sequence": {"type": ["string", "null"]},
        "usage": _USAGE,
    },
}
ERROR: Schema = {
    "type": "object",
    "required": ["type", "error"],
    "properties": {
        "type": {"const": "error"},
        "error": {
            "type": "object",
            "required": ["type", "message"],
            "properties": {"type": {"type": "string"}, "message": {"type": "string"}},
        },
    },
}


def body_schemas(names: Sequence[str], max_stop_strings: int) -> dict[str, Schema]:
    """The schemas of the bodies, by the names of their types, for a server that answers to `names`."""
    count: dict[str, Schema] = {
        "model": {"enum": [*names, None]},
        "messages": {"type": "array", "items": _MESSAGE, "minItems": 1},
        "system": {"anyOf": [*_CONTENT["anyOf"], _NULL]},
        "tools": {"type": ["array", "null"], "items": _TOOL, "maxItems": MAX_TOOLS},
        "cache_control": {},
    }
    stops = {"type": "string", "minLength": 1, "maxLength": 64}
    own: dict[str, Schema] = {
        "max_tokens": {"type": "integer", "minimum": 1, "maximum": MAX_ID},
        "stop_sequences": {"type": ["array", "null"], "items": stops, "maxItems": max_stop_strings},
        "stream": {"type": ["boolean", "null"]},
        **{name: _number(RANGES[name]) for name in ("temperature", "top_p", "top_k")},
    }
    return {
        "CountBody": _body(count, ["messages"]),
        "MessagesBody": _body(count | own, ["messages", "max_tokens"]),
        "AnthropicError": ERROR,
    }


def _body(properties: dict[str, Schema], required: list[str]) -> Schema:
    return {"type": "object", "required": required, "properties": properties, "additionalProperties": _NULL}


def _number(allowed: Range) -> Schema:
    kind = "integer" if allowed.integer else "number"
    return {"type": [kind, "null"], "minimum": allowed.low, "maximum": allowed.high}
