"""JSON Schemas of Ollama's API for `/openapi.json`. They describe text; tools are left to Ollama's documentation."""

from __future__ import annotations

from collections.abc import Sequence

from flover.server.openapi_shapes import FLAG, TEXT, Schema, body, user_message

_MESSAGE = user_message({"type": "string"}, "Other roles are answered too.")
ANSWER: Schema = {"type": "object", "required": ["model", "created_at", "done"]}
MODELS: Schema = {"type": "object", "required": ["models"], "properties": {"models": {"type": "array"}}}
MODEL: Schema = {"type": "object", "required": ["template", "model_info", "capabilities"]}
ERROR: Schema = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}


def body_schemas(names: Sequence[str]) -> dict[str, Schema]:
    """The schemas of the bodies, by the names of their types, for a server that answers to `names`."""
    common: dict[str, Schema] = {
        "model": {"enum": [*names, None]},
        "stream": FLAG | {"description": "On by default."},
        "think": FLAG,
    }
    chat = {"messages": {"type": ["array", "null"], "items": _MESSAGE}}
    return {
        "OllamaBody": body(common),
        "OllamaChatBody": body(common | chat),
        "OllamaGenerateBody": body(common | {"prompt": TEXT, "system": TEXT}),
        "OllamaError": ERROR,
    }
