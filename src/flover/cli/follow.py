"""Reads the live feed of a running server (`/live`) as typed events."""

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
"""Connection timeout, in seconds."""
MAX_EVENT_BYTES = 2**24


class LiveFacts(msgspec.Struct, frozen=True):
    """Properties of the server that do not change while it runs."""

    model: str
    max_num_seqs: int
    pages_total: int
    page_size: int


class LiveEvent(msgspec.Struct, frozen=True):
    """One event: the facts at the start of a stream, the iterations since the last event, or the reason of its end."""

    facts: LiveFacts | None = None
    iterations: list[Iteration] = []
    stats: EngineStats | None = None
    dropped: int = 0
    error: dict[str, Any] | None = None


async def follow(address: str, api_key: str | None) -> AsyncIterator[LiveEvent]:
    """The events of one connection, until the server ends it. Raises `EngineError` if it fails or breaks."""
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
    """The event in one line of the stream; None for a line without one. Raises `EngineError` if it is not a feed."""
    content = line.removeprefix(b"data:").strip()
    if not line.startswith(b"data:") or content == b"[DONE]":
        return None
    try:
        return msgspec.json.decode(content, type=LiveEvent)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise EngineError(f"this is not Flover's live feed: {error}") from error


def _message(body: bytes) -> str:
    """The message of an error response, or the start of the body if it is not one."""
    try:
        return str(msgspec.json.decode(body)["error"]["message"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return body[:200].decode(errors="replace")
