"""A request to the server's own routes, from within."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Scope

from flover.server.http_keys import KEY_SALT


@dataclass(slots=True)
class Reply:
    """A whole response. `retry_after` is in seconds."""

    status: int = 0
    request_id: str = ""
    retry_after: float = 1.0
    body: bytes = b""


async def ask(app: ASGIApp, path: str, body: bytes, key_salt: str) -> Reply:
    """POST JSON to a route of `app`, as a client whose key has this salt; cancelling it is that client's leaving."""
    reply, sent = Reply(), [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if not sent:
            await asyncio.Event().wait()  # the client stays
        return sent.pop()

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = Headers(raw=message["headers"])
            reply.status, reply.request_id = message["status"], headers.get("x-request-id", "")
            reply.retry_after = float(headers.get("retry-after", reply.retry_after))
        else:
            reply.body += message.get("body", b"")

    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
        "client": None,
        "server": None,
        KEY_SALT: key_salt,
    }
    await app(scope, receive, send)
    return reply
