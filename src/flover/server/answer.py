"""One generation as an HTTP answer, streamed or whole: the same for every route that generates."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Generic, TypeVar, cast

import msgspec
from starlette.responses import Response
from starlette.types import Receive

from flover.server.errors import ClientGone
from flover.server.generation import Choice, Generation
from flover.server.request_log import WithGeneration
from flover.server.responses import json_response
from flover.server.sse import CLIENT_LEFT, OPENAI_EVENTS, EventStream, Framing, until_disconnect
from flover.server.text_threads import TextThreads
from flover.text.tokenizer import Tokenizer

INLINE_CHARS = 2**13
"""A text of up to so many characters is parsed and encoded on the event loop: a few milliseconds."""

B = TypeVar("B", bound=msgspec.Struct)
C = TypeVar("C")


class ResponseBuilder(ABC, Generic[B, C]):
    """Builds the API's objects from one generation, for the body that asked for it. `model` is the name to answer
    with."""

    framing: Framing = OPENAI_EVENTS
    """How the API writes events."""

    def __init__(self, body: B, *, id: str, model: str, tokenizer: Tokenizer | None) -> None:
        self._body = body
        self._id = id
        self._model = model
        self._tokenizer = tokenizer
        self._created = int(time.time())  # noqa: TID251

    @abstractmethod
    def choice(self, generation: Generation, choice: Choice) -> C:
        """One complete sequence."""

    @abstractmethod
    def whole(self, generation: Generation, choices: list[C]) -> Any:
        """The complete answer."""

    @abstractmethod
    def events(self, generation: Generation) -> AsyncIterator[Any]:
        """The answer as it comes: the data of its events."""


async def answer(
    builder: ResponseBuilder[B, C],
    generate: Callable[[], Awaitable[Generation]],
    threads: TextThreads,
    *,
    stream: bool,
    receive: Receive,
) -> Response:
    """Start a generation and respond with it. It is closed at the end, and as soon as the client disconnects."""
    if stream:
        generation = await generate()
        return WithGeneration(EventStream(builder.events(generation), generation.close, builder.framing), generation)

    async def whole() -> Response:
        generation = await generate()
        try:
            await generation.finish()
            choices = [await _encoded(builder, generation, choice, threads) for choice in generation.choices]
            return WithGeneration(json_response(builder.whole(generation, cast(list[C], choices))), generation)
        finally:
            generation.close()

    try:
        return await until_disconnect(receive, whole())
    except ClientGone:
        return Response(status_code=CLIENT_LEFT)


async def _encoded(
    builder: ResponseBuilder[B, C], generation: Generation, choice: Choice, threads: TextThreads
) -> msgspec.Raw:
    """One sequence as JSON; log-probabilities and long texts take long, so that is done off the event loop."""
    num_chars = len(choice.text.text)

    def encode() -> msgspec.Raw:
        return msgspec.Raw(msgspec.json.encode(builder.choice(generation, choice)))

    scored = choice.text.logprobs is not None or generation.prompt_of(choice).logprobs is not None
    if not scored and num_chars <= INLINE_CHARS:
        return encode()
    return await threads.run(encode, num_chars)
