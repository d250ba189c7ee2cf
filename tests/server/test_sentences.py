"""What a refusal says: the field, the limit, and what came."""

from __future__ import annotations

import json
from typing import Any

import pytest
from conftest import ServerProcess
from test_refusals import CHAT, COMPLETION, refused

SENTENCES: list[tuple[dict[str, Any], str, str]] = [
    (
        {"allowed_token_ids": [97] * 301},
        "allowed_token_ids",
        "allowed_token_ids may hold at most 300 token ids, got more",
    ),
    (
        {"guided_json": {"a": float("inf")}},
        "guided_json",
        "guided_json is not supported: leave it out, got an object of ",
    ),
    ({"model": "a\0b"}, "model", 'the model "a\\u0000b" is not served here; there is toy'),
]


@pytest.mark.parametrize(("more", "param", "sentence"), SENTENCES)
def test_a_refusal_says_what_came(server: ServerProcess, more: dict[str, Any], param: str, sentence: str) -> None:
    answer = server.http.post(
        "/v1/completions",
        content=json.dumps({**COMPLETION, **more}).replace("Infinity", "1e999"),
        headers={"Content-Type": "application/json"},
    )
    error = answer.json()["error"]
    assert error["param"] == param
    assert error["message"].startswith(sentence), error["message"]


def test_what_the_arguments_of_tool_calls_spell_is_counted(server: ServerProcess) -> None:
    def conversation(spelled: Any, calls: int) -> dict[str, Any]:
        call = {"function": {"name": "f", "arguments": json.dumps(spelled)}}
        turns = [{"role": "assistant", "tool_calls": [call]}] * calls
        return {**CHAT, "messages": [*CHAT["messages"], *turns], "max_tokens": 1}

    for much in (conversation({"a": [1] * 40_000}, 1), conversation({"a": [1] * 1000}, 40)):
        error = refused(server.post("/v1/chat/completions", much))
        assert error["param"] == "messages"
        assert "names and values" in error["message"]
    code = {"code": "[{,:" * 20_000}
    assert server.post("/v1/chat/completions", conversation(code, 2)).status_code == 200


def test_bad_words_are_not_sent_to_the_engine_with_each_of_many_prompts_without_end(server: ServerProcess) -> None:
    words = [f"{i:02}" * 500 for i in range(64)]
    error = refused(server.post("/v1/completions", {"prompt": ["a"] * 128, "bad_words": words}))
    assert error["param"] == "bad_words"
    assert "128 prompts" in error["message"]
    assert server.post("/v1/completions", {"prompt": "a", "bad_words": words, "max_tokens": 1}).status_code == 200
