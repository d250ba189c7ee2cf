"""What every HTTP exchange passes before a route sees it: request id, key, size of the body. Plain ASGI.

Starlette's `BaseHTTPMiddleware` would hide a client's disconnect from the routes, so it is not used. Decisions look
at `scope["path"]`, which the client's Host header cannot change.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flover.server.errors import DoorError, error_response

OPEN_PATHS = frozenset({"/health", "/dashboard"})
"""Everything else wants the key, if there is one: also what does not exist. The dashboard asks for it itself."""
MAX_BODY_BYTES = 2 * 2**20
_REQUEST_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class RequestId:
    """Answers carry `X-Request-Id`: the client's own if it is harmless, else one of ours."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        wanted = Headers(scope=scope).get("x-request-id", "")
        request_id = wanted if _REQUEST_ID.fullmatch(wanted) else uuid.uuid4().hex

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
            await send(message)

        await self._app(scope, receive, send_with_id)


class ApiKey:
    """Lets through who sends `Authorization: Bearer KEY`. Keys are compared as digests, in constant time."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app = app
        self._digest = _digest(key.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS and not self._knows(scope):
            error = DoorError(401, "the API key is missing or wrong", code="invalid_api_key")
            await error_response(error)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _knows(self, scope: Scope) -> bool:
        sent = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(sent) != 1:
            return False
        scheme, _, key = sent[0].partition(b" ")
        return hmac.compare_digest(_digest(key.strip()), self._digest) and scheme.lower() == b"bearer"


class BodyLimit:
    """Reads the body before the route does and answers 413 when it is longer than `MAX_BODY_BYTES`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = await _read_body(scope, receive)
        if body is None:
            error = DoorError(413, f"the body is longer than {MAX_BODY_BYTES} bytes")
            await error_response(error, {"Connection": "close"})(scope, receive, send)
            return
        await self._app(scope, _replay(body, receive), send)


async def _read_body(scope: Scope, receive: Receive) -> Message | None:
    """The body as one message (or the news that the client is gone); None when it is too long."""
    announced = Headers(scope=scope).get("content-length", "0")
    if announced.isdigit() and int(announced) > MAX_BODY_BYTES:
        return None
    parts: list[bytes] = []
    length, more = 0, True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            return message
        parts.append(message.get("body", b""))
        length += len(parts[-1])
        if length > MAX_BODY_BYTES:
            return None
        more = message.get("more_body", False)
    return {"type": "http.request", "body": b"".join(parts), "more_body": False}


def _replay(first: Message, receive: Receive) -> Receive:
    waiting = [first]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
