"""JSON Schemas of Anthropic's API for `/openapi.json`. They describe text; blocks of tools are left to Anthropic's
documentation."""

from __future__ import annotations

from collections.abc import Sequence

from flover.sampling_checks import MAX_ID
from flover.server.anthropic.bodies import MessagesBody
from flover.server.openapi_shapes import FLAG, NULL, OBJECT, TEXT, Schema, body, numbers, text_or_parts, user_message
from flover.server.protocol import MAX_TOOLS

_CONTENT = text_or_parts({"const": "text"})
_MESSAGE = user_message(_CONTENT, "The role assistant, and blocks of tools, are answered too.")
_TOOL: Schema = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 128},
        "description": TEXT,
        "input_schema": OBJECT,
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
        "stop_sequence": TEXT,
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
        "system": {"anyOf": [*text_or_parts({"const": "text"}, ["text"])["anyOf"], NULL]},
        "tools": {"type": ["array", "null"], "items": _TOOL, "maxItems": MAX_TOOLS},
        "cache_control": {},
        "output_config": {
            "type": ["object", "null"],
            "properties": {"effort": {"type": ["string", "null"], "pattern": "^[a-z]{1,16}$"}, "format": NULL},
        },
    }
    stops = {"type": "string", "minLength": 1}
    own: dict[str, Schema] = {
        **numbers(MessagesBody.__struct_fields__),
        "max_tokens": {"type": "integer", "minimum": 1, "maximum": MAX_ID},
        "stop_sequences": {"type": ["array", "null"], "items": stops, "maxItems": max_stop_strings},
        "stream": FLAG,
    }
    return {
        "CountBody": body(count, ["messages"]),
        "MessagesBody": body(count | own, ["messages", "max_tokens"]),
        "AnthropicError": ERROR,
    }
