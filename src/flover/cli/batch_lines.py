"""Lines of OpenAI's batch files: requests in, answers out, one JSON object a line.

{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"model": …, "messages": […]}}
{"id": "batch_req_…", "custom_id": "a", "response": {"status_code": 200, "request_id": …, "body": {…}}, "error": null}
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from flover.errors import ConfigError

URLS = ("/v1/chat/completions", "/v1/completions")
MAX_LINE_BYTES = 32 * 2**20


class BatchLine(msgspec.Struct, frozen=True):
    """One request: `body` is sent to `url` as it is."""

    custom_id: str
    url: str
    body: dict[str, Any]
    method: str = "POST"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a request: a response, or the `error` that kept it from one."""

    status: int
    body: Any
    error: str | None = None

    @property
    def is_good(self) -> bool:
        """Whether it was answered with 200."""
        return self.error is None and self.status == 200


def read_lines(lines: Iterable[bytes], where: str) -> Iterator[BatchLine]:
    """The requests of a file named `where`. Raises `ConfigError` with the line for the first that is none."""
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        at = f"{where}, line {number}"
        if len(line) > MAX_LINE_BYTES:
            raise ConfigError(f"{at} has more than {MAX_LINE_BYTES} bytes")
        try:
            read = msgspec.json.decode(line, type=BatchLine)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ConfigError(f"{at}: {error}") from None
        if read.method != "POST":
            raise ConfigError(f"{at}: method must be POST, got {read.method!r}")
        if read.url not in URLS:
            raise ConfigError(f"{at}: url must be one of {', '.join(URLS)}, got {read.url!r}")
        if read.body.get("stream"):
            raise ConfigError(f"{at}: a batch is not streamed: body.stream must be false")
        first = seen.setdefault(read.custom_id, number)
        if first != number:
            raise ConfigError(f"{at}: custom_id {read.custom_id!r} is that of line {first} too")
        yield read


def answered_ids(lines: Iterable[bytes], where: str) -> tuple[set[str], int]:
    """The ids of an earlier run's answers, and their bytes; a last line that was cut short is none. Raises
    `ConfigError`."""
    found: set[str] = set()
    size = 0
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"\n"):
            break
        size += len(line)
        try:
            found.add(json.loads(line)["custom_id"])
        except (ValueError, LookupError, TypeError):
            raise ConfigError(f"{where}, line {number}: this is no answer of a batch: name another file") from None
    return found, size


def write_answer(line: BatchLine, answer: Answer, request_id: str) -> bytes:
    """The line of an answer."""
    response = {"status_code": answer.status, "request_id": request_id, "body": answer.body}
    error = None if answer.error is None else {"code": "request_failed", "message": answer.error}
    told = {
        "id": f"batch_req_{request_id}",
        "custom_id": line.custom_id,
        "response": response if error is None else None,
        "error": error,
    }
    return json.dumps(told, ensure_ascii=False).encode() + b"\n"
