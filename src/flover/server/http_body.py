"""Middleware that reads request bodies before routing, with limits of size, time and memory."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flover.config import Limits
from flover.server.errors import HttpError, error_response


def check_headers(scope: Scope, most: int, flag: str) -> None:
    """Raises `HttpError` for a body that must not be read; `flag` is that of its `most` bytes."""
    for name, value in scope["headers"]:
        if name == b"content-length":
            if value.isdigit() and int(value[:20]) > most:
                raise too_long(most, flag)
        elif name == b"content-encoding":
            if value.strip().lower() not in (b"", b"identity"):
                raise HttpError(415, f"Content-Encoding {_shown(value)} is not supported: send the body as it is")
        elif name == b"transfer-encoding" and value.strip().lower() != b"chunked":
            raise HttpError(501, f"Transfer-Encoding {_shown(value)} is not supported, only chunked is")


def too_long(most: int, flag: str) -> HttpError:
    """The error about a body of more than `most` bytes."""
    return HttpError(413, f"the body is longer than {flag} {most}")


class BodyLimit:
    """Reads the body, and responds 413, 408, 415, 501 or 503 to one that is too long, too slow, encoded, or beyond the
    memory limit."""

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self._app = app
        self._limits = limits
        self._pending = PendingBodies(limits.max_pending_body_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            check_headers(scope, self._limits.max_body_bytes, "--max-body-bytes")
            body = await receive()
            if body["type"] == "http.request":
                if len(body.get("body", b"")) > self._limits.max_body_bytes:
                    raise too_long(self._limits.max_body_bytes, "--max-body-bytes")
                if body.get("more_body", False):
                    body = await self._read_on(body["body"], receive)
        except HttpError as error:
            await refuse(error, scope, receive, send)
            return
        await self._app(scope, _replay(body, receive), send)

    async def _read_on(self, start: bytes, receive: Receive) -> Message:
        """The whole body as one message, or the disconnect message. Limits apply from the second part on: until the
        first has arrived, the connection's timeout applies."""
        body = bytearray(start)
        timeout = asyncio.timeout(self._limits.body_timeout)
        self._pending.add(timeout)
        try:
            async with timeout:
                self._pending.grow(timeout, len(start))
                more = True
                while more:
                    message = await receive()
                    if message["type"] != "http.request":
                        return message
                    part = message.get("body", b"")
                    body += part
                    if len(body) > self._limits.max_body_bytes:
                        raise too_long(self._limits.max_body_bytes, "--max-body-bytes")
                    self._pending.grow(timeout, len(part))
                    more = message.get("more_body", False)
        except TimeoutError:
            if timeout in self._pending:
                seconds = f"{self._limits.body_timeout:g} seconds"
                raise HttpError(408, f"the body took longer than --body-timeout {seconds}") from None
            most = self._limits.max_pending_body_bytes
            reason = f"unfinished bodies exceed --max-pending-body-bytes {most}, and this one has taken longest"
            raise HttpError(503, reason) from None
        finally:
            self._pending.remove(timeout)
        return {"type": "http.request", "body": bytes(body), "more_body": False}


class PendingBodies:
    """Bytes of all bodies that are being received, each under its timeout. Beyond the limit the oldest body is ended,
    so that slow clients do not block fast ones."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._total = 0
        self._sizes: dict[asyncio.Timeout, int] = {}

    def __contains__(self, timeout: asyncio.Timeout) -> bool:
        return timeout in self._sizes

    def add(self, timeout: asyncio.Timeout) -> None:
        """Add a new body."""
        self._sizes[timeout] = 0

    def grow(self, timeout: asyncio.Timeout, num_bytes: int) -> None:
        """Count further bytes of a body."""
        if timeout not in self._sizes:
            return
        self._sizes[timeout] += num_bytes
        self._total += num_bytes
        while self._total > self._max_bytes:
            longest = next(iter(self._sizes))
            self.remove(longest)
            longest.reschedule(asyncio.get_running_loop().time())

    def remove(self, timeout: asyncio.Timeout) -> None:
        """Remove a complete or abandoned body."""
        self._total -= self._sizes.pop(timeout, 0)


async def refuse(error: HttpError, scope: Scope, receive: Receive, send: Send) -> None:
    """Refuse a request whose body has not been read; if it has one, the connection is closed after the response."""
    has_body = any(name in (b"content-length", b"transfer-encoding") for name, _ in scope["headers"])
    headers = {"Connection": "close"} if has_body else None
    await error_response(error, headers, path=scope.get("path", ""))(scope, receive, send)


def _shown(value: bytes) -> str:
    return repr(value[:64].decode("latin-1"))


def _replay(first: Message, receive: Receive) -> Receive:
    waiting = [first]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay
