"""The table of routes. Each hands over to the module that does the work."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from flover.errors import RequestError
from flover.server import chat, completions, metrics
from flover.server.dashboard import dashboard
from flover.server.door import Door
from flover.server.http_keys import salt_of
from flover.server.live import watch
from flover.server.protocol import ChatBody, CompletionBody, DetokenizeBody, TokenizeBody
from flover.server.responses import json_response
from flover.text.tokenizer import Tokenizer

router = APIRouter()


def _door(request: Request) -> Door:
    door: Door = request.app.state.door
    return door


@router.post("/v1/completions")
async def create_completion(body: CompletionBody, request: Request) -> Response:
    """Continue a text."""
    return await completions.create_completion(_door(request), body, request.receive, salt_of(request.scope))


@router.post("/v1/chat/completions")
async def create_chat_completion(body: ChatBody, request: Request) -> Response:
    """Continue a conversation."""
    return await chat.create_chat_completion(_door(request), body, request.receive, salt_of(request.scope))


@router.get("/v1/models")
async def list_models(request: Request) -> Response:
    """The models that are served: one, under each of its names."""
    door = _door(request)
    return json_response({"object": "list", "data": [_model(door, name) for name in door.model_names]})


@router.get("/v1/models/{name:path}")
async def show_model(name: str, request: Request) -> Response:
    """One model."""
    door = _door(request)
    return json_response(_model(door, door.check_model(name)))


def _model(door: Door, name: str) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": door.created,
        "owned_by": "flover",
        "root": door.model_names[0],
        "parent": None,
        "max_model_len": None if door.engine is None else door.facts.max_model_len,
    }


@router.post("/tokenize")
async def tokenize(body: TokenizeBody, request: Request) -> Response:
    """The token ids of a prompt, or of a conversation as the chat template writes it."""
    door = _door(request)
    door.check_model(body.model)
    facts = door.facts
    if (body.prompt is None) == (body.messages is None):
        raise RequestError("give either prompt or messages", param="prompt")
    ids = await _encode(door, body)
    answer: dict[str, Any] = {"count": len(ids), "max_model_len": facts.max_model_len, "tokens": ids}
    if body.return_token_strs:
        tokenizer = door.need_tokenizer("prompt")
        answer["token_strs"] = [tokenizer.token_name(token_id) for token_id in ids]
    return json_response(answer)


async def _encode(door: Door, body: TokenizeBody) -> list[int]:
    tokenizer = door.need_tokenizer("prompt" if body.messages is None else "messages")
    if body.messages is None:
        text, special = body.prompt or "", body.add_special_tokens is not False
        return await door.in_thread(lambda: tokenizer.encode(text, add_special_tokens=special))
    template, special = door.need_template(), bool(body.add_special_tokens)
    return await door.in_thread(lambda: tokenizer.encode(chat.render(template, body), add_special_tokens=special))


@router.post("/detokenize")
async def detokenize(body: DetokenizeBody, request: Request) -> Response:
    """The text of token ids, special tokens included."""
    door = _door(request)
    door.check_model(body.model)
    vocab_size = door.facts.vocab_size
    tokenizer = door.need_tokenizer("tokens")
    for token_id in body.tokens:
        if not 0 <= token_id < vocab_size:
            raise RequestError(f"token id {token_id} is out of range 0..{vocab_size - 1}", param="tokens")
    return json_response({"prompt": await door.in_thread(lambda: _decode(tokenizer, body.tokens))})


def _decode(tokenizer: Tokenizer, ids: list[int]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=False)


@router.get("/health")
async def health(request: Request) -> Response:
    """200 while an engine works; 503 while all are loading, dead, stuck, or on their way down."""
    door = _door(request)
    answer: dict[str, Any] = {"status": door.status}
    if door.engine is not None and len(door.engine.replicas) > 1:
        answer["engines"] = [replica.status for replica in door.engine.replicas]
    return json_response(answer, 200 if door.status == "ok" else 503)


@router.get("/version")
async def show_version() -> Response:
    """The version of Flover."""
    return json_response({"version": version("flover")})


@router.get("/live")
async def show_live(request: Request, engine: int = 0) -> Response:
    """An engine's iterations as they happen, as a stream of events."""
    return watch(_door(request).live, engine)


@router.get("/dashboard")
async def show_dashboard() -> Response:
    """The page that watches `/live`."""
    return dashboard()


@router.get("/metrics")
async def show_metrics(request: Request) -> Response:
    """Metrics for Prometheus."""
    return Response(_door(request).metrics.exposition(), headers={"Content-Type": metrics.CONTENT_TYPE})
