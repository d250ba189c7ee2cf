"""Frames on the socket between the server and an engine: a length and that many bytes of msgpack.

Knows the closed message types of `flover.ipc.messages` and nothing of what they mean. A frame that is too long
or is not one of these types is a `WireError`: the connection is not to be used after it.
"""

from __future__ import annotations

import socket
from typing import Generic, TypeVar

import msgspec

from flover.errors import EngineError
from flover.ipc.messages import MAX_FRAME_BYTES, FromEngine, ToEngine

HEADER_BYTES = 4
"""A big-endian unsigned integer: the length of the body that follows."""

T = TypeVar("T")
_encoder = msgspec.msgpack.Encoder()
_BROKEN = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bytes that are no message."""


class WireError(EngineError):
    """The other side sent, or was to be sent, something that is not a frame."""


def encode(message: ToEngine | FromEngine) -> bytes:
    """One frame, header included. Raises `WireError` if the body is longer than `MAX_FRAME_BYTES`, or holds a number or
    a text that msgpack has no form for."""
    frame = bytearray(HEADER_BYTES)
    try:
        _encoder.encode_into(message, frame, HEADER_BYTES)
    except (OverflowError, UnicodeEncodeError) as error:
        raise WireError(f"{type(message).__name__} cannot be sent: {error}") from error
    length = len(frame) - HEADER_BYTES
    if length > MAX_FRAME_BYTES:
        raise WireError(f"{type(message).__name__} takes {length} bytes, a frame holds at most {MAX_FRAME_BYTES}")
    frame[:HEADER_BYTES] = length.to_bytes(HEADER_BYTES, "big")
    return bytes(frame)


def frame(body: bytes | memoryview) -> bytes:
    """A body that is encoded already, with its header."""
    return b"".join((len(body).to_bytes(HEADER_BYTES, "big"), body))


def body_length(header: bytes) -> int:
    """Bytes that follow this header. Raises `WireError` before what a broken header claims is allocated."""
    length = int.from_bytes(header, "big")
    if length > MAX_FRAME_BYTES:
        raise WireError(f"a frame of {length} bytes was announced, the limit is {MAX_FRAME_BYTES}")
    return length


class _Named(msgspec.Struct):
    id: str


class _Submitted(msgspec.Struct):
    request: _Named


class MessageDecoder(Generic[T]):
    """Turns frame bodies into messages of one direction."""

    def __init__(self, union: type[T]) -> None:
        self._decoder = msgspec.msgpack.Decoder(union)

    def __call__(self, body: bytes | memoryview) -> T:
        """The message in `body`. Raises `WireError` for anything that is not one of the types."""
        try:
            return self._decoder.decode(body)
        except _BROKEN as error:
            raise WireError(f"not a message: {error}") from error


def request_id_of(body: bytes | memoryview) -> str | None:
    """The id of the request in a body that is no message but msgpack."""
    try:
        return msgspec.msgpack.decode(body, type=_Submitted).request.id
    except _BROKEN:
        return None


def to_engine_decoder() -> MessageDecoder[ToEngine]:
    """Reads what the server sends."""
    return MessageDecoder(ToEngine)  # type: ignore[arg-type]  # a union is a type for msgspec


def from_engine_decoder() -> MessageDecoder[FromEngine]:
    """Reads what the engine sends."""
    return MessageDecoder(FromEngine)  # type: ignore[arg-type]


def receive(sock: socket.socket) -> memoryview | None:
    """Block for the next frame's body; None at the end of the stream, even in the middle of a frame."""
    header = _exactly(sock, HEADER_BYTES)
    return None if header is None else _exactly(sock, body_length(bytes(header)))


def _exactly(sock: socket.socket, length: int) -> memoryview | None:
    data = memoryview(bytearray(length))
    have = 0
    while have < length:
        got = sock.recv_into(data[have:])
        if got == 0:
            return None
        have += got
    return data
