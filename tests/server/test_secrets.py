"""Law L15, secrets: no key, prompt or output in the log at any level, in the metrics, or in the body of an error.

A sentence about a wrong field may show the client that sent it a value of its own, as long as it is a word or two; no
further than its own answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from support.servers import ServerProcess, read_events
from toy_engine import POISON

from flover.errors import MAX_SHOWN_CHARACTERS

KEY = "canary-key-4711"
WRONG_KEY = "canary-wrong-key-4712"
WORD = "canary" * (MAX_SHOWN_CHARACTERS // 6 + 1)
"""In prompts, and so in what the toy answers."""
SHORT = "canarycanary"
CHAT = {"messages": [{"role": "user", "content": WORD}]}

GOOD: list[tuple[str, dict[str, Any]]] = [
    ("/v1/completions", {"prompt": WORD, "max_tokens": 12}),
    ("/v1/completions", {"prompt": WORD, "max_tokens": 12, "stream": True}),
    ("/v1/completions", {"prompt": WORD, "max_tokens": 12, "logprobs": 2, "echo": True}),
    ("/v1/chat/completions", {**CHAT, "max_tokens": 5}),
    ("/v1/chat/completions", {**CHAT, "max_tokens": 5, "stream": True}),
    ("/tokenize", {"prompt": WORD}),
    ("/tokenize", CHAT),
]
BAD: list[tuple[str, dict[str, Any]]] = [
    ("/v1/completions", {"prompt": {WORD: WORD}}),
    ("/v1/completions", {"prompt": [[WORD]]}),
    ("/v1/completions", {"prompt": WORD, "temperature": -1}),
    ("/v1/completions", {"prompt": WORD * 1000}),
    ("/v1/completions", {"prompt": [1, POISON]}),
    ("/v1/completions", {"prompt": [WORD] * 3000}),
    ("/v1/completions", {"prompt": "\ud83d" + WORD}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": {WORD: WORD}}]}),
    ("/v1/chat/completions", {"messages": [{"role": WORD + "\ud83d", "content": WORD}]}),
    ("/v1/chat/completions", {"messages": WORD}),
    ("/v1/chat/completions", {**CHAT, "chat_template_kwargs": {"m": WORD, "messages": WORD}}),
    ("/tokenize", {"prompt": [WORD]}),
    ("/detokenize", {"tokens": [WORD]}),
    ("/v1/nothing", {"prompt": WORD}),
]
SHOWN: list[tuple[str, dict[str, Any]]] = [
    ("/v1/completions", {"prompt": [[SHORT]]}),
    ("/v1/completions", {"prompt": "a", "seed": SHORT}),
    ("/v1/completions", {"prompt": "a", "model": SHORT}),
    ("/v1/chat/completions", {"messages": [{"role": SHORT, "content": SHORT}]}),
    ("/v1/chat/completions", {"messages": SHORT}),
    ("/detokenize", {"tokens": [SHORT]}),
]


@pytest.mark.parametrize("level", ["info", "debug"])
def test_no_canary_comes_out(start: Callable[..., ServerProcess], level: str) -> None:
    server = start("--delay", "0.001", server={"api_key": [KEY], "log_level": level, "served_model_name": ["toy"]})
    server.http.headers["Authorization"] = f"Bearer {KEY}"
    for path, body in GOOD:
        answer = server.post(path, body)
        assert answer.status_code == 200, answer.text
        assert KEY not in answer.text
        if body.get("stream"):
            assert read_events(answer.text)[-1] == "[DONE]"
    refusals = [server.post(path, body) for path, body in BAD]
    wrong = {"Authorization": f"Bearer {WRONG_KEY}"}
    refusals += [httpx.post(f"{server.url}/v1/completions", json={"prompt": WORD}, headers=wrong)]
    refusals += [server.http.post("/v1/completions", content=f'{{"prompt": "{WORD}'.encode())]
    assert all(answer.status_code >= 400 for answer in refusals), [(each.status_code, each.text) for each in refusals]
    assert WRONG_KEY not in "".join(server.post(path, body).text for path, body in SHOWN)
    metrics = server.http.get("/metrics").text
    server.engine.kill()
    server.until(lambda: server.http.get("/health").status_code == 200)
    assert server.stop() == 0
    texts = [*(answer.text for answer in refusals), metrics, *server.errors, *server.output]
    assert not [text for text in texts if re.search("canary", text)]
    assert len([line for line in server.errors if "request " in line]) >= len(GOOD) + len(BAD), "the log is not silent"
    assert not [text for text in texts if re.search(r"\b0x[0-9a-f]{6,}", text)], "no addresses of objects"
