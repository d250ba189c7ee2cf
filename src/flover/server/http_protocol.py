"""HTTP/1.1 with limits: extends uvicorn's protocol with httptools' parser.

Input is measured before the parser sees it: size of the head, number of header lines, length of the path, time; bytes
of a body with its chunk framing. Trailers are dropped. Input beyond a limit gets an error response and the connection
is closed; further input is discarded for a while, so that the response is not lost. The size of bodies is checked in
`http_body.py`.
"""

from __future__ import annotations

import asyncio
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from flover.server.errors import HttpError, error_response
from flover.server.http_config import HttpConfig
from flover.server.http_output import HalfClosed, Output, UnframedOutput
from flover.server.http_paths import LIVENESS_PATHS, UPLOAD_PATH
from flover.server.http_refusals import Refusal, answer_bytes, reason_of

OVER_LIMIT_HEADER_SECONDS = 2.0
"""Seconds for the head on a connection beyond `max_connections`."""
LINGER_SECONDS = 5.0
"""Seconds for which input is discarded after a response that was sent before the end of its request."""
LINGER_BYTES = 128 * 2**20
"""Maximum number of discarded bytes."""
MAX_PIPELINED = 16
"""Maximum number of pipelined requests on a connection."""
PIECE_BYTES = 64 * 2**10
"""A body goes to the parser in pieces of this size, and is measured after each."""


class HttpProtocol(HttpToolsProtocol):
    """One connection."""

    config: HttpConfig

    def __init__(
        self,
        config: HttpConfig,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._limits = config.limits
        self._most_headers = config.limits.max_header_count
        self._most_body_bytes = 0
        self._places = config.connections
        self._over_limit = False
        self._in_body = False  # the head of a request is complete, the request is not
        self._num_heads = 0
        self._num_trailers = 0
        self._head_bytes = 0
        self._body_bytes = 0
        self._discarding = False  # input is discarded
        self._ignored_bytes = 0
        self._input_timer: asyncio.TimerHandle | None = None
        self._end_timer: asyncio.TimerHandle | None = None
        self._send_timer: asyncio.TimerHandle | None = None

    # Connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        self._over_limit = self._places.add(self)
        seconds = self._limits.header_timeout
        if self._over_limit:
            seconds = min(seconds, OVER_LIMIT_HEADER_SECONDS)
        self._half_closed: HalfClosed | None = None
        self._input_timer = self.loop.call_later(seconds, self._input_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._places.remove(self)
        self._unset_keepalive_if_required()
        for timer in (self._input_timer, self._end_timer, self._send_timer, self._half_closed):
            if timer is not None:
                timer.cancel()
        self._discarding = True
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override]  # as asyncio's
        """Stay open for the response to a client that has ended its side after a whole request, as `nc -N` does. One
        that has closed the connection has sent the same; `HalfClosed` tells the two apart, which needs HTTP/1.1. Once a
        response has started, the end of the client's side counts as its leaving: nothing would show it before the next
        token."""
        cycle = self.cycle
        if (
            self._discarding
            or cycle is None
            or self._in_body
            or self.pipeline
            or cycle.response_started
            or cycle.scope["http_version"] != "1.1"
            or not self.transport.can_write_eof()
        ):
            return False
        self._discarding, cycle.keep_alive = True, False
        self._half_closed = HalfClosed(self.loop, self.transport)
        return True

    def evict(self) -> None:
        """Close the connection at once."""
        self._discarding = True
        self.transport.abort()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._send_timer is None:
            self._send_timer = self.loop.call_later(self._limits.send_timeout, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None

    def timeout_keep_alive_handler(self) -> None:
        self._end()

    # Input

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        while data and not self._discarding:
            if self._in_body:
                most = min(PIECE_BYTES, self._most_body_bytes - self._body_bytes + 1)
            else:
                most = self._limits.max_header_bytes - self._head_bytes
            self._take(data[:most])
            data = data[most:]
        if self._discarding:
            self._ignored_bytes += len(data)
            if self._ignored_bytes > LINGER_BYTES:
                self.transport.abort()
        elif self._in_body or self._head_bytes:
            if self._input_timer is None:
                seconds = self._limits.body_timeout if self._in_body else self._limits.header_timeout
                self._input_timer = self.loop.call_later(seconds, self._input_is_late)
        elif self._input_timer is not None:
            self._cancel_input_timer()

    def _take(self, piece: bytes) -> None:
        """Parse a piece of at most the remaining limit, plus one byte of a body."""
        num_heads, in_body = self._num_heads, self._in_body
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade as upgrade:
            self._go_on_without_upgrade(piece[upgrade.args[0] :])
            return
        except httptools.HttpParserError as error:
            self._refuse(reason_of(error))
            return
        if num_heads != self._num_heads:
            self._head_bytes = 0
        elif in_body:
            self._body_bytes += len(piece)
            if self._body_bytes > self._most_body_bytes:
                self._refuse(HttpError(413, f"the body is longer than --max-body-bytes {self._limits.max_body_bytes}"))
        else:
            self._head_bytes += len(piece)
            if self._head_bytes >= self._limits.max_header_bytes:
                most = self._limits.max_header_bytes
                self._refuse(HttpError(431, f"request line and headers exceed --max-header-bytes {most}"))

    def _go_on_without_upgrade(self, rest: bytes) -> None:
        """Ignore an upgrade request: the rest is the body of the request, if it has one. The parser would treat it as
        another protocol, so a new parser reads the head again without the upgrade."""
        head = [self.parser.get_method(), b" ", self.url, b" HTTP/", self.parser.get_http_version().encode(), b"\r\n"]
        for name, value in self.headers:
            if name != b"upgrade":
                head += [name, b": ", value, b"\r\n"]
        self.parser = httptools.HttpRequestParser(self)
        self._take(b"".join([*head, b"\r\n"]))
        if rest and not self._discarding:
            self._take(rest)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_body:  # a trailer
            self._num_trailers += 1
            num = self._num_trailers
        else:
            name = name.lower()
            if name == b"expect" and value.lower() == b"100-continue":
                self.expect_100_continue = True
            self.headers.append((name, value))
            num = len(self.headers)
        if num > self._most_headers:
            raise Refusal(HttpError(431, f"there are more header lines than --max-header-count {self._most_headers}"))

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise Refusal(HttpError(405, "CONNECT is not answered here"))
            return  # the head is read again without the upgrade
        if len(self.url) > self._limits.max_url_bytes:
            raise Refusal(HttpError(414, f"path and query exceed --max-url-bytes {self._limits.max_url_bytes}"))
        if self.parser.get_http_version() not in ("1.1", "1.0"):
            raise Refusal(HttpError(505, f"HTTP {self.parser.get_http_version()} is not spoken here, HTTP/1.1 is"))
        if len(self.pipeline) >= MAX_PIPELINED:
            raise Refusal(HttpError(429, f"more than {MAX_PIPELINED} requests wait on this connection"))
        if self._over_limit and not self._has_place():
            message = f"all {self._places.most} connections are in use (--max-connections)"
            raise Refusal(HttpError(503, message))
        self.expect_100_continue = self.expect_100_continue and self.parser.get_http_version() == "1.1"
        super().on_headers_complete()
        output = Output if self.scope["http_version"] == "1.1" else UnframedOutput
        self.cycle.transport = output(self.transport, self.close_after_response)  # type: ignore[assignment]  # what it uses
        self._num_heads += 1
        if self._input_timer is not None:
            self._cancel_input_timer()
        self._in_body, self._body_bytes, self._num_trailers = True, 0, 0
        most = self._limits.max_file_bytes if self.scope["path"] == UPLOAD_PATH else self._limits.max_body_bytes
        self._most_body_bytes = 2 * most + self._limits.max_header_bytes  # on the wire: chunk framing, trailers

    def _has_place(self) -> bool:
        """Whether this request can be served, on a connection beyond the limit."""
        if self.url.partition(b"?")[0].decode("latin-1") in LIVENESS_PATHS:
            return True
        self._over_limit = not self._places.evict_for(self)
        return not self._over_limit

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        most = self._limits.max_body_bytes
        if self.pipeline and sum(len(cycle.body) for cycle, _ in self.pipeline) > most:
            raise Refusal(HttpError(413, f"bodies that wait on this connection exceed --max-body-bytes {most}"))

    def on_message_complete(self) -> None:
        if self._in_body:
            super().on_message_complete()
            self._in_body = False
            self._places.received(self)

    # Output

    def on_response_complete(self) -> None:
        if self._in_body and self.cycle.response_complete:
            self._linger()
        if self._end_timer is None:
            super().on_response_complete()
            if self.timeout_keep_alive_task is not None:
                self._places.waits(self)

    def close_after_response(self) -> None:
        """Close the connection after the written data has been sent."""
        if self._half_closed is None and (self._discarding or (self._in_body and self.cycle.response_complete)):
            self._linger()
        else:
            self._end()

    def _refuse(self, error: HttpError) -> None:
        """Stop reading and send an error response, after the response to an earlier request if there is one."""
        self._discarding = True
        self._cancel_input_timer()
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            self._answer(error)
        elif not self._in_body:
            cycle.keep_alive = False
        elif self.pipeline:
            cycle.keep_alive = False
            cycle.body.clear()
            self.pipeline[0] = (cycle, error_response(error))  # type: ignore[assignment]  # an application, too
        elif cycle.response_started:
            self._end()
        else:
            cycle.disconnected = True
            cycle.message_event.set()
            self._answer(error)

    def _answer(self, error: HttpError) -> None:
        self.transport.write(answer_bytes(error, self.server_state.default_headers))
        self._linger()

    def _linger(self) -> None:
        """Half-close the connection and discard input for a while: closing at once with unread input would reset the
        connection, and the client could lose the response."""
        self._discarding = True
        if self._end_timer is not None or self.transport.is_closing():
            return
        self._places.waits(self)
        self._end_timer = self.loop.call_later(LINGER_SECONDS, self.transport.abort)
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def _end(self) -> None:
        """Close when the written data has been sent, or after a timeout."""
        self._discarding = True
        self.transport.close()
        if self._end_timer is None and self.transport.get_write_buffer_size():
            self._end_timer = self.loop.call_later(self._limits.send_timeout, self.transport.abort)

    def _input_is_late(self) -> None:
        self._input_timer = None
        if self._discarding:
            return
        if self._in_body:
            self._refuse(
                HttpError(408, f"the body took longer than --body-timeout {self._limits.body_timeout:g} seconds")
            )
        elif self.scope is not None and "method" not in self.scope:  # within a head
            seconds = f"{self._limits.header_timeout:g} seconds"
            self._refuse(HttpError(408, f"request line and headers took longer than --header-timeout {seconds}"))
        else:
            self._end()

    def _cancel_input_timer(self) -> None:
        if self._input_timer is not None:
            self._input_timer.cancel()
            self._input_timer = None
