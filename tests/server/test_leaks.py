"""Laws L4 and L11 for a whole server: requests of every kind, thousands of them, leave no memory, descriptor, thread or
series of a metric behind."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Callable

import httpx
import psutil
import pytest
from support.servers import ServerProcess

pytestmark = [pytest.mark.alone, pytest.mark.long]

TURNS, ROUNDS, TOGETHER = 5, 12, 40
MOST_GROWTH = 3 * 2**19
"""Bytes over the second half: a thousand requests, or as many as `make soak` has time for. Where each of a thousand
leaves 2 KB, it is more."""
MOST_DESCRIPTORS = 40


async def one(http: httpx.AsyncClient, number: int) -> None:
    """A whole answer, a stream, a refusal, a client that leaves, an unknown path, and conversations in each API: with
    tools, a constraint, reasoning, lines."""
    # Prompts come again: the tokenizers library remembers 10,000 words, and to the toy a prompt is one word.
    body = {"prompt": f"prompt {number // 10 % 10} " * 5, "max_tokens": 5, "user": f"user{number}"}
    chat = {"model": "toy", "messages": [{"role": "user", "content": f"message {number // 10 % 10}"}], "max_tokens": 5}
    form = {"type": "json_schema", "json_schema": {"schema": {"const": number // 10 % 10, "type": "integer"}}}
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    kind = number % 10
    if kind == 0:
        await http.post("/v1/completions", json={**body, "logprobs": 2})
    elif kind == 1:
        await http.post("/v1/completions", json={**body, "stream": True, "stop": f"x{number}"})
    elif kind == 2:
        await http.post("/v1/completions", json={**body, "temperature": -1, f"unknown{number}": 1})
    elif kind == 3:
        with contextlib.suppress(httpx.HTTPError):
            await http.post("/v1/completions", json={**body, "max_tokens": 1500}, timeout=0.1)
    elif kind == 5:
        (
            await http.post(
                "/v1/chat/completions", json={**chat, "tools": tools, "stream": True, "response_format": form}
            )
        ).raise_for_status()
    elif kind == 6:
        (await http.post("/v1/messages", json={**chat, "stream": True, "system": "Be brief."})).raise_for_status()
    elif kind == 7:
        (
            await http.post("/api/chat", json={**chat, "max_tokens": None, "options": {"num_predict": 5}})
        ).raise_for_status()
    elif kind == 8:
        (
            await http.post("/v1/responses", json={"input": chat["messages"], "max_output_tokens": 5, "stream": True})
        ).raise_for_status()
    else:
        await http.get(f"/path{number}", headers={"X-Request-Id": f"id{number}", "User-Agent": f"agent{number}"})


async def load(url: str, first: int) -> None:
    limits = httpx.Limits(max_connections=TOGETHER)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=30) as http:
        for turn in range(ROUNDS):
            await asyncio.gather(*(one(http, first + turn * TOGETHER + i) for i in range(TOGETHER)))


def test_nothing_grows(
    start: Callable[..., ServerProcess], record_property: Callable[[str, object], None], pytestconfig: pytest.Config
) -> None:
    server, until = start(), time.monotonic() + pytestconfig.getoption("--soak-seconds")
    processes = [psutil.Process(server.process.pid), server.engine]
    sizes, others = [], []
    for turn in itertools.count():
        if turn >= TURNS and time.monotonic() >= until:
            break
        asyncio.run(load(server.url, 10_000 * turn))
        server.until(lambda: server.metric("num_requests_running") + server.metric("num_requests_waiting") == 0)
        server.until(lambda: server.metric("kv_pages_used") == 0)
        sizes.append([process.memory_info().rss for process in processes])
        series = sum(not line.startswith("#") for line in server.http.get("/metrics").text.splitlines())
        for process in processes:  # connections that are being closed
            server.until(lambda process=process: process.num_fds() <= MOST_DESCRIPTORS)  # type: ignore[misc]
        others.append([*(process.num_threads() for process in processes), series])
    middle = len(sizes) // 2
    for name, before, after in zip(("server", "engine"), sizes[middle], sizes[-1], strict=True):
        requests = (len(sizes) - 1 - middle) * ROUNDS * TOGETHER
        record_property(f"growth of the {name} over {requests} requests, KB", (after - before) / 1024)
        assert after - before < MOST_GROWTH, sizes
    assert others[1] == others[-1]
