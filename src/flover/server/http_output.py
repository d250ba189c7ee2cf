"""How responses are written to a connection, and whether a client that has ended its side still reads them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_CHUNKED = b"transfer-encoding: chunked\r\n"
FIRST_LOOK_SECONDS = 0.01
LAST_LOOK_SECONDS = 2.0


class Output:
    """The transport for responses: writes directly, and closes through the connection."""

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self.write: Callable[[bytes], None] = transport.write
        self.is_closing = transport.is_closing
        self.close = close


class UnframedOutput(Output):
    """The same for a client of HTTP/1.0, which does not know chunks: a body without a length goes on to the end of the
    connection (RFC 9112, section 6.3). uvicorn writes the head, and then a chunk each time."""

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        super().__init__(transport, close)
        self._write = transport.write
        self._chunked: bool | None = None
        self.write = self._unframed

    def _unframed(self, data: bytes) -> None:
        if self._chunked is None:
            self._chunked = _CHUNKED in data
            self._write(data.replace(_CHUNKED, b""))
        elif not self._chunked:
            self._write(data)
        elif data:
            size, _, rest = data.partition(b"\r\n")
            self._write(rest[: int(size, 16)])


class HalfClosed:
    """Aborts a connection whose client has not only ended its side but left: it resets the connection at the next bytes
    that it gets. The first are an interim response, which clients of HTTP/1.1 have to skip (RFC 9110, section 15.2)."""

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport) -> None:
        self._loop = loop
        self._transport = transport
        transport.write(CONTINUE)
        self._timer = loop.call_later(FIRST_LOOK_SECONDS, self._look, FIRST_LOOK_SECONDS)

    def cancel(self) -> None:
        """Look no more."""
        self._timer.cancel()

    def _look(self, waited: float) -> None:
        sock: socket.socket = self._transport.get_extra_info("socket")
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._transport.abort()
        else:
            seconds = min(2 * waited, LAST_LOOK_SECONDS)
            self._timer = self._loop.call_later(seconds, self._look, seconds)
