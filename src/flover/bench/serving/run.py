"""One run of `bench serve`: wait for the server, warm it up, send everything at its time, count what came back."""

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
from flover.bench.metrics import Record
from flover.bench.serving.datasets import Sample
from flover.bench.serving.options import Target, Traffic
from flover.bench.serving.requests import make_sends
from flover.errors import EngineError
from flover.text.tokenizer import Tokenizer

READY_SECONDS = 1.0
"""Between two tries to reach a server that is not ready."""
REFUSALS = ("400:", "401:", "403:", "422:")
"""Answers that waiting does not change."""
Ended = Callable[[Record], None]
"""Told of every request that has ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What to send: the samples that count and their times, those that warm up, one that asks whether the server is
    ready, and fields of every request."""

    samples: Sequence[Sample]
    times: Sequence[float]
    warmups: Sequence[Sample]
    probe: Sample
    fields: dict[str, Any]
    tokenizer: Tokenizer | None = None


@dataclass(frozen=True, slots=True)
class Served:
    """What came of it. `cpu_seconds` is the client's own processor time, `counted` how tokens were counted where the
    server did not say ("" if it always did)."""

    model: str
    records: list[Record]
    cpu_seconds: float
    counted: str


async def serve_all(target: Target, traffic: Traffic, work: Work, ended: Ended | None = None) -> Served:
    """Run everything. Raises `EngineError` if the server cannot be used; requests that fail are in their records."""
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
    return Served(model, records, cpu_seconds, counted)


async def send_all(
    client: Client, sends: Sequence[Send], max_concurrency: int | None = None, ended: Ended | None = None
) -> list[Record]:
    """Every request goes out at its time, or when fewer than `max_concurrency` are open, in order."""
    slots = asyncio.Semaphore(max_concurrency) if max_concurrency else contextlib.nullcontext()
    start = time.perf_counter()

    async def one(send: Send) -> Record:
        await asyncio.sleep(send.at - (time.perf_counter() - start))
        async with slots:
            record = await client.stream(send)
        if ended is not None:
            ended(record)
        return record

    return list(await asyncio.gather(*(one(send) for send in sends)))


def _sends(
    work: Work, samples: Sequence[Sample], times: Sequence[float], target: Target, model: str, part: str
) -> list[Send]:
    """Requests of one part of the run; Flover's own backend keeps the parts' prefixes apart."""
    own = {"return_token_ids": True, "cache_salt": f"{part}-{secrets.token_hex(8)}"} if target.is_flover else {}
    return make_sends(samples, times, target, model, own | work.fields, work.tokenizer)


async def _find_model(client: Client, target: Target, patience: float) -> str:
    """The model to ask for: the one that was named, or the server's first."""
    if target.model is not None:
        return target.model
    return str((await _models(client, patience))[0]["id"])


async def _models(client: Client, patience: float) -> list[dict[str, Any]]:
    """The server's models, asked for until it answers. Raises `EngineError` when `patience` seconds have passed."""
    deadline = time.monotonic() + patience
    while True:
        try:
            return await client.models()
        except EngineError:
            if time.monotonic() >= deadline:
                raise
        await asyncio.sleep(READY_SECONDS)


async def find_max_model_len(target: Target, patience: float) -> int | None:
    """Tokens of prompt and output that the model can hold; None if the server does not say it.

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


def _check_warm(records: Sequence[Record]) -> None:
    if failed := [record for record in records if not record.ok]:
        raise EngineError(f"{len(failed)} of {len(records)} warm-up requests failed: {failed[0].error}")


@contextlib.asynccontextmanager
async def _profiled(client: Client, wanted: bool) -> AsyncIterator[None]:
    if wanted:
        await client.post("/start_profile")
    yield
    if wanted:
        await client.post("/stop_profile")


def _count(record: Record, sample: Sample, tokenizer: Tokenizer | None) -> str:
    """Count tokens where the server sent no usage; says how."""
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
