"""JSON Schemas of `/v1/responses` for `/openapi.json`. They describe text; other items are left to OpenAI's
documentation."""

from __future__ import annotations

from collections.abc import Sequence

from flover.sampling_checks import MAX_ID
from flover.server.openai_responses.translate import MoreSamplingBody
from flover.server.openapi_shapes import FLAG, OBJECT, TEXT, Schema, body, numbers, text_or_parts, user_message

_MESSAGE = user_message(
    text_or_parts({"enum": ["input_text", "output_text"]}),
    "Other roles, and items of calls and reasoning, are answered too.",
    type={"const": "message"},
)
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
    properties: dict[str, Schema] = {
        "model": {"enum": [*names, None]},
        "input": {"anyOf": [{"type": "string"}, {"type": "array", "items": _MESSAGE, "minItems": 1}]},
        "instructions": TEXT,
        "max_output_tokens": {"type": ["integer", "null"], "minimum": 1, "maximum": MAX_ID},
        "stream": FLAG,
        "store": FLAG | {"description": "Nothing is stored."},
        "parallel_tool_calls": FLAG,
        "truncation": {"enum": ["disabled", None]},
        "metadata": OBJECT,
        **numbers(MoreSamplingBody.__struct_fields__),
        "ignore_eos": FLAG,
    }
    return body(properties, ["input"])
