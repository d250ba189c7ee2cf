"""Lines of OpenAI's batch files: requests in, answers out, one JSON object a line.

{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"model": …, "messages": […]}}
{"id": "batch_req_…", "custom_id": "a", "response": {"status_code": 200, "request_id": …, "body": {…}}, "error": null}
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import Raw

URLS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")
"""Routes that a batch may ask."""
MAX_LINE_BYTES = 32 * 2**20


class BatchLine(msgspec.Struct, frozen=True):
    """One request: `body`, JSON, is sent to `url` as it is."""

    custom_id: str
    url: str
    body: Raw
    method: str = "POST"


class _Body(msgspec.Struct):
    stream: Any = None


class LineError(Exception):
    """A line is no request of a batch."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(f"line {number}: {message}")
        self.number = number


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a request: a response, or the `error` that kept it from one, with its code."""

    status: int
    body: Any
    error: str | None = None
    code: str = "request_failed"

    @property
    def is_good(self) -> bool:
        """Whether it was answered with 200."""
        return self.error is None and self.status == 200


def read_lines(
    lines: Iterable[bytes], urls: tuple[str, ...] = URLS, most_bytes: int = MAX_LINE_BYTES
) -> Iterator[tuple[int, BatchLine]]:
    """The requests of a file and the numbers of their lines. Raises `LineError` for the first line that is none."""
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if len(line) > most_bytes:
            raise LineError(number, f"it has more than {most_bytes} bytes")
        read = read_line(line, number)
        if read.method != "POST":
            raise LineError(number, f"method must be POST, got {read.method!r}")
        if read.url not in urls:
            raise LineError(
                number, f"url must be {'one of ' if len(urls) > 1 else ''}{', '.join(urls)}, got {read.url!r}"
            )
        first = seen.setdefault(read.custom_id, number)
        if first != number:
            raise LineError(number, f"custom_id {read.custom_id!r} is that of line {first} too")
        yield number, read


def read_line(line: bytes, number: int) -> BatchLine:
    """The request of one line. Raises `LineError`."""
    try:
        read = msgspec.json.decode(line, type=BatchLine)
        streams = msgspec.json.decode(read.body, type=_Body).stream
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise LineError(number, str(error)) from None
    if streams:
        raise LineError(number, "a batch is not streamed: body.stream must be false")
    return read


class _Answered(msgspec.Struct):
    custom_id: str


def answered_ids(lines: Iterable[bytes]) -> tuple[set[str], int]:
    """The ids of an earlier run's answers, and their bytes; a last line that was cut short is none. Raises
    `LineError`."""
    found: set[str] = set()
    size = 0
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"\n"):
            break
        size += len(line)
        try:
            found.add(msgspec.json.decode(line, type=_Answered).custom_id)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise LineError(number, "this is no answer of a batch") from None
    return found, size


def write_answer(custom_id: str, answer: Answer, request_id: str) -> bytes:
    """The line of an answer; `answer.body` may be JSON already (`Raw`)."""
    response = {"status_code": answer.status, "request_id": request_id, "body": answer.body}
    error = None if answer.error is None else {"code": answer.code, "message": answer.error}
    told = {
        "id": f"batch_req_{request_id}",
        "custom_id": custom_id,
        "response": response if error is None else None,
        "error": error,
    }
    return msgspec.json.encode(told) + b"\n"
