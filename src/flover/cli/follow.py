"""A running server's live feed, read over HTTP: `/live` as a stream of typed events. Draws nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import msgspec

from flover.bench.connection import unreachable
from flover.engine.stats import EngineStats
from flover.errors import EngineError
from flover.observe.timeline import Iteration

SILENCE_SECONDS = 60.0
"""A connection that cannot be made within this time is no connection."""
MAX_EVENT_BYTES = 2**24


class LiveFacts(msgspec.Struct, frozen=True):
    """What does not change while the server runs."""

    model: str
    max_num_seqs: int
    pages_total: int
    page_size: int


class LiveEvent(msgspec.Struct, frozen=True):
    """One event: the facts that open a stream, or what has happened since the last one, or why the stream ends."""

    facts: LiveFacts | None = None
    iterations: list[Iteration] = []
    stats: EngineStats | None = None
    dropped: int = 0
    error: dict[str, Any] | None = None


async def follow(address: str, api_key: str | None) -> AsyncIterator[LiveEvent]:
    """The events of one connection, until the server ends it. Raises `EngineError` when it cannot be made or breaks."""
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=SILENCE_SECONDS)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, headers=headers, read_bufsize=MAX_EVENT_BYTES) as session,
            session.get(f"{address}/live") as answer,
        ):
            if answer.status != 200:
                raise EngineError(f"the server says {answer.status}: {_message(await answer.read())}")
            async for line in answer.content:
                event = read_event(line)
                if event is None:
                    continue
                if event.error is not None:
                    raise EngineError(f"the server says: {event.error.get('message')}")
                yield event
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise EngineError(unreachable(address, error)) from error


def read_event(line: bytes) -> LiveEvent | None:
    """What one line of the stream says; None for lines that say nothing. Raises `EngineError` if it is no feed."""
    content = line.removeprefix(b"data:").strip()
    if not line.startswith(b"data:") or content == b"[DONE]":
        return None
    try:
        return msgspec.json.decode(content, type=LiveEvent)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise EngineError(f"this is not Flover's live feed: {error}") from error


def _message(body: bytes) -> str:
    """The message of an error's envelope, or the beginning of whatever else came."""
    try:
        return str(msgspec.json.decode(body)["error"]["message"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return body[:200].decode(errors="replace")
