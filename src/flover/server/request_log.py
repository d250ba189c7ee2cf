"""The outermost middleware: writes a log line for every response and refusal.

A line has ids, numbers, names of routes and fields; never a prompt, an output or a key. Text from the client (path,
field name) is escaped and truncated.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flover.server.generation import Generation
from flover.server.log import MAX_TEXT, printable
from flover.server.sse import CLIENT_LEFT

QUIET_PATHS = frozenset({"/health", "/healthz", "/livez", "/readyz", "/ping", "/metrics", "/dashboard", "/live"})
"""Routes polled by monitoring: logged at level debug only."""
MOST_REFUSALS_A_SECOND = 20
"""Maximum lines for refusals per second; further ones are counted in one line."""
_KEY = "flover.exchange"

logger = logging.getLogger(__name__)


class _Error(msgspec.Struct):
    type: str = ""
    param: str | None = None
    code: str | int | None = None


class _Envelope(msgspec.Struct):
    error: _Error


@dataclass(slots=True)
class Exchange:
    """One request and its response."""

    began: float
    status: int = 0
    """Status of the response; 0 before it."""
    request_id: str = "-"
    body: bytes = b""
    """Body of a refusal."""
    generation: Generation | None = None
    noted: bool = False
    """Whether `on_generated` was called."""


class WithGeneration(Response):
    """A response, and the generation that its line in the log describes."""

    def __init__(self, response: Response, generation: Generation) -> None:
        self._response = response
        self._generation = generation
        self.background = None
        self.status_code = response.status_code

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange: Exchange | None = scope.get(_KEY)
        if exchange is not None:
            exchange.generation = self._generation
        await self._response(scope, receive, send)


class RequestLog:
    """Calls `on_answer` with the status of every response, `on_generated` with scope, id, begin, status, generation
    of those that have one, and writes lines if `lines`. `clock` is in seconds."""

    def __init__(
        self,
        app: ASGIApp,
        on_answer: Callable[[int], None],
        *,
        on_generated: Callable[[Scope, str, float, int, Generation], None] = lambda *ended: None,
        lines: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._on_answer = on_answer
        self._on_generated = on_generated
        self._lines = lines
        self._clock = clock
        self._second = 0.0
        self._refusals = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = Exchange(self._clock())
        scope[_KEY] = exchange

        async def send_and_note(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                exchange.request_id = Headers(raw=message["headers"]).get("x-request-id", "-")
            elif exchange.status >= 400 and not exchange.body:
                exchange.body = message.get("body", b"")[:4096]
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                self._note_generation(scope, exchange)  # before the client can ask for it
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        finally:
            if exchange.status:
                self._on_answer(exchange.status)
            self._note_generation(scope, exchange)
            if self._lines:
                self._write(scope, exchange)

    def _note_generation(self, scope: Scope, exchange: Exchange) -> None:
        generation = exchange.generation
        if generation is not None and not exchange.noted:
            exchange.noted = True
            self._on_generated(scope, exchange.request_id, exchange.began, exchange.status, generation)

    def _write(self, scope: Scope, exchange: Exchange) -> None:
        quiet = scope["path"] in QUIET_PATHS
        refused = exchange.status >= 400 and exchange.status != CLIENT_LEFT
        if refused and not quiet and not self._may_write_refusal():
            return
        level = logging.DEBUG if quiet else logging.WARNING if exchange.status >= 500 else logging.INFO
        if logger.isEnabledFor(level):
            what = f"{printable(scope['method'], 16)} {printable(scope['path'], MAX_TEXT)}"
            how = _refusal(exchange) if refused else _answer(exchange)
            seconds = self._clock() - exchange.began
            logger.log(level, "request %s %s %s, total %.3f s", exchange.request_id, what, how, seconds)

    def _may_write_refusal(self) -> bool:
        now = self._clock()
        if now - self._second >= 1:
            if self._refusals > MOST_REFUSALS_A_SECOND:
                logger.info("%d further requests were refused", self._refusals - MOST_REFUSALS_A_SECOND)
            self._second, self._refusals = now, 0
        self._refusals += 1
        return self._refusals <= MOST_REFUSALS_A_SECOND


def _refusal(exchange: Exchange) -> str:
    """Status, type, field and code of a refusal."""
    try:
        error = msgspec.json.decode(exchange.body, type=_Envelope).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        return f"refused with {exchange.status}"
    parts = [f"refused with {exchange.status} {printable(error.type, MAX_TEXT)}"]
    if error.param is not None:
        parts.append(f"field {printable(error.param, MAX_TEXT)}")
    if error.code is not None:
        parts.append(f"code {printable(str(error.code), MAX_TEXT)}")
    return ", ".join(parts)


def _answer(exchange: Exchange) -> str:
    gone = exchange.status in (0, CLIENT_LEFT)
    status = "the client left before an answer" if gone else str(exchange.status)
    generation = exchange.generation
    if generation is None:
        return status
    reasons = Counter(map(str, generation.finish_reasons))
    ends = ", ".join(reason if count == 1 else f"{count} {reason}" for reason, count in sorted(reasons.items()))
    first = generation.time_to_first_token
    return (
        f"{status}: prompt {generation.prompt_tokens} tokens ({generation.cached_tokens} cached), "
        f"output {generation.completion_tokens} tokens, "
        + (f"first token {first:.3f} s, " if first is not None else "")
        + f"finish {ends}"
    )
