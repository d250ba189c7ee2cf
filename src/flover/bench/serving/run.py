"""One run of `bench serve`: waits for the server, warms it up, sends all requests at their times, counts tokens."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from flover.bench.client import Client, Send
from flover.bench.metrics import RequestRecord
from flover.bench.serving.datasets import SampleRequest
from flover.bench.serving.options import ServerOptions, Traffic
from flover.bench.serving.requests import make_sends
from flover.errors import EngineError
from flover.text.tokenizer import Tokenizer

READY_SECONDS = 1.0
"""Seconds between two attempts to reach a server that is not ready."""
REFUSALS = ("400:", "401:", "403:", "422:")
"""Status codes for which retrying does not help."""
Ended = Callable[[RequestRecord], None]
"""Called when a request has ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingWorkload:
    """The samples to measure and their times, warm-up samples, one for the readiness check, and fields of every
    request."""

    samples: Sequence[SampleRequest]
    times: Sequence[float]
    warmups: Sequence[SampleRequest]
    probe: SampleRequest
    fields: dict[str, Any]
    tokenizer: Tokenizer | None = None


@dataclass(frozen=True, slots=True)
class ServingRun:
    """The records of a run. `cpu_seconds` is the client's processor time; `counted` is how tokens were counted if the
    server sent no usage, else ""."""

    model: str
    records: list[RequestRecord]
    cpu_seconds: float
    counted: str


async def serve_all(
    target: ServerOptions, traffic: Traffic, work: ServingWorkload, ended: Ended | None = None
) -> ServingRun:
    """Run the benchmark. Raises `EngineError` if the server is unusable; failed requests are in their records."""
    async with Client(target.url, headers=target.headers) as client:
        model = await _find_model(client, target, traffic.ready_check_timeout_sec)
        if traffic.ready_check_timeout_sec > 0:
            (probe,) = _sends(work, [work.probe], [0.0], target, model, "ready")
            await _wait_until_ready(client, probe, traffic.ready_check_timeout_sec)
        if work.warmups:
            sends = _sends(work, work.warmups, [0.0] * len(work.warmups), target, model, "warm-up")
            _check_warm(await send_all(client, sends, traffic.max_concurrency))
        sends = _sends(work, work.samples, work.times, target, model, "measured")
        async with _profiled(client, traffic.profile):
            gc.collect()
            gc.freeze()
            before = time.process_time()
            records = await send_all(client, sends, traffic.max_concurrency, ended)
            cpu_seconds = time.process_time() - before
            gc.unfreeze()
    counted = "".join(sorted({_count(*pair, work.tokenizer) for pair in zip(records, work.samples, strict=True)}))
    return ServingRun(model, records, cpu_seconds, counted)


async def send_all(
    client: Client, sends: Sequence[Send], max_concurrency: int | None = None, ended: Ended | None = None
) -> list[RequestRecord]:
    """Send every request at its time, or later when fewer than `max_concurrency` are open, in order."""
    slots = asyncio.Semaphore(max_concurrency) if max_concurrency else contextlib.nullcontext()
    start = time.perf_counter()

    async def one(send: Send) -> RequestRecord:
        await asyncio.sleep(send.at - (time.perf_counter() - start))
        async with slots:
            record = await client.stream(send)
        if ended is not None:
            ended(record)
        return record

    return list(await asyncio.gather(*(one(send) for send in sends)))


def _sends(
    work: ServingWorkload,
    samples: Sequence[SampleRequest],
    times: Sequence[float],
    target: ServerOptions,
    model: str,
    part: str,
) -> list[Send]:
    """Requests of one part of the run; with backend flover each part has its own cache salt."""
    own = {"return_token_ids": True, "cache_salt": f"{part}-{secrets.token_hex(8)}"} if target.is_flover else {}
    return make_sends(samples, times, target, model, own | work.fields, work.tokenizer)


async def _find_model(client: Client, target: ServerOptions, patience: float) -> str:
    """The model to use: the given one, or the server's first."""
    if target.model is not None:
        return target.model
    return str((await _models(client, patience))[0]["id"])


async def _models(client: Client, patience: float) -> list[dict[str, Any]]:
    """The server's models, polled until it answers. Raises `EngineError` after `patience` seconds."""
    deadline = time.monotonic() + patience
    while True:
        try:
            return await client.models()
        except EngineError:
            if time.monotonic() >= deadline:
                raise
        await asyncio.sleep(READY_SECONDS)


async def find_max_model_len(target: ServerOptions, patience: float) -> int | None:
    """The model's context length in tokens; None if the server does not report it.

    Raises `EngineError` if no model was named and the server names none.
    """
    async with Client(target.url, headers=target.headers) as client:
        try:
            models = await _models(client, patience)
        except EngineError:
            if target.model is None:
                raise
            return None
    named = [model for model in models if target.model in (None, model.get("id"))]
    found = named[0].get("max_model_len") if named else None
    return found if isinstance(found, int) and found > 0 else None


async def _wait_until_ready(client: Client, send: Send, patience: float) -> None:
    deadline = time.monotonic() + patience
    while not (record := await client.stream(send)).ok:
        if (record.error or "").startswith(REFUSALS):
            raise EngineError(f"{client.base_url} refuses the first request: {record.error}")
        if time.monotonic() >= deadline:
            raise EngineError(f"{client.base_url} did not answer within {patience:g} s: {record.error}")
        await asyncio.sleep(READY_SECONDS)


def _check_warm(records: Sequence[RequestRecord]) -> None:
    if failed := [record for record in records if not record.ok]:
        raise EngineError(f"{len(failed)} of {len(records)} warm-up requests failed: {failed[0].error}")


@contextlib.asynccontextmanager
async def _profiled(client: Client, wanted: bool) -> AsyncIterator[None]:
    if wanted:
        await client.post("/start_profile")
    yield
    if wanted:
        await client.post("/stop_profile")


def _count(record: RequestRecord, sample: SampleRequest, tokenizer: Tokenizer | None) -> str:
    """Count tokens if the server sent no usage; returns how they were counted."""
    if not record.ok or record.output_tokens:
        return ""
    if not record.prompt_tokens:
        record.prompt_tokens = sample.prompt_len or 0
    if tokenizer is None:
        record.output_tokens = len(record.ticks)
        return "chunks were counted, because the server sends no usage and there is no --tokenizer"
    record.output_tokens = max(1, len(tokenizer.encode(record.text, add_special_tokens=False)))
    if not record.prompt_tokens and isinstance(sample.prompt, str):
        record.prompt_tokens = len(tokenizer.encode(sample.prompt))
    return "the tokenizer counted them, because the server sends no usage"
