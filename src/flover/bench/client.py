"""An asyncio client of the OpenAI streaming API that records the arrival of every chunk."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any

import aiohttp
import msgspec

from flover.bench.connection import unreachable
from flover.bench.metrics import RequestRecord
from flover.bench.routes import CHAT as CHAT
from flover.bench.routes import COMPLETIONS as COMPLETIONS
from flover.errors import EngineError

Watcher = Callable[[int, RequestRecord], None]
"""A function of a request's index and record, called whenever the record has grown."""


@dataclass(frozen=True, slots=True)
class Send:
    """One request: sent `at` seconds after the start; `body` without the fields for streaming."""

    at: float
    path: str
    body: dict[str, Any]


class Client:
    """A session with one server. Use as an async context manager."""

    def __init__(self, base_url: str, timeout: float = 1800.0, headers: Mapping[str, str] | None = None) -> None:
        self.base_url = base_url.rstrip("/")
        self._timeout = timeout
        self._headers = headers

    async def __aenter__(self) -> Client:
        self._session = aiohttp.ClientSession(
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(total=self._timeout),
            connector=aiohttp.TCPConnector(limit=0),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def models(self) -> list[dict[str, Any]]:
        """The server's models: `id`, `max_model_len`, … Raises `EngineError` if there are none."""
        try:
            async with self._session.get(self.base_url + "/v1/models") as response:
                if response.status != 200:
                    raise EngineError(f"{self.base_url}/v1/models answers {await _refusal(response)}")
                answer: list[dict[str, Any]] = (await response.json(content_type=None))["data"]
                answer[0]["id"]
                return answer
        except (aiohttp.ClientError, OSError) as error:
            raise EngineError(unreachable(self.base_url, error)) from error
        except (ValueError, LookupError, TypeError) as error:
            raise EngineError(f"{self.base_url}/v1/models names no model") from error

    async def model(self) -> dict[str, Any]:
        """The server's first model."""
        return (await self.models())[0]

    async def metrics(self) -> dict[str, float]:
        """Every sample of /metrics by name, summed over its labels."""
        async with self._session.get(self.base_url + "/metrics") as response:
            response.raise_for_status()
            return parse_metrics(await response.text())

    async def post(self, path: str) -> None:
        """POST without a body, such as /start_profile. Raises `EngineError` for an error response."""
        async with self._session.post(self.base_url + path) as response:
            if response.status != 200:
                raise EngineError(f"{self.base_url}{path} answers {response.status}: {(await response.text())[:300]}")

    async def stream(self, send: Send, changed: Callable[[RequestRecord], None] | None = None) -> RequestRecord:
        """Send one streaming request now and read it to the end. Failures are in the record's `error`."""
        body = {**send.body, "stream": True, "stream_options": {"include_usage": True}}
        record = RequestRecord(sent=time.perf_counter())
        complete = False
        try:
            async with self._session.post(self.base_url + send.path, json=body) as response:
                if response.status != 200:
                    record.error = await _refusal(response)
                    return record
                async for line in response.content:
                    if not line.startswith(b"data:"):
                        continue
                    event = line[5:].strip()
                    if event == b"[DONE]":
                        complete = True
                        continue
                    complete |= _take(record, event, time.perf_counter())
                    if changed is not None:
                        changed(record)
        except (aiohttp.ClientError, OSError) as error:
            record.error = unreachable(self.base_url, error)
        except ValueError as error:
            record.error = f"{type(error).__name__}: {error}"
        if record.error is None and not complete:
            record.error = "the stream ended early"
        if record.error is None and not record.ok:
            record.error = "the stream had no tokens"
        return record

    async def all_at_their_time(self, sends: Sequence[Send], watch: Watcher | None = None) -> list[RequestRecord]:
        """Open loop: every request is sent at its own time, independent of the others."""
        start = time.perf_counter()

        async def one(index: int, send: Send) -> RequestRecord:
            await asyncio.sleep(send.at - (time.perf_counter() - start))
            return await self.stream(send, _watching(watch, index))

        return list(await asyncio.gather(*(one(index, send) for index, send in enumerate(sends))))

    async def one_after_another(self, sends: Sequence[Send], watch: Watcher | None = None) -> list[RequestRecord]:
        """Closed loop of one: each request is sent when the one before has ended; arrival times are ignored."""
        return [await self.stream(send, _watching(watch, index)) for index, send in enumerate(sends)]


async def _refusal(response: aiohttp.ClientResponse) -> str:
    """Status and message of a response that is not a stream, or the start of its body without a message."""
    body = await response.text(errors="replace")
    try:
        message = str(msgspec.json.decode(body)["error"]["message"])
    except (msgspec.DecodeError, LookupError, TypeError):
        message = " ".join(body.split())
    return f"{response.status}: {message[:300]}"


def _watching(watch: Watcher | None, index: int) -> Callable[[RequestRecord], None] | None:
    return None if watch is None else lambda record: watch(index, record)


def _take(record: RequestRecord, event: bytes, now: float) -> bool:
    """`note` for a raw event, which may be invalid."""
    try:
        return note(record, msgspec.json.decode(event), now)
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError) as error:
        record.error = f"an event of the stream is not as OpenAI's: {type(error).__name__}: {error}"
        return True


def note(record: RequestRecord, event: dict[str, Any], now: float) -> bool:
    """Add one event of a stream, arrived at `now`, to the record. True if it ends the response.

    An event is a tick if it has tokens: by its `token_ids` if the request asked for them. Otherwise the chunk that
    only opens a chat message and the one that only closes a stream are not ticks; without a tokenizer, where there is
    no text, every chunk before the closing one is.
    """
    if error := event.get("error"):
        record.error = str(error.get("message", error) if isinstance(error, dict) else error)
        return True
    if usage := event.get("usage"):
        record.prompt_tokens = usage["prompt_tokens"]
        record.output_tokens = usage["completion_tokens"]
        record.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    ended = False
    for choice in event.get("choices", ()):
        if _brings_tokens(choice):
            record.ticks.append(now)
        record.text += _text(choice)
        reason = choice.get("finish_reason")
        ended |= reason is not None
        if reason == "error":
            record.error = "the server ended the request with an error"
        record.end = now
    return ended


def _text(choice: dict[str, Any]) -> str:
    """The text of a choice, with reasoning text, which some servers send in another field."""
    if "delta" not in choice:
        return choice.get("text") or ""
    delta = choice["delta"]
    return delta.get("content") or delta.get("reasoning_content") or delta.get("reasoning") or ""


def _brings_tokens(choice: dict[str, Any]) -> bool:
    if choice.get("token_ids") is not None:
        return bool(choice["token_ids"])
    return bool(_text(choice)) or ("delta" not in choice and choice.get("finish_reason") is None)


def parse_metrics(text: str) -> dict[str, float]:
    """Samples of the Prometheus text format by name without prefix (`flover:`, `vllm:`), summed over labels."""
    samples: dict[str, float] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            labelled, _, value = line.rpartition(" ")
            name = labelled.partition("{")[0].rpartition(":")[2]
            samples[name] = samples.get(name, 0.0) + float(value)
    return samples


@dataclass(frozen=True, slots=True)
class HostTime:
    """Host time of an iteration (outside kernels): milliseconds, and share of the iteration."""

    milliseconds: float
    share: float


def host_time(before: dict[str, float], after: dict[str, float]) -> HostTime | None:
    """Mean over the iterations between two readings of /metrics; None without iterations or kernel times."""
    grown = partial(_grown, before, after)
    iterations, busy = grown("iteration_rows_count"), grown("busy_seconds_total")
    kernels = grown("kernel_seconds_total")
    if not iterations or not busy or not kernels:
        return None
    return HostTime((busy - kernels) / iterations * 1e3, (busy - kernels) / busy)


def mean_width(before: dict[str, float], after: dict[str, float]) -> float | None:
    """Mean batch size (generating rows per iteration) between two readings of /metrics; None without iterations."""
    grown = partial(_grown, before, after)
    iterations = grown("iteration_rows_count")
    return grown("iteration_rows_sum") / iterations if iterations else None


def _grown(before: dict[str, float], after: dict[str, float], name: str) -> float:
    return after.get(name, 0.0) - before.get(name, 0.0)
