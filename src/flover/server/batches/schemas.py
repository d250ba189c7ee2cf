"""JSON Schemas of files and batches for `/openapi.json`."""

from __future__ import annotations

from typing import Any

import msgspec

from flover.server.batches.lines import URLS
from flover.server.batches.objects import Batch, FileObject
from flover.server.batches.store import EXPIRY_SECONDS
from flover.server.batches.upload import LEAST_EXPIRY
from flover.server.openapi_shapes import NULL, Schema, body

BATCH_BODY: Schema = body(
    {
        "input_file_id": {"type": "string"},
        "endpoint": {"enum": list(URLS)},
        "completion_window": {"enum": ["24h"]},
        "metadata": {
            "anyOf": [
                {
                    "type": "object",
                    "maxProperties": 16,
                    "propertyNames": {"maxLength": 64},
                    "additionalProperties": {"type": "string", "maxLength": 512},
                },
                NULL,
            ]
        },
    },
    ["input_file_id", "endpoint", "completion_window"],
)
UPLOAD: Schema = {
    "type": "object",
    "description": "The fields expires_after[anchor], created_at, and expires_after[seconds], "
    f"{LEAST_EXPIRY} to {EXPIRY_SECONDS}, say how long the file is kept.",
    "required": ["file", "purpose"],
    "properties": {"file": {"type": "string", "format": "binary"}, "purpose": {"enum": ["batch"]}},
    "additionalProperties": False,
}
DELETED: Schema = {
    "type": "object",
    "required": ["id", "object", "deleted"],
    "properties": {"id": {"type": "string"}, "object": {"const": "file"}, "deleted": {"const": True}},
}
QUERY: list[dict[str, Any]] = [
    {"name": "after", "in": "query", "required": False, "schema": {"type": "string"}},
    {"name": "order", "in": "query", "required": False, "schema": {"enum": ["asc", "desc"]}},
]


def limit(most: int) -> dict[str, Any]:
    """The query parameter for the objects of a page."""
    schema = {"type": "integer", "minimum": 1, "maximum": most}
    return {"name": "limit", "in": "query", "required": False, "schema": schema}


def object_schemas(ref_template: str) -> dict[str, Schema]:
    """The components of a file and a batch, and of what they hold."""
    _, components = msgspec.json.schema_components([FileObject, Batch], ref_template=ref_template)
    return dict(components)


def page_of(reference: Schema) -> Schema:
    """A page of objects."""
    return {
        "type": "object",
        "required": ["object", "data", "has_more", "first_id", "last_id"],
        "properties": {
            "object": {"const": "list"},
            "data": {"type": "array", "items": reference},
            "has_more": {"type": "boolean"},
            "first_id": {"type": ["string", "null"]},
            "last_id": {"type": ["string", "null"]},
        },
    }
