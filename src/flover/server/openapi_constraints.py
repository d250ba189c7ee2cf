"""JSON Schemas of the fields that constrain an answer.

Of JSON Schemas they allow simple ones alone, of grammars none: a schema cannot say which others can be compiled. What
"format": "regex" means, llguidance compiles.
"""

from __future__ import annotations

from flover.server.openapi_shapes import FLAG, NULL, TEXT, Schema
from flover.structured_outputs import MAX_CHOICE_BYTES, MAX_CHOICES, MAX_REGEX_BYTES

_SCHEMA: Schema = {"type": "object", "properties": {"type": {"const": "object"}}, "additionalProperties": NULL}
FORMAT: Schema = {
    "anyOf": [
        {
            "type": "object",
            "required": ["type"],
            "properties": {"type": {"enum": ["text", "json_object"]}, "schema": {"anyOf": [_SCHEMA, NULL]}},
        },
        {
            "type": "object",
            "required": ["type", "json_schema"],
            "properties": {
                "type": {"const": "json_schema"},
                "json_schema": {
                    "type": "object",
                    "required": ["schema"],
                    "properties": {"name": TEXT, "description": TEXT, "strict": FLAG, "schema": _SCHEMA},
                    "additionalProperties": NULL,
                },
            },
        },
        NULL,
    ]
}
PLAIN_FORMAT: Schema = {"type": ["object", "null"], "required": ["type"], "properties": {"type": {"const": "text"}}}
_CHOICE: Schema = {"type": "string", "minLength": 1, "maxLength": MAX_CHOICE_BYTES}
_CONSTRAINTS: dict[str, Schema] = {
    "json": _SCHEMA,
    "json_object": {"const": True},
    "regex": {"type": "string", "format": "regex", "maxLength": MAX_REGEX_BYTES},
    "choice": {"type": "array", "items": _CHOICE, "minItems": 1, "maxItems": MAX_CHOICES},
}
STRUCTURED: Schema = {
    "description": "One of json (a JSON Schema), json_object, regex (the syntax of Rust), choice and grammar (Lark or "
    "GBNF). This document allows no grammar and simple JSON Schemas alone: what cannot be compiled gets a 400.",
    "anyOf": [
        {"type": "object", "required": [name], "properties": {name: schema}, "additionalProperties": NULL}
        for name, schema in _CONSTRAINTS.items()
    ]
    + [NULL],
}
TOOL: Schema = {
    "type": "object",
    "required": ["function"],
    "properties": {
        "type": {"const": "function"},
        "function": {
            "type": "object",
            "required": ["name"],
            "properties": {
                "name": {"type": "string", "minLength": 1, "maxLength": 128},
                "description": {"type": "string"},
                "parameters": {"type": ["object", "null"]},
            },
        },
    },
}
TOOL_CHOICE: Schema = {
    "description": "With tools also required, or an object that names a function or the allowed tools; arguments then "
    "follow the schema.",
    "enum": ["none", "auto", None],
}
