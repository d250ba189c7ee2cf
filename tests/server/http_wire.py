"""The protocol class behind a real socket, in process, in front of a small application; and bytes sent to it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import uvloop
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.server import ServerState

from flover.config import Limits
from flover.server.http_body import BodyLimit
from flover.server.http_config import HttpConfig
from flover.server.http_connections import Connections
from flover.server.http_protocol import HttpProtocol

HEAD = b"POST /v1/x HTTP/1.1\r\nHost: localhost\r\n"


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Tells what it was asked."""
    message = await receive()
    told = {
        "path": scope["path"],
        "headers": [name.decode() for name, _ in scope["headers"]],
        "body": len(message.get("body", b"")),
    }
    body = json.dumps(told).encode()
    headers = [(b"content-length", str(len(body)).encode()), (b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Wire:
    """A listening server."""

    def __init__(self, port: int, state: ServerState, connections: Connections) -> None:
        self.port = port
        self.state = state
        self.connections = connections

    async def say(self, *parts: bytes, pause: float = 0.0, seconds: float = 10.0) -> bytes:
        """Send the parts, and read until the server closes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            return await asyncio.wait_for(self._say(reader, writer, parts, pause), seconds)
        finally:
            writer.close()

    @staticmethod
    async def _say(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, parts: tuple[bytes, ...], pause: float
    ) -> bytes:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause)
        return await reader.read()


@asynccontextmanager
async def wire(app: ASGIApp = echo, *, descriptors: int = 4096, **limits: Any) -> AsyncIterator[Wire]:
    """A server with these limits."""
    bounds = Limits(**limits)
    connections = Connections(bounds.max_connections, descriptors)
    config = HttpConfig(BodyLimit(app, bounds), bounds, connections, HttpProtocol)
    config.load()
    state = ServerState()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: HttpProtocol(config, state, {}), "127.0.0.1", 0)
    try:
        yield Wire(server.sockets[0].getsockname()[1], state, connections)
    finally:
        server.close()
        for connection in list(state.connections):
            connection.transport.abort()
        await asyncio.sleep(0)


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    """Run a scenario in a loop such as the server has."""

    async def whole() -> None:
        await scenario()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(whole())


def statuses(answer: bytes) -> list[int]:
    """The status of each answer in what came."""
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)]


def error_of(answer: bytes) -> dict[str, Any]:
    """The error in the envelope of the last answer."""
    error: dict[str, Any] = json.loads(answer.rpartition(b"\r\n\r\n")[2])["error"]
    return error
