"""What the log of a server says, what it never says, and that it holds up nobody."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.servers import Background, ServerProcess, running

from flover.engine.stats import EngineStats
from flover.errors import EngineError, RequestError
from flover.server import log
from flover.server.log import MAX_TEXT, LineFormatter, logging_to, printable
from flover.server.metrics import Metrics
from flover.server.request_log import MOST_REFUSALS_A_SECOND, RequestLog
from flover.server.throughput import log_throughput, throughput_line

COMPLETIONS = "/v1/completions"


def lines(server: ServerProcess, text: str, count: int = 1) -> list[str]:
    """The first `count` lines of the log that hold `text`."""

    def found() -> list[str]:
        return [line for line in server.errors if text in line]

    server.until(lambda: len(found()) >= count)
    return found()


def test_a_finished_request_is_one_line_with_its_numbers(start: Callable[..., ServerProcess]) -> None:
    server = start("--delay", "0.002")
    body = {"prompt": "abcdefghijklmnopqrst", "max_tokens": 6}
    for stream in (False, True):
        answer = server.http.post(
            COMPLETIONS, json={**body, "stream": stream}, headers={"X-Request-Id": f"one-{stream}"}
        )
        assert answer.status_code == 200
        (line,) = lines(server, f"one-{stream}")
        assert re.search(
            rf"INFO flover\.server\.request_log: request one-{stream} POST /v1/completions 200: "
            r"prompt 20 tokens \(\d+ cached\), output 6 tokens, first token \d\.\d{3} s, "
            r"finish length, total \d\.\d{3} s$",
            line.strip(),
        ), line
    server.http.post(COMPLETIONS, json={"prompt": ["ab", "cd"], "n": 2, "temperature": 1, "max_tokens": 3})
    assert "output 12 tokens" in lines(server, "finish 4 length")[0]
    server.post("/tokenize", {"prompt": "abc"})
    assert "200, total" in lines(server, "POST /tokenize")[0]
    assert not [line for line in server.errors if "/health" in line or "/metrics" in line]


def test_a_refusal_is_one_line_with_status_field_and_code(start: Callable[..., ServerProcess]) -> None:
    server = start(server={"api_key": ["key"]})
    server.http.headers["Authorization"] = "Bearer key"
    server.post(COMPLETIONS, {"prompt": "abc", "temperature": -1})
    assert "refused with 400 invalid_request_error, field temperature" in lines(server, "field temperature")[0]
    server.post(COMPLETIONS, {"prompt": "abc", "model": "other"})
    assert "refused with 404 not_found_error, field model, code model_not_found" in lines(server, "field model")[0]
    del server.http.headers["Authorization"]
    server.post(COMPLETIONS, {"prompt": "abc"})
    assert "refused with 401 authentication_error, code invalid_api_key" in lines(server, "401")[0]
    server.http.headers["Authorization"] = "Bearer key"
    assert server.metric("http_requests_total", status="4xx") == 3
    assert server.metric("http_requests_total", status="5xx") == 0


def test_a_client_that_leaves_is_told_of(start: Callable[..., ServerProcess]) -> None:
    server = start("--delay", "0.01")
    body = {"prompt": "abc", "max_tokens": 2000}
    with server.http.stream("POST", COMPLETIONS, json={**body, "stream": True}) as stream:
        next(stream.iter_lines())
    assert "finish abort" in lines(server, "request ")[0]
    with contextlib.suppress(httpx.ReadTimeout):
        server.http.post(COMPLETIONS, json=body, timeout=0.2)
    lines(server, "the client left before an answer")
    assert not [line for line in server.errors if "Error" in line or "Traceback" in line], server.errors


def test_no_line_with_no_log_requests(start: Callable[..., ServerProcess]) -> None:
    server = start(server={"log_requests": False})
    server.post(COMPLETIONS, {"prompt": "abc", "max_tokens": 3})
    server.post(COMPLETIONS, {})
    assert server.stop() == 0
    assert not [line for line in server.errors if "request " in line]


def test_the_ready_line_says_where_to_watch(start: Callable[..., ServerProcess]) -> None:
    server = start(server={"log_level": "debug"})
    assert "/v1/completions" in server.expect("curl")
    line = server.expect("dashboard: http")
    assert f"{server.url}/dashboard" in line
    assert f"flover top {server.url}" in line
    assert "--max-stop-strings 16" in lines(server, "limits: ")[0]


# Throughput


def test_throughput_is_measured_between_two_snapshots() -> None:
    before = EngineStats(prompt_tokens=100, generation_tokens=50, queried_tokens=100, cached_tokens=10)
    after = EngineStats(
        prompt_tokens=300,
        generation_tokens=150,
        queried_tokens=200,
        cached_tokens=60,
        running=3,
        waiting=2,
        pages_used=5,
        pages_total=50,
    )
    assert throughput_line(before, after, 10.0) == (
        "Avg prompt throughput: 20.0 tokens/s, Avg generation throughput: 10.0 tokens/s, Running: 3 reqs, "
        "Waiting: 2 reqs, KV cache usage: 10.0%, Prefix cache hit rate: 50.0%"
    )


def test_an_idle_engine_is_not_told_of_and_a_stuck_one_is() -> None:
    idle = EngineStats(prompt_tokens=7, generation_tokens=9)
    assert throughput_line(idle, idle, 10.0) is None
    stuck = EngineStats(running=1)
    assert "generation throughput: 0.0 tokens/s, Running: 1 reqs" in str(throughput_line(stuck, stuck, 10.0))


def test_a_line_comes_every_ten_seconds_of_work(caplog: pytest.LogCaptureFixture) -> None:
    class Engines:
        stats = EngineStats()

    now = 0.0

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        if now > 45:
            raise asyncio.CancelledError
        work = now in (10.0, 30.0)
        tokens = Engines.stats.generation_tokens + (500 if work else 0)
        Engines.stats = EngineStats(generation_tokens=tokens)

    with caplog.at_level("INFO"), contextlib.suppress(asyncio.CancelledError):
        asyncio.run(log_throughput(Engines(), lambda: now, sleep))  # type: ignore[arg-type]
    assert [record.getMessage()[:76] for record in caplog.records] == [
        "Avg prompt throughput: 0.0 tokens/s, Avg generation throughput: 50.0 tokens/"
    ] * 2


# What no line may hold

HOSTILE = st.text(
    alphabet=st.one_of(st.characters(), st.sampled_from("\n\r\x1b\u2028\u202e\x85\x00\ud83d")), max_size=300
)


@given(HOSTILE)
def test_no_text_breaks_a_line(text: str) -> None:
    clean = printable(text)
    assert clean.isprintable()
    clean.encode()
    assert len(printable(text, MAX_TEXT)) <= 10 * (MAX_TEXT + 1)


@given(HOSTILE, HOSTILE, HOSTILE, st.integers(100, 599))
def test_whatever_a_client_sends_a_request_is_one_line(path: str, param: str, method: str, status: int) -> None:
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(LineFormatter("%(message)s"))
    logger = logging.getLogger("flover.server.request_log")
    envelope = {"error": {"message": "secret", "type": "invalid_request_error", "param": param, "code": param}}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": [(b"x-request-id", b"7")]})
        await send({"type": "http.response.body", "body": json.dumps(envelope).encode()})

    async def nothing(*arguments: Any) -> None: ...

    logger.addHandler(handler)
    level = logger.level
    logger.setLevel("DEBUG")
    try:
        scope = {"type": "http", "path": path, "method": method, "headers": []}
        asyncio.run(RequestLog(app, Metrics("m").answered)(scope, nothing, nothing))  # type: ignore[arg-type]
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    line = written.getvalue()
    assert line.endswith("\n")
    assert line[:-1].isprintable()
    assert "secret" not in line
    assert len(line) < 6000


def test_refusals_without_end_are_counted_together(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 401, "headers": []})

    async def nothing(*arguments: Any) -> None: ...

    async def scenario() -> None:
        nonlocal now
        outer = RequestLog(app, lambda status: None, clock=lambda: now)
        for number in range(1000):
            now = 100 + number / 1000
            await outer({"type": "http", "path": "/x", "method": "GET", "headers": []}, nothing, nothing)  # type: ignore[arg-type]
        now = 200
        await outer({"type": "http", "path": "/x", "method": "GET", "headers": []}, nothing, nothing)  # type: ignore[arg-type]

    with caplog.at_level("INFO"):
        asyncio.run(scenario())
    assert len(caplog.records) == MOST_REFUSALS_A_SECOND + 2
    assert caplog.records[-2].getMessage() == f"{1000 - MOST_REFUSALS_A_SECOND} further requests were refused"


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """What a handler with the server's formatter has written of the logger "test"."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(LineFormatter("%(message)s"))
    logger = logging.getLogger("test")
    logger.addHandler(handler)
    yield stream
    logger.removeHandler(handler)


def test_an_unexpected_exception_is_told_without_what_a_client_wrote(written: io.StringIO) -> None:
    logger = logging.getLogger("test")
    try:
        try:
            raise KeyError("canary")
        except KeyError as error:
            raise RequestError("canary") from error
    except RequestError:
        logger.exception("it failed")
    assert "canary" not in written.getvalue()
    assert "builtins.KeyError" in written.getvalue()
    assert re.search(r"test_log\.py:\d+ in test_an_unexpected", written.getvalue())
    try:
        raise EngineError("the numbers\nare bad")
    except EngineError:
        logger.exception("it failed")
    assert r"flover.errors.EngineError: the numbers\nare bad" in written.getvalue()


def test_a_pipe_that_nobody_reads_does_not_hold_up_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "FLUSH_SECONDS", 0.05)
    reading, writing = os.pipe()
    with contextlib.suppress(BrokenPipeError), os.fdopen(writing, "w") as stream:
        logger = logging.getLogger("test")
        with logging_to(stream, "info"):
            for _ in range(3000):
                logger.info("x" * 100)  # far more than the pipe holds
        os.close(reading)
        (writing,) = [thread for thread in threading.enumerate() if thread.name == "log"]
        writing.join(15)
        assert not writing.is_alive()


def test_records_beyond_the_limit_are_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "MAX_WAITING_RECORDS", 5)

    free = threading.Event()

    class Held(io.StringIO):
        def write(self, text: str) -> int:
            free.wait(15)
            return super().write(text)

    stream = Held()
    with logging_to(stream, "info"):
        for number in range(50):
            logging.getLogger("test").info("%d", number)
        free.set()
    text = stream.getvalue()
    written = text.count(" test: ")
    assert 5 <= written <= 6, "one was being written, five waited"
    assert sum(map(int, re.findall(r"(\d+) lines of the log were dropped", text))) == 50 - written


def test_a_stopped_server_has_written_all_of_its_log(start: Callable[..., ServerProcess]) -> None:
    server = start("--delay", "0.005", server={"shutdown_timeout": 5})
    whole = Background(server, {"prompt": "abc", "max_tokens": 100})
    running(server, 1)
    server.process.send_signal(signal.SIGTERM)
    assert whole.result().status_code == 200
    assert server.process.wait(10) == 0
    lines(server, "output 100 tokens")
