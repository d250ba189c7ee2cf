"""Answers to what never becomes a request: bytes that are not HTTP, or too many of them."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from flover.server.errors import HttpError, error_response


class Refusal(Exception):  # noqa: N818  # it is an answer
    """Ends the parsing of a connection. httptools passes it on as the context of its own error."""

    def __init__(self, error: HttpError) -> None:
        super().__init__(error.message)
        self.error = error


def reason_of(error: httptools.HttpParserError) -> HttpError:
    """Why the parser has stopped."""
    if isinstance(error.__context__, Refusal):
        return error.__context__.error
    told = str(error) if error.__context__ is None else "the address is not one of HTTP"
    return HttpError(400, f"this is not HTTP/1.1: {told[:200]}")


def answer_bytes(error: HttpError, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """The whole answer, after which the connection ends; `headers` are those of every answer."""
    response = error_response(error, {"Connection": "close", "X-Request-Id": uuid.uuid4().hex})
    lines = [name + b": " + value for name, value in [*headers, *response.raw_headers]]
    return STATUS_LINE[error.status] + b"\r\n".join(lines) + b"\r\n\r\n" + bytes(response.body)
