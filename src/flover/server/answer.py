"""One generation as an HTTP answer, streamed or whole: the same for every route that generates."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol, TypeVar, cast

import msgspec
from starlette.responses import Response
from starlette.types import Receive

from flover.server.errors import ClientGone
from flover.server.generation import Choice, Generation
from flover.server.request_log import WithGeneration
from flover.server.responses import json_response
from flover.server.sse import CLIENT_LEFT, EventStream, until_disconnect
from flover.server.text_threads import TextThreads

C = TypeVar("C")


class Reply(Protocol[C]):
    """Turns the pieces of one generation into the objects of a route."""

    def choice(self, generation: Generation, choice: Choice) -> C: ...

    def whole(self, generation: Generation, choices: list[C]) -> Any: ...

    def chunks(self, generation: Generation) -> AsyncIterator[Any]: ...


async def answer(
    reply: Reply[C],
    generate: Callable[[], Awaitable[Generation]],
    threads: TextThreads,
    *,
    stream: bool,
    receive: Receive,
) -> Response:
    """Start a generation and answer with it. It is closed in the end, and as soon as the client goes away."""
    if stream:
        generation = await generate()
        return WithGeneration(EventStream(reply.chunks(generation), generation.close), generation)

    async def whole() -> Response:
        generation = await generate()
        try:
            await generation.finish()
            choices = [await _encoded(reply, generation, choice, threads) for choice in generation.choices]
            return WithGeneration(json_response(reply.whole(generation, cast(list[C], choices))), generation)
        finally:
            generation.close()

    try:
        return await until_disconnect(receive, whole())
    except ClientGone:
        return Response(status_code=CLIENT_LEFT)


async def _encoded(reply: Reply[C], generation: Generation, choice: Choice, threads: TextThreads) -> msgspec.Raw:
    """One sequence as JSON. Log-probabilities take long to write down, so that is done beside the event loop."""

    def encode() -> msgspec.Raw:
        return msgspec.Raw(msgspec.json.encode(reply.choice(generation, choice)))

    if choice.text.logprobs is None and generation.prompt_of(choice).logprobs is None:
        return encode()
    return await threads.run(encode)
