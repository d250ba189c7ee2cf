"""Error responses to input that does not become a request: invalid HTTP, or too large."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from flover.server.errors import HttpError, error_response


class Refusal(Exception):  # noqa: N818  # it is an answer
    """Ends the parsing of a connection. httptools raises its own error with this one as context."""

    def __init__(self, error: HttpError) -> None:
        super().__init__(error.message)
        self.error = error


def reason_of(error: httptools.HttpParserError) -> HttpError:
    """The error response for an error of the parser."""
    if isinstance(error.__context__, Refusal):
        return error.__context__.error
    reason = str(error) if error.__context__ is None else "the address is not one of HTTP"
    return HttpError(400, f"this is not HTTP/1.1: {reason[:200]}")


def answer_bytes(error: HttpError, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """The bytes of an error response that closes the connection; `headers` are those of every response."""
    response = error_response(error, {"Connection": "close", "X-Request-Id": uuid.uuid4().hex})
    lines = [name + b": " + value for name, value in [*headers, *response.raw_headers]]
    return STATUS_LINE[error.status] + b"\r\n".join(lines) + b"\r\n\r\n" + bytes(response.body)
