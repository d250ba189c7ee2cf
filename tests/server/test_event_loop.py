"""The law of the event loop: whatever one client sends within the limits, `/health` is answered at once, and the stream
of a neighbour goes on.

What a server does at its idlest is measured first, on the same machine: a bound is the law's 100 ms, or a multiple of
that where the machine itself is slow.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from support.servers import ServerProcess

pytestmark = pytest.mark.alone

LONGEST_PAUSE = 0.1
SLACK = 3.0
"""Two processes share two cores with whatever else runs: a single late answer is no proof."""
BODY = 2 * 2**20 - 1000
"""Bytes of a body just within the limit."""

COMPLETIONS, CHAT, TOKENIZE = "/v1/completions", "/v1/chat/completions", "/tokenize"


def _message(content: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}]}


HOSTILE: dict[str, tuple[str, Callable[[], Any]]] = {
    "stop strings as long as may be, for many sequences": (
        COMPLETIONS,
        lambda: {
            "prompt": "a",
            "n": 64,
            "temperature": 1,
            "max_tokens": 2,
            "stop": [f"{i:02}" * 500 for i in range(16)],
        },
    ),
    "one stop string of the size of a body": (
        COMPLETIONS,
        lambda: {"prompt": "a", "n": 64, "temperature": 1, "stop": "ab" * (BODY // 2 - 50)},
    ),
    "a list of numbers as stop": (COMPLETIONS, lambda: {"prompt": "a", "stop": [1] * 600_000}),
    "a list of numbers as tool calls": (CHAT, lambda: {"messages": [{"role": "user", "tool_calls": [1] * 600_000}]}),
    "a list of numbers as content": (CHAT, lambda: _message([1] * 600_000)),
    "stop token ids without end": (COMPLETIONS, lambda: {"prompt": "a", "stop_token_ids": [1] * 600_000}),
    "unknown fields": (COMPLETIONS, lambda: {"prompt": "a"} | {f"f{i}": 1 for i in range(74_000)}),
    "metadata without end": (CHAT, lambda: _message("a") | {"metadata": {f"f{i}": "1" for i in range(74_000)}}),
    "a prompt of the size of a body": (COMPLETIONS, lambda: {"prompt": "lorem ipsum " * (BODY // 12)}),
    "a message of the size of a body": (CHAT, lambda: _message("lorem ipsum " * (BODY // 12))),
    "a text to tokenize of the size of a body": (TOKENIZE, lambda: {"prompt": "lorem ipsum " * (BODY // 12)}),
    "bad words of the size of a body": (COMPLETIONS, lambda: {"prompt": "a", "bad_words": ["ab" * 15_000] * 64}),
    "as many sequences as may be, with alternatives, as a whole": (
        COMPLETIONS,
        lambda: {"prompt": "abcdef", "n": 64, "temperature": 1, "max_tokens": 200, "logprobs": 20},
    ),
    "log-probabilities of a long prompt": (
        COMPLETIONS,
        lambda: {"prompt": "x" * 2000, "max_tokens": 1, "prompt_logprobs": 20, "echo": True, "logprobs": 20},
    ),
    "log-probabilities of a long prompt, streamed for many sequences": (
        COMPLETIONS,
        lambda: {
            "prompt": "x" * 2000,
            "n": 64,
            "temperature": 1,
            "max_tokens": 1,
            "echo": True,
            "logprobs": 20,
            "stream": True,
        },
    ),
    "deep JSON": (COMPLETIONS, lambda: {"prompt": "a", "metadata": _deep(60)}),
    "token ids without end": (COMPLETIONS, lambda: {"prompt": [1] * 600_000}),
    "prompts without end": (COMPLETIONS, lambda: {"prompt": ["a"] * 300_000, "max_tokens": 1}),
    "a bias of everything": (COMPLETIONS, lambda: {"prompt": "a", "logit_bias": {str(i): 1 for i in range(74_000)}}),
    "text parts without end": (
        CHAT,
        lambda: {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}] * 58}] * 1000},
    ),
    "tool calls without end": (CHAT, lambda: _calls([{"function": {"name": "f"}}] * 64, 455)),
    "lists in the arguments of a tool call": (
        CHAT,
        lambda: _calls([{"function": {"name": "f", "arguments": '{"a":[' + "[]," * 630_000 + "1]}"}}], 1),
    ),
    "items of large function calls": (
        "/v1/responses",
        lambda: {
            "input": [
                {"role": "user", "content": "hi"},
                *[{"type": "function_call", "name": "f", "arguments": f'{{"a":"{"x" * 1900}"}}'} for _ in range(1020)],
            ]
        },
    ),
    "blocks of tool calls without end": (
        "/v1/messages",
        lambda: {
            "max_tokens": 2,
            "messages": [
                {"role": "user", "content": "hi"},
                {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "f", "input": {}}] * 14_900},
                {"role": "user", "content": "and"},
            ],
        },
    ),
    "blocks of tool results": (
        "/v1/messages",
        lambda: {
            "max_tokens": 2,
            "messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a"}] * 29_900}],
        },
    ),
    "a schema of the most values": (
        "/api/chat",
        lambda: {"messages": [{"role": "user", "content": "a"}], "format": {"enum": [[]] * 74_900}},
    ),
    "allowed tokens without end, for many prompts": (
        COMPLETIONS,
        lambda: {"prompt": ["a"] * 128, "max_tokens": 2, "allowed_token_ids": [97] * 149_000},
    ),
    "bad words and stop strings for many prompts": (
        COMPLETIONS,
        lambda: {
            "prompt": ["a"] * 128,
            "max_tokens": 2,
            "bad_words": [f"{i:02}" * 500 for i in range(64)],
            "stop": [f"{i:02}" * 500 for i in range(16)],
        },
    ),
    "ids to detokenize": ("/detokenize", lambda: {"tokens": [97] * 600_000}),
}


def _calls(calls: list[Any], messages: int) -> dict[str, Any]:
    turns = [{"role": "assistant", "tool_calls": calls}] * messages
    return {"messages": [{"role": "user", "content": "a"}, *turns]}


def _deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


class Pulse:
    """Asks for `/health` and reads a neighbour's stream, and remembers the longest pause of each."""

    def __init__(self, server: ServerProcess) -> None:
        self.longest_health = 0.0
        self.longest_gap = 0.0
        self._url = server.url
        self._reads = threading.Event()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=work) for work in (self._ask, self._read)]

    def _ask(self) -> None:
        with httpx.Client(base_url=self._url, timeout=60) as http:
            while not self._stop.is_set():
                began = time.monotonic()
                assert http.get("/health").status_code == 200
                self.longest_health = max(self.longest_health, time.monotonic() - began)
                self._stop.wait(0.005)

    def _read(self) -> None:
        body = {"prompt": "abc", "max_tokens": 2000, "stream": True}
        while not self._stop.is_set():
            with httpx.stream("POST", f"{self._url}{COMPLETIONS}", json=body, timeout=60) as stream:
                last: float | None = None
                for _ in stream.iter_lines():
                    self._reads.set()
                    now = time.monotonic()
                    self.longest_gap = max(self.longest_gap, now - (last or now))
                    last = now
                    if self._stop.is_set():
                        return

    def __enter__(self) -> Pulse:
        for thread in self._threads:
            thread.start()
        assert self._reads.wait(60)
        self.longest_health = self.longest_gap = 0.0
        return self

    def __exit__(self, *error: Any) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


@pytest.fixture(scope="module")
def quiet_server(model_folder: Any) -> Iterator[ServerProcess]:
    server = ServerProcess(model_folder, "--delay", "0.005")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def idle(quiet_server: ServerProcess) -> Pulse:
    """The pauses of a server with one other client."""
    with Pulse(quiet_server) as pulse:
        time.sleep(1.5)
    return pulse


@pytest.mark.parametrize("name", HOSTILE)
def test_nobody_else_notices(quiet_server: ServerProcess, idle: Pulse, name: str) -> None:
    path, make = HOSTILE[name]
    content = json.dumps(make(), separators=(",", ":")).encode()
    assert len(content) <= BODY + 1000
    headers = {"Content-Type": "application/json"}
    longest_health, longest_gap = [], []
    for _ in range(3):
        with Pulse(quiet_server) as pulse:
            answer = httpx.post(f"{quiet_server.url}{path}", content=content, headers=headers, timeout=60)
        assert answer.status_code < 500, answer.text
        longest_health.append(pulse.longest_health)
        longest_gap.append(pulse.longest_gap)
        if pulse.longest_health < LONGEST_PAUSE and pulse.longest_gap < LONGEST_PAUSE:
            break  # once without a pause: the others were the machine's
    assert min(longest_health) < max(LONGEST_PAUSE, SLACK * idle.longest_health), longest_health
    assert min(longest_gap) < max(LONGEST_PAUSE, SLACK * idle.longest_gap), longest_gap
