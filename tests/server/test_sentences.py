"""What a refusal says: the field, the limit, and what came."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.servers import CHAT, COMPLETION, ServerProcess, read_events, refused
from toy_engine import POISON

SENTENCES: list[tuple[dict[str, Any], str | None, str]] = [
    (
        {"allowed_token_ids": [97] * 301},
        "allowed_token_ids",
        "allowed_token_ids may hold at most 300 token ids, got more",
    ),
    (
        {"guided_json": {"a": float("inf")}},
        "guided_json",
        "guided_json is called structured_outputs here: send structured_outputs with json, got an object of ",
    ),
    ({"model": "a\0b"}, "model", 'the model "a\\u0000b" is not served here; there is toy'),
    ({"stop": "a\ud83d"}, "stop", "stop holds half of a surrogate pair, which is no character"),
    ({"user": ["\udc00"]}, "user", "user holds half of a surrogate pair"),
    ({"\ud83d": 1}, None, "the name of a field holds half of a surrogate pair"),
    ({"seed": 2**63}, "seed", f"seed must be a whole number between {-(2**63)} and {2**63 - 1}, got {2**63}"),
    ({"seed": 10**29}, "seed", f"seed must be a whole number between {-(2**63)} and {2**63 - 1}, got 1{'0' * 29}"),
    ({"n": 0}, "n", "n must be a whole number between 1 and 64, got 0"),
    ({"max_tokens": -2}, "max_tokens", f"max_tokens must be a whole number between 1 and {2**31 - 1}, got -2"),
    ({"stop": ["a", ""]}, "stop", "stop[1] is an empty string, which is in every text"),
    ({"max_token": 5}, "max_token", "max_token is not a field that this server knows; did you mean max_tokens?"),
    (
        {"allowed_token_ids": [256], "min_tokens": 1},
        "allowed_token_ids",
        "no token is left to choose under allowed_token_ids and min_tokens (1, before which no token may end",
    ),
    ({"bad_words": ["a"], "allowed_token_ids": [97]}, "allowed_token_ids", "no token is left to choose under allowed"),
    ({"prompt": [1] * 3000}, "prompt", "This model's maximum context length is 2048 tokens. However, "),
    (
        {"prompt": "x" * 40_000},
        "prompt",
        "This model's maximum context length is 2048 tokens, at most 16384 characters. However, your prompt has 40000",
    ),
]


def part(**fields: Any) -> dict[str, Any]:
    """A conversation whose content has this part behind a text."""
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}, fields]}]}


CHAT_SENTENCES: list[tuple[dict[str, Any], str, str]] = [
    (
        part(type="image_url", image_url={"url": "http://x"}),
        "messages",
        "messages[0].content[1] has type image_url: only text is supported",
    ),
    (part(type="input_audio"), "messages", "messages[0].content[1] has type input_audio: only text is supported"),
    (part(text="x"), "messages", "messages[0].content[1].type is required"),
    (
        {"messages": [{"role": "user", "content": 123}]},
        "messages",
        "messages[0].content must be a string or a list of text parts, got 123",
    ),
    ({"messages": [{"role": "user", "content": "\ud83d"}]}, "messages", "messages holds half of a surrogate pair"),
    ({"tools": [{"type": "web_search"}]}, "tools", "tools[0] is of type web_search: only functions are supported"),
    ({"tool_choice": "required"}, "tool_choice", "tool_choice asks for a call, and there are no tools"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {}}}}},
        "response_format",
        "response_format.json_schema.schema cannot be compiled: failed to compile JSON schema: Unimplemented keys: "
        '["not"]',
    ),
    ({"chat_template_kwargs": {"self": 1}}, "chat_template_kwargs", "chat_template_kwargs.self cannot be set"),
    ({"chat_template_kwargs": {"context": 1}}, "chat_template_kwargs", "chat_template_kwargs.context cannot be set"),
    ({"chat_template_kwargs": {"\ud83d": 1}}, "chat_template_kwargs", "chat_template_kwargs holds half of a surrogate"),
    (
        {"messages": [{"role": "user", "content": "y" * 3000}]},
        "messages",
        "This model's maximum context length is 2048 tokens. However, your prompt has 3005 tokens, which leaves no",
    ),
]


@pytest.mark.parametrize(
    ("path", "body", "param", "sentence"),
    [("/v1/completions", {**COMPLETION, **more}, *said) for more, *said in SENTENCES]
    + [("/v1/chat/completions", {**CHAT, **more}, *said) for more, *said in CHAT_SENTENCES],
)
def test_a_refusal_says_what_came(
    server: ServerProcess, path: str, body: dict[str, Any], param: str | None, sentence: str
) -> None:
    answer = server.http.post(
        path,
        content=json.dumps(body).replace("Infinity", "1e999"),
        headers={"Content-Type": "application/json"},
    )
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (404 if param == "model" else 400, param)
    assert error["message"].startswith(sentence), error["message"]


EMPTY: list[dict[str, Any]] = [
    *({"stop": ""}, {"stop": []}, {"bad_words": []}, {"stop_token_ids": []}, {"logit_bias": {}}, {"metadata": {}}),
    *({"repetition_penalty": 1e-7}, {"max_tokens": -1, "stop": ["a"]}, {"top_k": 0}, {"top_k": -1}, {"seed": -1}),
    *({"stream_options": {}}, {"stream_options": {"include_usage": False}}, {"max_tokens": 5.0}, {"n": 1.0}),
    {"top_logprobs": 0, "logprobs": False},
]


def test_a_prompt_is_scored_under_either_name_of_max_tokens(server: ServerProcess) -> None:
    for names in (("max_tokens",), ("max_completion_tokens",), ("max_tokens", "max_completion_tokens")):
        answer = server.post("/v1/completions", {**COMPLETION, "echo": True, **dict.fromkeys(names, 0)}).json()
        assert (answer["choices"][0]["text"], answer["usage"]["completion_tokens"]) == ("abc", 0)


@pytest.mark.parametrize("more", EMPTY, ids=json.dumps)
def test_empty_and_neutral_fields_of_user_interfaces_are_absent(server: ServerProcess, more: dict[str, Any]) -> None:
    answer = server.post("/v1/chat/completions", {**CHAT, "max_tokens": 2, **more})
    assert answer.status_code == 200, answer.text


def test_what_was_not_asked_for_is_null_in_whole_answers(server: ServerProcess) -> None:
    """Clients read these as attributes."""
    chat = server.post("/v1/chat/completions", {**CHAT, "max_tokens": 1}).json()
    whole = server.post("/v1/completions", {**COMPLETION, "max_tokens": 1}).json()
    found = [chat[name] for name in ("prompt_logprobs", "prompt_token_ids")]
    for choice in (chat["choices"][0], whole["choices"][0]):
        found += [choice[name] for name in ("logprobs", "stop_reason", "token_ids")]
    found += [whole["choices"][0][name] for name in ("prompt_logprobs", "prompt_token_ids")]
    found += [chat["choices"][0]["message"]["refusal"], server.post("/tokenize", {"prompt": "a"}).json()["token_strs"]]
    assert found == [None] * len(found)


def test_a_row_that_fails_in_mid_stream_ends_it_with_an_error_and_done(server: ServerProcess) -> None:
    for path, body in (
        ("/v1/completions", {"prompt": [1, POISON], "max_tokens": 5}),
        ("/v1/completions", {"prompt": [[1, 2], [1, POISON]], "max_tokens": 50, "n": 2, "temperature": 1}),
    ):
        *_, last, done = read_events(server.post(path, {**body, "stream": True}).text)
        assert (last["error"]["code"], last["error"]["type"], done) == ("generation_failed", "server_error", "[DONE]")


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
    error = refused(server.post("/v1/chat/completions", conversation(code, 2)))
    assert error["code"] == "context_length_exceeded"


def test_bad_words_are_not_sent_to_the_engine_with_each_of_many_prompts_without_end(server: ServerProcess) -> None:
    words = [f"{i:02}" * 500 for i in range(64)]
    error = refused(server.post("/v1/completions", {"prompt": ["a"] * 128, "bad_words": words}))
    assert error["param"] == "bad_words"
    assert "128 prompts" in error["message"]
    assert server.post("/v1/completions", {"prompt": "a", "bad_words": words, "max_tokens": 1}).status_code == 200
