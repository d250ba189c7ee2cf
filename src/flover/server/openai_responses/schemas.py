"""JSON Schemas of `/v1/responses` for `/openapi.json`. They describe text; other items are left to OpenAI's
documentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flover.sampling_checks import MAX_ID, RANGES

Schema = dict[str, Any]

_NULL: Schema = {"type": "null"}
_PART: Schema = {
    "type": "object",
    "required": ["type", "text"],
    "properties": {"type": {"enum": ["input_text", "output_text"]}, "text": {"type": "string"}},
}
_MESSAGE: Schema = {
    "type": "object",
    "required": ["role", "content"],
    "properties": {
        "type": {"const": "message"},
        "role": {"const": "user"},
        "content": {"anyOf": [{"type": "string"}, {"type": "array", "items": _PART}]},
    },
    "description": "Other roles, and items of calls and reasoning, are answered too.",
}
RESPONSE: Schema = {
    "type": "object",
    "required": ["id", "object", "created_at", "status", "model", "output", "usage", "incomplete_details", "error"],
    "properties": {
        "object": {"const": "response"},
        "status": {"enum": ["completed", "incomplete"]},
        "output": {"type": "array", "items": {"type": "object", "required": ["type", "id"]}},
        "usage": {"type": "object", "required": ["input_tokens", "output_tokens", "total_tokens"]},
    },
}


def body_schema(names: Sequence[str]) -> Schema:
    """The schema of the body for a server that answers to `names`."""
    numbers: dict[str, Schema] = {
        name: {"type": ["number", "null"], "minimum": RANGES[name].low, "maximum": RANGES[name].high}
        for name in ("temperature", "top_p")
    }
    return {
        "type": "object",
        "required": ["input"],
        "properties": {
            "model": {"enum": [*names, None]},
            "input": {"anyOf": [{"type": "string"}, {"type": "array", "items": _MESSAGE, "minItems": 1}]},
            "instructions": {"type": ["string", "null"]},
            "max_output_tokens": {"type": ["integer", "null"], "minimum": 1, "maximum": MAX_ID},
            "stream": {"type": ["boolean", "null"]},
            "store": {"type": ["boolean", "null"], "description": "Nothing is stored."},
            "parallel_tool_calls": {"type": ["boolean", "null"]},
            "truncation": {"enum": ["disabled", None]},
            "metadata": {"type": ["object", "null"]},
            **numbers,
        },
        "additionalProperties": _NULL,
    }
