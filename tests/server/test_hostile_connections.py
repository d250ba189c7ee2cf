"""What a client without a key can do to the others: heads without end, connections that say half of what they mean.

A whole server in its own process; the clients are threads with plain sockets.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import psutil
import pytest
from support.servers import ServerProcess

pytestmark = pytest.mark.alone

Start = Callable[..., ServerProcess]
KEY = "sk-one"
HALF_BODY = (
    b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer sk-one\r\n"
    b"Content-Type: application/json\r\nContent-Length: 1900000\r\n\r\n" + b'{"prompt":"'
)
CEILING = 0.1
"""Seconds that a health check may take while somebody attacks; without anything it takes a few milliseconds."""


def connect(server: ServerProcess) -> socket.socket:
    host, port = httpx.URL(server.url).netloc.decode().split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def say(server: ServerProcess, *parts: bytes) -> bytes:
    """Send parts, as far as the server takes them, and read its answer to the end."""
    with connect(server) as connection:
        try:
            for part in parts:
                connection.sendall(part)
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        answer = b""
        try:
            while data := connection.recv(2**16):
                answer += data
        except OSError:
            pass
        return answer


@contextmanager
def health_checked(server: ServerProcess, path: str = "/health") -> Iterator[list[float]]:
    """Seconds that each health check takes, on one connection, while the block runs."""
    ended, took = threading.Event(), []

    def check() -> None:
        with httpx.Client(base_url=server.url, timeout=30) as client:
            while not ended.is_set():
                begun = time.monotonic()
                assert client.get(path).status_code == 200
                took.append(time.monotonic() - begun)
                ended.wait(0.005)

    thread = threading.Thread(target=check)
    thread.start()
    while thread.is_alive() and not took:
        time.sleep(0.001)
    try:
        yield took
    finally:
        ended.set()
        thread.join()


def memory(server: ServerProcess) -> int:
    size: int = psutil.Process(server.process.pid).memory_info().rss
    return size


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param([b"A: " + b"a" * 2**20, *[b"a" * 2**20] * 63], id="one value of 64 MB"),
        pytest.param([b"A: b\r\n" * 100_000] * 64, id="6.4 million lines"),
        pytest.param([b"a" * 2**20] * 64, id="a name of 64 MB"),
        pytest.param([b"\r\n" * 2**19] * 64, id="nothing but line breaks"),
    ],
)
def test_a_head_without_end_costs_nothing(start: Start, parts: list[bytes]) -> None:
    server = start(server={"api_key": [KEY]})
    say(server, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    before = memory(server)
    with health_checked(server) as took:
        begun = time.monotonic()
        answers = [say(server, b"GET /health HTTP/1.1\r\nHost: localhost\r\n", *parts) for _ in range(3)]
        seconds = time.monotonic() - begun
    for answer in answers:
        assert b"HTTP/1.1 431 " in answer, answer[:100]
        assert json.loads(answer.rpartition(b"\r\n\r\n")[2])["error"]["type"] == "invalid_request_error"
    assert seconds < 5
    assert max(took) < CEILING
    assert memory(server) - before < 32 * 2**20


@pytest.mark.parametrize(
    "half", [HALF_BODY, pytest.param(b"GET /health HTTP/1.1\r\nHo", marks=pytest.mark.long)], ids=["bodies", "heads"]
)
def test_a_thousand_half_requests_are_ended_and_keep_nobody_out(start: Start, half: bytes) -> None:
    limits = {"header_timeout": 3, "body_timeout": 3, "max_connections": 512}
    server = start(server={"api_key": [KEY], "limits": limits})
    connections = [connect(server) for _ in range(1000)]
    with health_checked(server, "/livez") as took:
        for connection in connections:
            connection.sendall(half)
        answer = server.http.get("/v1/models", headers={"Authorization": f"Bearer {KEY}"})
        assert answer.status_code == 200
    assert max(took) < 5 * CEILING  # connections, too, are accepted meanwhile
    process = psutil.Process(server.process.pid)
    server.until(lambda: process.num_fds() < 100, 15)
    for connection in connections:
        connection.close()


def test_half_bodies_hold_a_bounded_amount_of_memory(start: Start) -> None:
    server = start(server={"api_key": [KEY], "limits": {"max_pending_body_bytes": 16 * 2**20}})
    before = memory(server)
    connections = [connect(server) for _ in range(100)]
    for connection in connections:
        connection.sendall(HALF_BODY + b"a" * 1_800_000)
    body = {"prompt": "abc", "max_tokens": 3}
    answer = server.http.post("/v1/completions", json=body, headers={"Authorization": f"Bearer {KEY}"})
    assert answer.status_code == 200
    assert memory(server) - before < 96 * 2**20
    for connection in connections:
        connection.close()


def test_a_stranger_s_body_is_not_waited_for(start: Start) -> None:
    server = start(server={"api_key": [KEY]})
    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1900000\r\n\r\n"
    with connect(server) as connection:
        connection.sendall(head)
        assert connection.recv(2**16).startswith(b"HTTP/1.1 401 ")


def test_a_neighbour_s_stream_goes_on_at_its_pace(start: Start) -> None:
    server = start("--delay", "0.005")
    gaps: dict[str, float] = {}

    def stream(name: str) -> None:
        body: dict[str, Any] = {"prompt": "abc", "max_tokens": 300, "stream": True, "ignore_eos": True}
        with server.http.stream("POST", "/v1/completions", json=body) as answer:
            last, longest = time.monotonic(), 0.0
            for _ in answer.iter_lines():
                now = time.monotonic()
                last, longest = now, max(longest, now - last)
        gaps[name] = longest

    stream("alone")
    neighbour = threading.Thread(target=stream, args=("with hostile heads",))
    neighbour.start()
    for _ in range(4):
        say(server, b"GET /health HTTP/1.1\r\nHost: localhost\r\nA: ", *[b"a" * 2**20] * 16)
    neighbour.join()
    assert gaps["with hostile heads"] < gaps["alone"] + CEILING
