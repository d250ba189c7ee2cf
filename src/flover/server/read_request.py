"""The body of a request, and the state of its server."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec
from starlette.requests import Request

from flover.config import Limits
from flover.errors import shown
from flover.server.app_state import AppState
from flover.server.body import read_body
from flover.server.errors import HttpError

MAX_SHORT_BODY = 2**16
"""Larger bodies are decoded off the event loop: many small values can take a tenth of a second."""

B = TypeVar("B", bound=msgspec.Struct)
T = TypeVar("T")


def state_of(request: Request) -> AppState:
    """The state that the routes of this request share."""
    state: AppState = request.app.state.server
    return state


async def read_request(request: Request, kind: type[B]) -> B:
    """The body of a request as a `kind`. Raises `RequestError`, or a 415 as `HttpError`."""
    return await convert_request(request, kind, lambda body, limits: body)


async def convert_request(request: Request, kind: type[B], convert: Callable[[B, Limits], T]) -> T:
    """What a body is converted to; that of a long one is read and converted off the event loop. Raises as
    `read_request`."""
    sent = request.headers.get("content-type", "")
    media_type = sent.partition(";")[0].strip().lower()
    if not sent and request.url.path.startswith("/api/"):
        media_type = "application/json"  # Ollama does not look at it, so its clients may leave it out
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise HttpError(415, f"the body must be JSON, sent as Content-Type: application/json, got {shown(sent)}")
    state = state_of(request)
    facts = None if state.supervisor is None else state.facts
    data = await request.body()
    await state.next_round()

    def read() -> T:
        limits = state.config.limits
        return convert(read_body(data, kind, limits, strict=state.config.strict, facts=facts), limits)

    return read() if len(data) <= MAX_SHORT_BODY else await state.in_thread(read, num_chars=len(data))
