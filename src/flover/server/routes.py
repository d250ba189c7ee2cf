"""The routes of the server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive

from flover.config import Limits
from flover.errors import RequestError, wrong_value
from flover.server import adapter_routes, chat, completions, conversation, embeddings, metrics
from flover.server.anthropic import messages
from flover.server.anthropic.bodies import CountBody, MessagesBody
from flover.server.anthropic.translate import to_chat as message_to_chat
from flover.server.app_state import AppState
from flover.server.batches import routes as batches
from flover.server.dashboard import dashboard
from flover.server.errors import HttpError
from flover.server.http_keys import salt_of
from flover.server.live import watch
from flover.server.ollama import answers, embed, models
from flover.server.ollama.translate import (
    OllamaChatBody,
    OllamaEmbedBody,
    OllamaEmbeddingsBody,
    OllamaGenerateBody,
    OllamaShowBody,
)
from flover.server.openai_responses import responses
from flover.server.openai_responses.translate import ResponsesBody
from flover.server.openapi import openapi
from flover.server.openapi_bodies import ServedModel
from flover.server.protocol import ChatBody, CompletionBody, DetokenizeBody, EmbeddingBody, TokenizeBody
from flover.server.read_request import convert_request, read_request, state_of
from flover.server.responses import json_response
from flover.text.prompts import encode_text
from flover.text.tokenizer import Tokenizer

CHARS_PER_TOKEN = 4
"""Approximate number of characters per token."""
B = TypeVar("B", bound=msgspec.Struct)
T = TypeVar("T")


def _answers(
    kind: type[B], respond: Callable[[AppState, B, Receive, str], Awaitable[Response]]
) -> Callable[[Request], Awaitable[Response]]:
    """The handler of a route that generates: `respond` gets the body as a `kind`, and the salt of the request's key."""

    async def handle(request: Request) -> Response:
        body = await read_request(request, kind)
        return await respond(state_of(request), body, request.receive, salt_of(request.scope))

    return handle


def _converts(
    kind: type[B],
    convert: Callable[[B, Limits], T],
    respond: Callable[[AppState, T, Receive, str], Awaitable[Response]],
) -> Callable[[Request], Awaitable[Response]]:
    """The same for a body of another API, which `convert` translates first."""

    async def handle(request: Request) -> Response:
        asked = await convert_request(request, kind, convert)
        return await respond(state_of(request), asked, request.receive, salt_of(request.scope))

    return handle


async def ollama_tags(request: Request) -> Response:
    """The served model, in Ollama's API."""
    return models.tags(state_of(request))


async def ollama_ps(request: Request) -> Response:
    """The loaded model, in Ollama's API."""
    return models.running(state_of(request))


async def ollama_show(request: Request) -> Response:
    """What is known of the model, in Ollama's API."""
    return models.show(state_of(request), await read_request(request, OllamaShowBody))


async def ollama_version(request: Request) -> Response:
    """The version of Ollama's API."""
    return models.version(state_of(request))


async def count_message_tokens(request: Request) -> Response:
    """The number of tokens of a conversation, in Anthropic's API."""
    return await messages.count_tokens(state_of(request), await convert_request(request, CountBody, message_to_chat))


async def list_models(request: Request) -> Response:
    """The served model, under each of its names, and its adapters."""
    state = state_of(request)
    names = [*state.model_names, *state.adapters.names]
    return json_response({"object": "list", "data": [_model(state, name) for name in names]})


async def show_model(request: Request) -> Response:
    """One model."""
    state = state_of(request)
    return json_response(_model(state, state.check_model(request.path_params["name"])))


def _model(state: AppState, name: str) -> dict[str, Any]:
    adapter = state.adapters.get(name)
    return {
        "id": name,
        "object": "model",
        "created": state.created,
        "owned_by": "flover",
        "root": state.model_names[0] if adapter is None else adapter.path,
        "parent": None if adapter is None else state.model_names[0],
        "max_model_len": None if state.supervisor is None else state.facts.max_model_len,
    }


async def tokenize(request: Request) -> Response:
    """The token ids of a prompt, or of a conversation rendered by the chat template."""
    state, body = state_of(request), await read_request(request, TokenizeBody)
    state.check_model(body.model)
    facts = state.facts
    if (body.prompt is None) == (body.messages is None):
        raise RequestError("give either prompt or messages", param="prompt")
    ids = await _encode(state, body)
    answer: dict[str, Any] = {
        "count": len(ids),
        "max_model_len": facts.max_model_len,
        "tokens": ids,
        "token_strs": None,
    }
    if body.return_token_strs:
        tokenizer = state.need_tokenizer("prompt")
        answer["token_strs"] = [tokenizer.token_name(token_id) for token_id in ids]
    return json_response(answer)


async def _encode(state: AppState, body: TokenizeBody) -> list[int]:
    tokenizer, facts = state.need_tokenizer("prompt" if body.messages is None else "messages"), state.facts
    if body.messages is None:
        text, special = body.prompt or "", body.add_special_tokens is not False
        return await state.in_thread(
            lambda: encode_text(text, tokenizer, facts, add_special_tokens=special), num_chars=len(text)
        )
    template, special = state.need_template(), bool(body.add_special_tokens)
    return await state.in_thread(
        lambda: encode_text(conversation.render(template, body), tokenizer, facts, add_special_tokens=special),
        num_chars=sum(message.num_chars for message in body.messages or ()),
    )


async def detokenize(request: Request) -> Response:
    """The text of token ids, special tokens included."""
    state, body = state_of(request), await read_request(request, DetokenizeBody)
    state.check_model(body.model)
    vocab_size = state.facts.vocab_size
    tokenizer = state.need_tokenizer("tokens")
    low, high = min(body.tokens, default=0), max(body.tokens, default=0)
    if low < 0 or high >= vocab_size:
        raise RequestError(f"token id {low if low < 0 else high} is out of range 0..{vocab_size - 1}", param="tokens")
    num_chars = CHARS_PER_TOKEN * len(body.tokens)
    return json_response({"prompt": await state.in_thread(lambda: _decode(tokenizer, body.tokens), num_chars)})


def _decode(tokenizer: Tokenizer, ids: list[int]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=False)


async def show_tokenizer(request: Request) -> Response:
    """The special tokens and the chat template, under the names of tokenizer_config.json, as in vLLM."""
    state = state_of(request)
    found: dict[str, Any] = {"eos_token": None, **state.need_tokenizer("tokenizer_info").special_tokens}
    return json_response(found | ({} if state.template is None else {"chat_template": state.template.source}))


async def show_timeline(request: Request) -> Response:
    """Where the time of an ended request of the same client went; `id` is that of its X-Request-Id header."""
    found = state_of(request).usage.timeline(salt_of(request.scope), request.path_params["id"])
    if found is None:
        raise HttpError(404, "no request of this id has ended here lately; the id is that of the header X-Request-Id")
    return Response(found, media_type="application/json")


async def health(request: Request) -> Response:
    """200 while an engine runs; 503 while all are loading, dead, stalled or shutting down."""
    state = state_of(request)
    answer: dict[str, Any] = {"status": state.status}
    if state.supervisor is not None and len(state.supervisor.replicas) > 1:
        answer["engines"] = [replica.status for replica in state.supervisor.replicas]
    return json_response(answer, 200 if state.status == "ok" else 503)


async def show_version(request: Request) -> Response:
    """The version of Flover."""
    return json_response({"version": version("flover")})


async def show_live(request: Request) -> Response:
    """An engine's iterations as they happen, as a stream of events. `?engine=1` is the second engine."""
    engine = request.query_params.get("engine", "0")
    if not (engine.isascii() and engine.isdigit() and len(engine) <= 4):
        raise wrong_value("engine", "the number of an engine", engine)
    return watch(state_of(request).live, int(engine))


async def show_dashboard(request: Request) -> Response:
    """The dashboard page, which shows `/live`."""
    return dashboard()


async def show_metrics(request: Request) -> Response:
    """Metrics for Prometheus."""
    return Response(state_of(request).metrics.exposition(), headers={"Content-Type": metrics.CONTENT_TYPE})


async def show_openapi(request: Request) -> Response:
    """The OpenAPI document of this server."""
    state = state_of(request)
    if state.supervisor is None:
        return json_response(openapi(state.config, ServedModel(names=state.model_names)))
    roles = {} if state.template is None else {"roles": state.template.roles}
    empty = state.tokenizer is not None and bool(state.tokenizer.encode(""))
    served = ServedModel(
        names=state.model_names,
        facts=state.facts,
        constrains=state.tokenizer is not None,
        calls=state.output_format.tools is not None or (state.template is not None and not state.template.writes_tools),
        thinks=state.output_format.thinking_markers is not None,
        empty_prompt=empty,
        **roles,
    )
    return json_response(openapi(state.config, served))


ROUTES = [
    Route("/v1/completions", _answers(CompletionBody, completions.create_completion), methods=["POST"]),
    Route("/v1/chat/completions", _answers(ChatBody, chat.create_chat_completion), methods=["POST"]),
    Route("/v1/embeddings", _answers(EmbeddingBody, embeddings.create_embeddings), methods=["POST"]),
    Route("/v1/responses", _converts(ResponsesBody, responses.read, responses.create_response), methods=["POST"]),
    Route("/v1/messages", _converts(MessagesBody, message_to_chat, messages.create_message), methods=["POST"]),
    Route("/v1/messages/count_tokens", count_message_tokens, methods=["POST"]),
    Route("/api/chat", _converts(OllamaChatBody, answers.read, answers.create), methods=["POST"]),
    Route("/api/generate", _converts(OllamaGenerateBody, answers.read, answers.create), methods=["POST"]),
    Route("/api/embed", _converts(OllamaEmbedBody, embed.read, embed.create), methods=["POST"]),
    Route("/api/embeddings", _converts(OllamaEmbeddingsBody, embed.read, embed.create), methods=["POST"]),
    Route("/api/tags", ollama_tags),
    Route("/api/ps", ollama_ps),
    Route("/api/show", ollama_show, methods=["POST"]),
    Route("/api/version", ollama_version),
    Route("/v1/models", list_models),
    Route("/v1/models/{name:path}", show_model),
    Route("/v1/requests/{id}/timeline", show_timeline),
    *adapter_routes.ROUTES,
    *batches.ROUTES,
    Route("/tokenize", tokenize, methods=["POST"]),
    Route("/detokenize", detokenize, methods=["POST"]),
    Route("/tokenizer_info", show_tokenizer),
    Route("/health", health),
    Route("/version", show_version),
    Route("/live", show_live),
    Route("/dashboard", show_dashboard),
    Route("/metrics", show_metrics),
    Route("/openapi.json", show_openapi),
]
