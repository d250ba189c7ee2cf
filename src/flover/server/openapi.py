"""`/openapi.json`, generated from the types of bodies and responses and from the configured limits.

`/live` is left out: OpenAPI cannot describe its endless response.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import msgspec

from flover.config import ServerConfig
from flover.server.anthropic import schemas as anthropic
from flover.server.batches import schemas as batches
from flover.server.batches.routes import MAX_PAGE
from flover.server.ollama import schemas as ollama
from flover.server.openai_responses import schemas as openai_responses
from flover.server.openapi_bodies import ServedModel, body_schemas
from flover.server.openapi_shapes import NULL
from flover.server.responses import ChatChunk, ChatCompletion, Completion

JSON = "application/json"
EVENTS = "text/event-stream"
TEXT = "text/plain"
STATUSES = {
    400: "The request is wrong: the error says what and where.",
    401: "The API key is missing or wrong.",
    403: "The Host or the Origin is not allowed.",
    404: "There is no such route or model.",
    405: "The route does not support this method.",
    409: "The state of a batch or file does not allow it.",
    408: "The headers or the body arrived too slowly.",
    413: "The body is longer than --max-body-bytes.",
    414: "The path and query are longer than --max-url-bytes.",
    415: "The body is not JSON, or is compressed.",
    429: "Too many requests are open, a key has used its rate, or deadline_ms is not kept: see Retry-After.",
    431: "The headers are larger than --max-header-bytes or more than --max-header-count.",
    500: "The server failed on this request.",
    501: "The method or the transfer coding is not supported.",
    503: "The model is being loaded or restarted, or the server shuts down; try again after Retry-After seconds.",
}
"""Errors of every route; most are decided before routing."""

OBJECT = {"type": "object"}
_REF = "#/components/schemas/{name}"
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_MODEL = {
    "type": "object",
    "required": ["id", "object", "created", "owned_by", "max_model_len"],
    "properties": {
        "id": {"type": "string"},
        "object": {"const": "model"},
        "created": {"type": "integer"},
        "owned_by": {"type": "string"},
        "max_model_len": {"type": ["integer", "null"]},
    },
}
_MODELS = {
    "type": "object",
    "required": ["object", "data"],
    "properties": {"object": {"const": "list"}, "data": {"type": "array", "items": _MODEL}},
}
_TOKENS = {
    "type": "object",
    "required": ["count", "max_model_len", "tokens", "token_strs"],
    "properties": {
        "count": {"type": "integer"},
        "max_model_len": {"type": "integer"},
        "tokens": {"type": "array", "items": {"type": "integer"}},
        "token_strs": {"type": ["array", "null"], "items": {"type": "string"}},
    },
}
_EMBEDDINGS = {
    "type": "object",
    "required": ["object", "data", "model", "usage"],
    "properties": {"object": {"const": "list"}, "data": {"type": "array", "items": OBJECT}, "usage": OBJECT},
}
_ADAPTER_BODIES = {
    f"{verb}AdapterBody": {
        "type": "object",
        "required": names,
        "properties": {name: {"type": "string", "minLength": 1} for name in names},
        "additionalProperties": NULL,
    }
    for verb, names in (("Load", ["lora_name", "lora_path"]), ("Unload", ["lora_name"]))
}
_TEXT = {"type": "object", "required": ["prompt"], "properties": {"prompt": {"type": "string"}}}
_STATUS = {"type": "object", "required": ["status"], "properties": {"status": {"type": "string"}}}


def openapi(config: ServerConfig, served: ServedModel) -> dict[str, Any]:
    """The document for a server with these settings."""
    answers, components = msgspec.json.schema_components([Completion, ChatCompletion, ChatChunk], ref_template=_REF)
    completion, chat, _ = answers
    components |= body_schemas(config, served) | {"Error": _ERROR}
    components |= anthropic.body_schemas(served.names, config.limits.max_stop_strings)
    components |= ollama.body_schemas(served, config.limits.max_request_seqs)
    components |= _ADAPTER_BODIES
    components |= batches.object_schemas(_REF) | {"BatchBody": batches.BATCH_BODY}
    components["ResponsesBody"] = openai_responses.body_schema(served.names)
    components["ChatChunk"]["description"] = "One event of a streamed answer."
    paths = {
        "/v1/completions": _post("Continue texts", "CompletionBody", {JSON: completion, EVENTS: {}}),
        "/v1/chat/completions": _post("Continue a conversation", "ChatBody", {JSON: chat, EVENTS: {}}),
        "/v1/embeddings": _post("A vector for each text", "EmbeddingBody", {JSON: _EMBEDDINGS}),
        "/v1/responses": _post(
            "Continue a conversation", "ResponsesBody", {JSON: openai_responses.RESPONSE, EVENTS: {}}
        ),
        **_anthropic_paths(),
        **_ollama_paths(),
        "/v1/load_lora_adapter": _post("Serve an adapter", "LoadAdapterBody", {TEXT: {"type": "string"}}),
        "/v1/unload_lora_adapter": _post("Serve it no more", "UnloadAdapterBody", {TEXT: {"type": "string"}}),
        **_batch_paths(),
        "/tokenize": _post("The token ids of a prompt or a conversation", "TokenizeBody", {JSON: _TOKENS}),
        "/detokenize": _post("The text of token ids", "DetokenizeBody", {JSON: _TEXT}),
        "/tokenizer_info": _get("The special tokens, and the chat template", {JSON: OBJECT}),
        "/v1/models": _get("The models that are served", {JSON: _MODELS}),
        "/v1/models/{name}": _get("One model", {JSON: _MODEL}, [_path_parameter("name")]),
        "/v1/requests/{id}/timeline": _get(
            "Where the time of an ended request went", {JSON: OBJECT}, [_path_parameter("id")]
        ),
        "/health": _get("Whether requests are taken", {JSON: _STATUS}, own={503: _STATUS}),
        "/livez": _get("Whether the server runs", {JSON: _STATUS}),
        "/version": _get("The version of Flover", {JSON: OBJECT}),
        "/metrics": _get("Metrics for Prometheus", {TEXT: {"type": "string"}}),
        "/dashboard": _get("A page that watches the engine", {"text/html": {"type": "string"}}),
        "/openapi.json": _get("This document", {JSON: OBJECT}),
        "/": _get("Where things are, or a chat page for browsers", {JSON: OBJECT, "text/html": {"type": "string"}}),
        "/v1": _get("Where things are", {JSON: OBJECT}),
    }
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "Flover", "version": version("flover")},
        "paths": paths,
        "components": {"schemas": components},
    }
    if config.api_key:
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
    return document


def _anthropic_paths() -> dict[str, Any]:
    posts = (
        ("/v1/messages", "Continue a conversation", "MessagesBody", {JSON: anthropic.MESSAGE, EVENTS: {}}),
        ("/v1/messages/count_tokens", "The tokens of a conversation", "CountBody", {JSON: anthropic.COUNT}),
    )
    return _with_errors(
        {path: _post(summary, body, answers) for path, summary, body, answers in posts}, "AnthropicError"
    )


def _ollama_paths() -> dict[str, Any]:
    lines = {"application/x-ndjson": {}, JSON: ollama.ANSWER}
    posts = (
        ("/api/chat", "Continue a conversation", "OllamaChatBody", lines),
        ("/api/generate", "Answer a prompt", "OllamaGenerateBody", lines),
        ("/api/show", "What is known of the model", "OllamaShowBody", {JSON: ollama.MODEL}),
        ("/api/embed", "A vector for each text", "OllamaEmbedBody", {JSON: ollama.VECTORS}),
        ("/api/embeddings", "The vector of a text", "OllamaEmbeddingsBody", {JSON: ollama.VECTOR}),
    )
    gets = {
        "/api/tags": _get("The models that are served", {JSON: ollama.MODELS}),
        "/api/ps": _get("The models that are in memory", {JSON: ollama.MODELS}),
        "/api/version": _get("The version of Ollama whose API this is", {JSON: OBJECT}),
    }
    return _with_errors(
        {**{path: _post(summary, body, answers) for path, summary, body, answers in posts}, **gets}, "OllamaError"
    )


def _batch_paths() -> dict[str, Any]:
    file, batch = {"$ref": _REF.format(name="FileObject")}, {"$ref": _REF.format(name="Batch")}
    of_file, of_batch = [_path_parameter("file_id")], [_path_parameter("batch_id")]
    purpose = {"name": "purpose", "in": "query", "required": False, "schema": {"type": "string"}}
    upload = {"required": True, "content": {"multipart/form-data": {"schema": batches.UPLOAD}}}
    files, pages = MAX_PAGE["files"], MAX_PAGE["batches"]
    return {
        "/v1/files": {
            "post": {"summary": "Keep a file", "requestBody": upload, "responses": _responses({JSON: file}, {})},
            **_get("The files", {JSON: batches.page_of(file)}, [*batches.QUERY, batches.limit(files), purpose]),
        },
        "/v1/files/{file_id}": {
            **_get("What a file is", {JSON: file}, of_file),
            "delete": _get("Remove a file", {JSON: batches.DELETED}, of_file)["get"],
        },
        "/v1/files/{file_id}/content": _get("A file's content", {"application/octet-stream": {}}, of_file),
        "/v1/batches": {
            **_post("Answer the requests of a file", "BatchBody", {JSON: batch}),
            **_get("The batches", {JSON: batches.page_of(batch)}, [*batches.QUERY, batches.limit(pages)]),
        },
        "/v1/batches/{batch_id}": _get("How far a batch is", {JSON: batch}, of_batch),
        "/v1/batches/{batch_id}/cancel": {"post": _get("Stop a batch", {JSON: batch}, of_batch)["get"]},
    }


def _with_errors(paths: dict[str, Any], name: str) -> dict[str, Any]:
    """The paths, whose errors have a format of their own; what is not HTTP is refused in OpenAI's."""
    error = {"anyOf": [{"$ref": _REF.format(name=one)} for one in (name, "Error")]}
    for route in paths.values():
        for operation in route.values():
            for status in STATUSES:
                operation["responses"][str(status)]["content"][JSON]["schema"] = error
    return paths


def _post(summary: str, body: str, answers: dict[str, Any]) -> dict[str, Any]:
    content = {JSON: {"schema": {"$ref": _REF.format(name=body)}}}
    return {
        "post": {
            "summary": summary,
            "requestBody": {"required": True, "content": content},
            "responses": _responses(answers, {}),
        }
    }


def _get(
    summary: str,
    answers: dict[str, Any],
    parameters: list[dict[str, Any]] | None = None,
    own: dict[int, dict[str, Any]] | None = None,
) -> dict[str, Any]:
    return {"get": {"summary": summary, "parameters": parameters or [], "responses": _responses(answers, own or {})}}


def _responses(answers: dict[str, Any], own: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """`own` are responses with an error status that are not, or not only, in the error format."""
    error = {"$ref": _REF.format(name="Error")}
    found: dict[str, Any] = {
        "200": {
            "description": "The response; with stream: true, server-sent events of its chunks."
            if EVENTS in answers
            else "The response.",
            "content": {media_type: {"schema": schema} for media_type, schema in answers.items()},
        }
    }
    for status, description in STATUSES.items():
        schema = {"anyOf": [own[status], error]} if status in own else error
        found[str(status)] = {"description": description, "content": {JSON: {"schema": schema}}}
    return found


def _path_parameter(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
