"""Streams on the wire, and clients that go away."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from support.servers import ServerProcess, read_events

from flover.server.anthropic.errors import EVENTS as ANTHROPIC_EVENTS
from flover.server.ollama.answers import LINES
from flover.server.sse import OPENAI_EVENTS, EventStream, Framing

COMPLETION: dict[str, Any] = {"prompt": "abc", "max_tokens": 4}
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
LONG = 2000


@pytest.mark.parametrize(("path", "body"), [("/v1/completions", COMPLETION), ("/v1/chat/completions", CHAT)])
@pytest.mark.parametrize(
    "options", [None, {"include_usage": True}, {"include_usage": False}, {"continuous_usage_stats": True}]
)
def test_the_form_of_a_stream(server: ServerProcess, path: str, body: dict[str, Any], options: Any) -> None:
    answer = server.post(path, {**body, "n": 2, "temperature": 1, "stream": True, "stream_options": options})
    assert answer.headers["content-type"].startswith("text/event-stream")
    *chunks, done = read_events(answer.text)
    assert done == "[DONE]"
    with_usage = bool(options and options.get("include_usage"))
    if with_usage:
        usage = chunks.pop()
        assert usage["choices"] == []
        assert usage["usage"]["completion_tokens"] == 8
        assert all(chunk["usage"] is None for chunk in chunks)
    else:
        assert all("usage" not in chunk for chunk in chunks)
    for index in (0, 1):
        choices = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
        assert all(choice.keys() >= {"finish_reason", "logprobs"} for choice in choices)
        assert [choice["finish_reason"] for choice in choices] == [None] * (len(choices) - 1) + ["length"]
        if path.endswith("chat/completions"):
            assert choices[0]["delta"] == {"role": "assistant", "content": ""}
            assert all(choice["delta"].keys() == {"content"} for choice in choices[1:-1])
            assert choices[-1]["delta"] == {}


@pytest.mark.parametrize("framing", [OPENAI_EVENTS, ANTHROPIC_EVENTS, LINES])
def test_a_stream_without_events_is_kept_alive(framing: Framing) -> None:
    """While a long prompt is computed, something comes that clients do not take for an event of the answer."""
    sent: list[Any] = []
    kept = asyncio.Event()

    async def events() -> AsyncIterator[Any]:
        yield {"type": "first"}
        if framing.keep_alive:
            await kept.wait()
        yield {"type": "last"}

    async def send(message: Any) -> None:
        sent.append(message)
        if message.get("body") == framing.keep_alive != b"":
            kept.set()

    async def run() -> None:
        stream = EventStream(events(), lambda: None, framing, keep_alive=0.001)
        await asyncio.wait_for(stream({"type": "http"}, asyncio.Event().wait, send), 10)  # type: ignore[arg-type]
        assert all(task is asyncio.current_task() for task in asyncio.all_tasks())

    asyncio.run(run())
    *bodies, last = [message["body"] for message in sent[1:]]
    assert last == b"" and not sent[-1]["more_body"]
    own = [body for body in bodies if body != framing.keep_alive]
    assert own == [framing.encode({"type": kind}) for kind in ("first", "last")] + [framing.end] * bool(framing.end)
    assert (len(bodies) > len(own)) == bool(framing.keep_alive)


def test_token_ids_come_with_the_chunks(server: ServerProcess) -> None:
    answer = server.post("/v1/completions", {"prompt": "é", "max_tokens": 3, "stream": True, "return_token_ids": True})
    *chunks, _ = read_events(answer.text)
    choices = [chunk["choices"][0] for chunk in chunks]
    assert [choice["token_ids"] for choice in choices] == [[0xC3], [0xA9], [0xC3]]
    assert [choice.get("prompt_token_ids") for choice in choices] == [[0xC3, 0xA9], None, None]
    assert [choice["text"] for choice in choices] == ["", "é", "�"]


def test_a_stop_string_of_the_server_ends_the_sequence_in_the_engine(server: ServerProcess) -> None:
    aborted = server.metric("engine_sequences_total", finished_reason="abort")
    stopped = server.metric("request_success_total", finished_reason="stop")
    body = {"prompt": "abc", "max_tokens": LONG, "stop": "ca", "n": 3, "temperature": 1}
    answer = server.post("/v1/completions", body).json()
    assert {choice["finish_reason"] for choice in answer["choices"]} == {"stop"}
    server.until(lambda: server.metric("engine_sequences_total", finished_reason="abort") == aborted + 3)
    assert server.metric("request_success_total", finished_reason="stop") == stopped + 3
    server.until(lambda: server.metric("num_requests_running") == 0)


def test_a_sequence_that_stopped_costs_nothing_while_its_siblings_run(server: ServerProcess) -> None:
    made = server.metric("generation_tokens_total")
    answer = server.post("/v1/completions", {"prompt": ["ab!", "abcd"], "max_tokens": 300, "stop": "!"}).json()
    assert [len(choice["text"]) for choice in answer["choices"]] == [2, 300]
    assert server.metric("generation_tokens_total") - made < 400


def leave(server: ServerProcess, path: str, body: dict[str, Any], after: Callable[[bytes], bool]) -> None:
    """Send a request over a bare socket and close it as soon as what came satisfies `after`."""
    payload = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(payload)}\r\n\r\n"
    with socket.create_connection(httpx.URL(server.url).netloc.decode().split(":")) as connection:  # type: ignore[arg-type]
        connection.settimeout(0.02)
        connection.sendall(head.encode() + payload)
        received, deadline = b"", time.monotonic() + 5
        while not after(received):
            assert time.monotonic() < deadline
            with contextlib.suppress(TimeoutError):
                received += connection.recv(4096)


@pytest.mark.parametrize(("path", "body"), [("/v1/completions", COMPLETION), ("/v1/chat/completions", CHAT)])
@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_cancels_in_the_engine(
    server: ServerProcess, path: str, body: dict[str, Any], stream: bool
) -> None:
    aborted = server.metric("engine_sequences_total", finished_reason="abort")

    def enough(received: bytes) -> bool:
        if stream:
            return received.count(b"data: ") >= 3
        return server.metric("num_requests_running") == 2

    long = {**body, "max_tokens": LONG, "n": 2, "temperature": 1, "stream": stream}
    leave(server, path, long, enough)
    server.until(lambda: server.metric("engine_sequences_total", finished_reason="abort") == aborted + 2, seconds=1)
    assert server.metric("num_requests_running") == 0
    assert server.metric("kv_pages_used") == 0


def test_a_client_that_goes_away_at_once_leaves_nothing(server: ServerProcess) -> None:
    for _ in range(10):
        leave(server, "/v1/completions", {**COMPLETION, "max_tokens": LONG, "stream": True}, lambda received: True)
    server.until(lambda: server.metric("num_requests_running") + server.metric("num_requests_waiting") == 0)


def test_without_a_tokenizer_token_ids_are_served(start: Callable[..., ServerProcess]) -> None:
    server = start(engine={"skip_tokenizer_init": True})
    body = {"prompt": [5, 6], "max_tokens": 3, "temperature": 0, "return_token_ids": True, "logprobs": 1}
    (choice,) = server.post("/v1/completions", body).json()["choices"]
    assert (choice["text"], choice["token_ids"]) == ("", [5, 6, 5])
    assert choice["logprobs"]["tokens"] == ["token_id:5", "token_id:6", "token_id:5"]
    *chunks, done = read_events(server.post("/v1/completions", {**body, "logprobs": None, "stream": True}).text)
    assert done == "[DONE]"
    assert [chunk["choices"][0]["token_ids"] for chunk in chunks] == [[5], [6], [5]]
    quiet = {**body, "return_token_ids": False, "logprobs": None, "stream": True}
    assert len(read_events(server.post("/v1/completions", quiet).text)) == 4, "a chunk for every token all the same"
    for path, wrong, param in (
        ("/v1/completions", {"prompt": "abc"}, "prompt"),
        ("/v1/completions", {"prompt": [1], "stop": "x"}, "stop"),
        ("/v1/chat/completions", CHAT, "messages"),
        ("/tokenize", {"prompt": "abc"}, "prompt"),
        ("/detokenize", {"tokens": [1]}, "tokens"),
    ):
        answer = server.post(path, wrong)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize("include", [False, True])
@pytest.mark.parametrize("echo", [False, True])
def test_offsets_in_a_stream_that_a_stop_string_cuts_are_those_of_the_whole_answer(
    server: ServerProcess, include: bool, echo: bool
) -> None:
    body = {
        "prompt": "abcdef",
        "max_tokens": 30,
        "logprobs": 1,
        "echo": echo,
        "stop": ["cdeX", "fab"],
        "include_stop_str_in_output": include,
    }
    (whole,) = server.post("/v1/completions", body).json()["choices"]
    assert whole["stop_reason"] == "fab"
    events = read_events(server.post("/v1/completions", {**body, "stream": True}).text)[:-1]
    parts = [event["choices"][0] for event in events]
    assert "".join(part["text"] for part in parts) == whole["text"]
    for name in ("tokens", "text_offset", "token_logprobs"):
        assert [value for part in parts for value in part["logprobs"][name]] == whole["logprobs"][name]
    for token, offset in zip(whole["logprobs"]["tokens"], whole["logprobs"]["text_offset"], strict=True):
        assert whole["text"][offset:].startswith(token)
