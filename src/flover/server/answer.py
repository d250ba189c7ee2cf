"""One generation as an HTTP answer, streamed or whole: the same for every route that generates."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol

from starlette.responses import Response
from starlette.types import Receive

from flover.server.generation import Generation
from flover.server.request_log import WithGeneration
from flover.server.responses import json_response
from flover.server.sse import CLIENT_LEFT, ClientGone, EventStream, until_disconnect


class Reply(Protocol):
    """Turns the pieces of one generation into the objects of a route."""

    def whole(self, generation: Generation) -> Any: ...

    def chunks(self, generation: Generation) -> AsyncIterator[Any]: ...


async def answer(
    reply: Reply, generate: Callable[[], Awaitable[Generation]], *, stream: bool, receive: Receive
) -> Response:
    """Start a generation and answer with it. It is closed in the end, and as soon as the client goes away."""
    if stream:
        generation = await generate()
        return WithGeneration(EventStream(reply.chunks(generation), generation.close), generation)

    async def whole() -> Response:
        generation = await generate()
        try:
            await generation.finish()
            return WithGeneration(json_response(reply.whole(generation)), generation)
        finally:
            generation.close()

    try:
        return await until_disconnect(receive, whole())
    except ClientGone:
        return Response(status_code=CLIENT_LEFT)
