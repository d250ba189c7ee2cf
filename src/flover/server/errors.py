"""Error responses in OpenAI's format; the status and type of every error.

    {"error": {"message": ..., "type": ..., "param": ... or null, "code": ... or null}}

The text of an unexpected exception goes to the log, never to a client.
"""

from __future__ import annotations

import difflib
import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from flover.errors import DeadlineError, EngineError, RequestError
from flover.sampling_checks import THINKING

ANTHROPIC_PATH = "/v1/messages"
"""The path, and the beginning of paths, whose errors have Anthropic's format."""
OLLAMA_PATH = "/api/"
"""The beginning of paths whose errors have Ollama's format."""
RETRY_SECONDS = 1
"""`Retry-After` in seconds when the server is full, loading or shutting down."""

logger = logging.getLogger(__name__)

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "service_unavailable",
}


class HttpError(Exception):
    """The server answers with this status and message."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float = RETRY_SECONDS,
    ) -> None:
        """`retry_after` is in seconds; only a 429 or 503 tells it."""
        super().__init__(message)
        self.retry_after = retry_after
        self.status = status
        self.message = message
        self.param = param
        self.code = code


class ClientGone(Exception):  # noqa: N818  # an event, not a fault
    """The client closed the connection before its response was complete."""


_BUG = HttpError(500, "the server failed on this request; its log says why", code="internal_error")


class Unavailable(HttpError):  # noqa: N818  # named after the answer
    """503: the engine is loading or has died, or the server is shutting down."""

    def __init__(self, message: str) -> None:
        super().__init__(503, message, code="service_unavailable")


def as_http_error(error: Exception) -> HttpError:
    """The answer to an exception from anywhere below; unexpected ones are logged."""
    if isinstance(error, HttpError):
        return error
    if isinstance(error, RequestError):
        return HttpError(400, error.message, param=error.param, code=error.code)
    if isinstance(error, DeadlineError):
        return HttpError(error.http_status, str(error), param="deadline_ms", code="deadline_exceeded")
    if isinstance(error, EngineError):
        unavailable = error.http_status == 503
        return Unavailable(str(error)) if unavailable else HttpError(500, str(error), code="generation_failed")
    logger.error("a request failed unexpectedly", exc_info=error)
    return _BUG


def envelope(error: HttpError) -> dict[str, Any]:
    """The body of an error response, or of an error event in a stream."""
    kind = _TYPES.get(error.status, "server_error" if error.status >= 500 else "invalid_request_error")
    return {"error": {"message": error.message, "type": kind, "param": error.param, "code": error.code}}


def anthropic_envelope(error: HttpError) -> dict[str, Any]:
    """The same in Anthropic's format: without a parameter, and with its name for the budget of reasoning."""
    own = {413: "request_too_large", 503: "overloaded_error"}
    kind = own.get(error.status, _TYPES.get(error.status, "invalid_request_error"))
    message = error.message
    if message.startswith(f"{THINKING}:"):
        message = "thinking.budget_tokens" + message.removeprefix(THINKING)
    # Claude Code knows it by these words, and shortens the conversation.
    if error.code == "context_length_exceeded" and error.param != "max_tokens":
        message = f"prompt is too long: {message}"
    return {"type": "error", "error": {"type": "api_error" if error.status == 500 else kind, "message": message}}


def ollama_envelope(error: HttpError) -> dict[str, Any]:
    """The same in Ollama's format."""
    return {"error": error.message}


def _envelope_of(path: str) -> Callable[[HttpError], dict[str, Any]]:
    """The error format of the API that a path belongs to."""
    if path.startswith(ANTHROPIC_PATH):
        return anthropic_envelope
    return ollama_envelope if path.startswith(OLLAMA_PATH) else envelope


def error_response(error: HttpError, headers: Mapping[str, str] | None = None, *, path: str = "") -> Response:
    """The response to a request that failed before its response began, in the format of the path's API."""
    own = {"Retry-After": str(math.ceil(error.retry_after))} if error.status in (429, 503) else {}
    if error.status == 401:
        own["WWW-Authenticate"] = "Bearer"
    return Response(
        msgspec.json.encode(_envelope_of(path)(error)),
        status_code=error.status,
        media_type="application/json",
        headers={**(headers or {}), **own},
    )


def error_handlers() -> dict[Any, Callable[[Request, Exception], Awaitable[Response]]]:
    """Handlers that turn every exception of a route into an error response."""
    return {
        HTTPException: _on_http,
        ClientDisconnect: _on_disconnect,
        ClientGone: _on_disconnect,
        HttpError: _on_error,
        RequestError: _on_error,
        EngineError: _on_error,
        Exception: _on_bug,
    }


async def _on_error(request: Request, error: Exception) -> Response:
    return error_response(as_http_error(error), path=request.scope["path"])


async def _on_bug(request: Request, error: Exception) -> Response:
    """Respond to an unexpected exception; Starlette then raises it again, so that the HTTP server logs it."""
    return error_response(_BUG, path=request.scope["path"])


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    method, path = request.method, request.scope["path"]
    messages = {404: f"there is no {path}{_hint(request)}", 405: f"{path} does not answer to {method}"}
    message = messages.get(error.status_code, str(error.detail))
    return error_response(HttpError(error.status_code, message), error.headers, path=path)


def _hint(request: Request) -> str:
    """The path that is like the one asked for, such as one with a slash too many."""
    paths = [route.path for route in request.app.routes]
    near = difflib.get_close_matches(request.scope["path"][:64], paths, n=1, cutoff=0.8)
    return f"; did you mean {near[0]}?" if near else ""


async def _on_disconnect(request: Request, error: Exception) -> Response:
    """Respond after a disconnect: no client reads it, and it is not an error to log."""
    return error_response(HttpError(400, "the client has closed the connection"))
