"""Frames in and out over one socket, for asyncio: the server's side of the connection to an engine process."""

from __future__ import annotations

import asyncio
import socket

from flover.ipc import wire
from flover.ipc.messages import FromEngine, ToEngine


class Connection:
    """Messages of `flover.ipc.messages` over `sock`, which it owns."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._decode = wire.from_engine_decoder()

    async def open(self) -> None:
        """Attach the socket to the running event loop."""
        self._sock.setblocking(False)
        self._reader, self._writer = await asyncio.open_connection(sock=self._sock)

    @property
    def is_open(self) -> bool:
        """Whether messages can be sent."""
        return self._writer is not None

    async def receive(self) -> FromEngine | None:
        """The next message; None at the end of the stream, even in the middle of a frame. Raises `WireError` for a
        frame that is no message."""
        assert self._reader is not None
        try:
            length = wire.body_length(await self._reader.readexactly(wire.HEADER_BYTES))
            body = await self._reader.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        return self._decode(body)

    def send(self, message: ToEngine) -> None:
        """Send a message. Raises `WireError` if no frame can hold it."""
        self.write(wire.encode(message))

    def write(self, frame: bytes) -> None:
        """Send an encoded message. On a broken connection it does nothing: `receive` reports the end."""
        assert self._writer is not None
        if not self._writer.transport.is_closing():
            self._writer.write(frame)

    def close(self) -> None:
        """May be called before `open`, and twice."""
        if self._writer is not None:
            self._writer.close()
        else:
            self._sock.close()
