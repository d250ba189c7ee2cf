"""JSON Schemas of Ollama's API for `/openapi.json`. They describe text; tools are left to Ollama's documentation."""

from __future__ import annotations

from flover.request import MAX_HIDDEN_SIZE
from flover.server.openapi_bodies import ServedModel
from flover.server.openapi_shapes import FLAG, TEXT, Schema, body, user_message

_MESSAGE = user_message({"type": "string"}, "Other roles are answered too.")
ANSWER: Schema = {"type": "object", "required": ["model", "created_at", "done"]}
MODELS: Schema = {"type": "object", "required": ["models"], "properties": {"models": {"type": "array"}}}
MODEL: Schema = {"type": "object", "required": ["template", "model_info", "capabilities"]}
VECTORS: Schema = {
    "type": "object",
    "required": ["model", "embeddings"],
    "properties": {"embeddings": {"type": "array"}},
}
VECTOR: Schema = {"type": "object", "required": ["embedding"], "properties": {"embedding": {"type": "array"}}}
ERROR: Schema = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}


def body_schemas(served: ServedModel, max_texts: int) -> dict[str, Schema]:
    """The schemas of the bodies, by the names of their types."""
    common: dict[str, Schema] = {
        "model": {"enum": [*served.names, None]},
        "stream": FLAG | {"description": "On by default."},
        "think": FLAG,
    }
    chat = {"messages": {"type": ["array", "null"], "items": _MESSAGE}}
    most = MAX_HIDDEN_SIZE if served.facts is None else served.facts.hidden_size
    size: Schema = {"type": ["integer", "null"], "minimum": 1, "maximum": most}
    text: Schema = {"type": "string", "minLength": 0 if served.empty_prompt else 1}
    texts: Schema = {"type": "array", "items": text, "maxItems": max_texts}
    return {
        "OllamaShowBody": body({"model": common["model"]}),
        "OllamaEmbedBody": body(
            {"model": common["model"], "input": {"anyOf": [TEXT, texts]}, "truncate": FLAG, "dimensions": size}
        ),
        "OllamaEmbeddingsBody": body({"model": common["model"], "prompt": TEXT}),
        "OllamaChatBody": body(common | chat),
        "OllamaGenerateBody": body(common | {"prompt": TEXT, "system": TEXT}),
        "OllamaError": ERROR,
    }
