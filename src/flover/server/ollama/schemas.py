"""JSON Schemas of Ollama's API for `/openapi.json`. They describe text; tools are left to Ollama's documentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Schema = dict[str, Any]

_NULL: Schema = {"type": "null"}
_TEXT: Schema = {"type": ["string", "null"]}
_MESSAGE: Schema = {
    "type": "object",
    "required": ["role", "content"],
    "properties": {"role": {"const": "user"}, "content": {"type": "string"}},
    "description": "Other roles are answered too.",
}
ANSWER: Schema = {"type": "object", "required": ["model", "created_at", "done"]}
MODELS: Schema = {"type": "object", "required": ["models"], "properties": {"models": {"type": "array"}}}
MODEL: Schema = {"type": "object", "required": ["template", "model_info", "capabilities"]}
ERROR: Schema = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}


def body_schemas(names: Sequence[str]) -> dict[str, Schema]:
    """The schemas of the bodies, by the names of their types, for a server that answers to `names`."""
    common: dict[str, Schema] = {
        "model": {"enum": [*names, None]},
        "stream": {"type": ["boolean", "null"], "description": "On by default."},
        "think": {"type": ["boolean", "null"]},
    }
    chat = {"messages": {"type": ["array", "null"], "items": _MESSAGE}}
    return {
        "OllamaBody": _body(common),
        "OllamaChatBody": _body(common | chat),
        "OllamaGenerateBody": _body(common | {"prompt": _TEXT, "system": _TEXT}),
        "OllamaError": ERROR,
    }


def _body(properties: dict[str, Schema]) -> Schema:
    return {"type": "object", "properties": properties, "additionalProperties": _NULL}
