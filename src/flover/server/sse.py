"""Server-sent events, and cancellation when the client disconnects."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from flover.server.errors import ClientGone, HttpError, as_http_error, envelope

T = TypeVar("T")
CLIENT_LEFT = 499
"""Status of an answer whose client has left, as nginx has it."""
DONE = b"data: [DONE]\n\n"
KEEP_ALIVE_SECONDS = 15.0
"""Clients and proxies drop a connection on which nothing comes for some minutes, and a long prompt may take longer."""


async def until_disconnect(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Run `work` while the client is connected. If it disconnects, `work` is cancelled and `ClientGone` raised."""
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_disconnect(receive))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return working.result()
    finally:
        watching.cancel()
        working.cancel()
        # `work` cleans up before the caller continues.
        await asyncio.gather(working, watching, return_exceptions=True)


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def event(content: Any) -> bytes:
    """One event: JSON on one line, then an empty line."""
    return b"data: " + msgspec.json.encode(content) + b"\n\n"


@dataclass(frozen=True, slots=True)
class Framing:
    """How an API writes its events, an error after the start, the end, and what says nothing: by default a comment."""

    encode: Callable[[Any], bytes]
    error: Callable[[HttpError], bytes]
    end: bytes
    keep_alive: bytes = b": keep-alive\n\n"
    media_type: str = "text/event-stream"


OPENAI_EVENTS = Framing(event, lambda error: event(envelope(error)), DONE)


class EventStream(Response):
    """Sends events as they arrive and then the end, which is `[DONE]` in OpenAI's API.

    An error after the start is an event in the API's error format before the end; interrupted choices have no finish
    reason. `close` is always called at the end. When nothing has come for `keep_alive` seconds, that is sent that says
    nothing.
    """

    def __init__(
        self,
        events: AsyncIterator[Any],
        close: Callable[[], None],
        framing: Framing = OPENAI_EVENTS,
        *,
        keep_alive: float = KEEP_ALIVE_SECONDS,
    ) -> None:
        self.media_type = framing.media_type
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events = events
        self._close = close
        self._framing = framing
        self._seconds = keep_alive
        self._silent = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await until_disconnect(receive, self._run(send))
        except (ClientGone, OSError):
            pass  # the client has left
        finally:
            self._close()

    async def _run(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        keeper = asyncio.ensure_future(self._keep_alive(send))
        try:
            async for chunk in self._encoded():
                self._silent = False
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        finally:
            keeper.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _keep_alive(self, send: Send) -> None:
        with suppress(OSError):  # the client has left
            while self._framing.keep_alive:
                self._silent = True
                await asyncio.sleep(self._seconds)
                if self._silent:
                    await send({"type": "http.response.body", "body": self._framing.keep_alive, "more_body": True})

    async def _encoded(self) -> AsyncIterator[bytes]:
        try:
            async for content in self._events:
                yield self._framing.encode(content)
        except Exception as error:
            yield self._framing.error(as_http_error(error))
        if self._framing.end:
            yield self._framing.end
