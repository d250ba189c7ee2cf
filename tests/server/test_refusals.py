"""What the server does not honour it refuses, in OpenAI's envelope, and goes on."""

from __future__ import annotations

from typing import Any

import pytest
from support.servers import CHAT, COMPLETION, ServerProcess, refused
from toy_engine import POISON

BOTH: list[tuple[str, Any]] = [
    # wrong types
    ("temperature", "0.5"),
    ("temperature", True),
    ("temperature", [1]),
    ("max_tokens", "5"),
    ("max_tokens", 5.5),
    ("max_tokens", True),
    ("n", "2"),
    ("n", False),
    ("stream", 1),
    ("stream", "true"),
    ("seed", 1.5),
    ("stop", 5),
    ("stop", [1]),
    ("stop_token_ids", ["1"]),
    ("stop_token_ids", [True]),
    ("logit_bias", [1]),
    ("logit_bias", {"a": 1}),
    ("logit_bias", {"1": "1"}),
    ("logit_bias", {"-1": 1}),
    ("logit_bias", {"١": 1}),
    ("model", 5),
    ("ignore_eos", "no"),
    ("echo", "yes"),
    ("stream_options", True),
    # out of range
    ("temperature", -0.1),
    ("temperature", 1e300),
    ("top_p", 0),
    ("top_p", 1.1),
    ("top_k", -2),
    ("min_p", 2),
    ("presence_penalty", 3),
    ("frequency_penalty", -3),
    ("repetition_penalty", 0),
    ("n", 0),
    ("n", 65),
    ("max_tokens", -2),
    ("seed", 2**63),
    ("stop", ["x"] * 17),
    ("stop", [""]),
    ("stop_token_ids", [300]),
    ("logit_bias", {"300": 1}),
    ("logit_bias", {"5": 101}),
    ("allowed_token_ids", []),
    ("allowed_token_ids", [300]),
    ("bad_words", ["x"] * 65),
    ("prompt_logprobs", -1),
    ("prompt_logprobs", 21),
    ("truncate_prompt_tokens", 0),
    ("truncate_prompt_tokens", -2),
    ("priority", 2**31),
    ("request_id", "a b"),
    ("request_id", ""),
    ("cache_salt", "a/b"),
    # not honoured
    ("response_format", {"type": "structural_tag"}),
    ("response_format", {"type": "json_schema"}),
    ("response_format", {"type": "json_schema", "json_schema": {"schema": {"type": "array", "uniqueItems": True}}}),
    ("structured_outputs", {"regex": "a", "choice": ["a"]}),
    ("structured_outputs", {"regex": "(a"}),
    ("structured_outputs", {"regex": "(" * 500 + ")" * 500}),
    ("structured_outputs", {"choice": []}),
    ("structured_outputs", {"choice": ["x"] * 1001}),
    ("structured_outputs", {"json": [1]}),
    ("structured_outputs", {"json": "{"}),
    ("structured_outputs", {"json": {"type": "strange"}}),
    ("structured_outputs", {"json": {"$ref": "#/a", "a": {"$ref": "#/a"}}}),
    ("structured_outputs", {"json": {"items": {"enum": ["x" * 70_000]}}}),
    ("structured_outputs", {"grammar": "start: missing"}),
    ("structured_outputs", {"grammar": 'root ::= "a'}),
    ("structured_outputs", {"structural_tag": "{}"}),
    ("guided_json", {}),
    ("guided_regex", "a"),
    ("guided_choice", ["a"]),
    ("guided_grammar", "a"),
    ("use_beam_search", True),
    ("unheard_of", 1),
    # only together with something else
    ("stream_options", {"include_usage": True}),
]
ONLY_COMPLETIONS: list[tuple[str, Any]] = [
    ("prompt", None),
    ("prompt", 5),
    ("prompt", ""),
    ("prompt", []),
    ("prompt", [[]]),
    ("prompt", ["a", 1]),
    ("prompt", ["a", [1]]),
    ("prompt", [1, True]),
    ("prompt", [1.5]),
    ("prompt", [300]),
    ("prompt", [-1]),
    ("prompt", [2**70]),
    ("prompt", [1] * 2048),
    ("prompt", "x" * 100_000),
    ("prompt", ["x"] * 257),
    ("prompt", "\ud800"),
    ("logprobs", True),
    ("logprobs", -1),
    ("logprobs", 21),
    ("max_tokens", 0),
    ("best_of", 2),
    ("suffix", "x"),
    ("messages", []),
]
ONLY_CHAT: list[tuple[str, Any]] = [
    ("messages", None),
    ("messages", []),
    ("messages", "hi"),
    ("messages", [{"role": "user"}]),
    ("messages", [{"content": "hi"}]),
    ("messages", [{"role": "user", "content": None}]),
    ("messages", [{"role": "king", "content": "hi"}]),
    ("messages", [{"role": "user", "content": 5}]),
    ("messages", [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}]),
    ("messages", [{"role": "user", "content": "hi"}] * 1025),
    ("messages", [{"role": "user", "content": "x" * 3000}]),
    ("max_completion_tokens", 0),
    ("max_completion_tokens", "5"),
    ("logprobs", 2),
    ("top_logprobs", 2),
    ("tools", [{"type": "web_search"}]),
    ("tools", [{"type": "function", "function": {"name": ""}}]),
    ("tools", [{"type": "function"}]),
    ("tools", [{"type": "function", "function": {"name": "f", "parameters": []}}]),
    ("tools", [{"type": "function", "function": {"name": "f"}}] * 129),
    ("tool_choice", "required"),
    ("tool_choice", "any"),
    ("tool_choice", {"type": "function"}),
    ("tool_choice", {"type": "allowed_tools", "mode": "auto"}),
    ("tool_choice", {"type": "function", "function": {"name": "f"}}),
    ("parallel_tool_calls", 1),
    ("include_reasoning", "no"),
    ("functions", [{"name": "f"}]),
    ("modalities", ["audio"]),
    ("reasoning_effort", 5),
    ("chat_template", "{{ 1 }}"),
    ("chat_template_kwargs", {"messages": "x"}),
    ("chat_template_kwargs", {"x": [1]}),
    ("documents", [{}]),
    ("continue_final_message", "yes"),
    ("prompt", "abc"),
]
TABLE = [
    *(("/v1/completions", COMPLETION, *case) for case in BOTH + ONLY_COMPLETIONS),
    *(("/v1/chat/completions", CHAT, *case) for case in BOTH + ONLY_CHAT),
]


def test_every_field_that_cannot_be_honoured_is_named(server: ServerProcess) -> None:
    wrong = []
    for path, body, field, value in TABLE:
        answer = server.post(path, {**body, field: value})
        if answer.status_code != 400 or refused(answer)["param"] != field:
            wrong.append((path, field, str(value)[:60], answer.status_code, answer.text[:200]))
    assert wrong == []
    assert server.http.get("/health").status_code == 200


HARMLESS = {
    "user": "me",
    "metadata": {"a": "b"},
    "store": False,
    "service_tier": "auto",
    "response_format": {"type": "text"},
    "stop": None,
    "logit_bias": None,
    "seed": None,
    "stream_options": None,
    "max_tokens": 1,
    "unheard_of": None,
}


@pytest.mark.parametrize(
    ("path", "body", "more"),
    [
        ("/v1/completions", COMPLETION, {"suffix": None, "best_of": 1, "logprobs": None}),
        ("/v1/chat/completions", CHAT, {"tools": [], "tool_choice": "none", "parallel_tool_calls": True}),
        ("/v1/chat/completions", CHAT, {"store": True, "service_tier": "flex", "reasoning_effort": "high"}),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "hi", "mood": "good"}]},
            {"max_tokens": 2048},
        ),
        ("/v1/completions", COMPLETION, {"max_tokens": 2048, "min_tokens": 0}),
        ("/v1/chat/completions", CHAT, {"tools": None, "functions": None, "modalities": ["text"], "logprobs": False}),
    ],
)
def test_fields_are_accepted_at_the_value_that_changes_nothing(
    server: ServerProcess, path: str, body: dict[str, Any], more: dict[str, Any]
) -> None:
    answer = server.post(path, {**body, **HARMLESS, **more})
    assert answer.status_code == 200, answer.text


def test_a_prompt_that_is_too_long_is_told_the_limit_and_its_length(server: ServerProcess) -> None:
    error = refused(server.post("/v1/completions", {"prompt": [1] * 2100}))
    assert error["code"] == "context_length_exceeded"
    assert "maximum context length is 2048 tokens" in error["message"]
    assert "2100" in error["message"] and "max_tokens" not in error["message"]


def test_more_tokens_than_fit_are_cut_to_what_fits(server: ServerProcess) -> None:
    answer = server.post("/v1/completions", {"prompt": [1] * 2040, "max_tokens": 100, "ignore_eos": True}).json()
    assert answer["usage"]["completion_tokens"] == 8
    assert answer["choices"][0]["finish_reason"] == "length"


def test_the_old_name_of_max_tokens_is_checked_beside_the_new_one(server: ServerProcess) -> None:
    answer = server.post("/v1/completions", {**COMPLETION, "max_tokens": 0, "max_completion_tokens": 2})
    assert refused(answer)["param"] in ("max_tokens", "max_completion_tokens")


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_the_new_name_of_max_tokens_comes_before_the_old_one(server: ServerProcess, path: str) -> None:
    body = COMPLETION if path == "/v1/completions" else CHAT
    answer = server.post(path, {**body, "max_tokens": 5, "max_completion_tokens": 2, "ignore_eos": True}).json()
    assert answer["usage"]["completion_tokens"] == 2


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"prompt"',
        b"\xff\xfe",
        b'{"prompt": "a"} x',
        b'{"prompt": "a", "prompt": "b"}',
        b'{"prompt": "a", "temperature": NaN}',
        b'{"prompt": "a", "temperature": Infinity}',
        b'{"prompt": "a", "temperature": 1e999}',
        b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}",
        b'{"prompt": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
        b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    ],
    ids=lambda body: body[:24].decode(errors="replace"),
)
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"])
def test_what_is_no_json_object_of_the_right_form_is_refused(server: ServerProcess, path: str, body: bytes) -> None:
    refused(server.http.post(path, content=body, headers={"Content-Type": "application/json"}))


def test_a_body_without_the_json_type_is_refused(server: ServerProcess) -> None:
    answer = server.http.post("/v1/completions", content=b'{"prompt": "a"}', headers={"Content-Type": "text/plain"})
    refused(answer, 415)


def test_unknown_routes_methods_and_models_have_the_envelope_too(server: ServerProcess) -> None:
    refused(server.http.get("/v1/nothing"), 404, "not_found_error")
    refused(server.post("/v1/completions/", COMPLETION), 404, "not_found_error")
    for path in ("/v1/chat/completions/", "/v1//chat/completions", "/v1/v1/chat/completions"):
        assert refused(server.post(path, CHAT), 404, "not_found_error")["message"] == (
            f"there is no {path}; did you mean /v1/chat/completions?"
        )
    answer = server.http.get("/v1/completions")
    refused(answer, 405)
    assert answer.headers["allow"] == "POST"
    for path, body in (("/v1/completions", COMPLETION), ("/v1/chat/completions", CHAT), ("/tokenize", COMPLETION)):
        error = refused(server.post(path, {**body, "model": "gpt-9"}), 404, "not_found_error")
        assert (error["param"], error["code"]) == ("model", "model_not_found")


def test_a_body_that_is_too_long_is_not_read(server: ServerProcess) -> None:
    def endless() -> Any:
        yield b'{"prompt": "'
        for _ in range(40):
            yield b"a" * 2**16

    refused(server.http.post("/v1/completions", content=b" " * (2 * 2**20 + 1)), 413)
    refused(server.http.post("/v1/completions", content=endless()), 413)


def test_a_failed_row_is_the_servers_fault(server: ServerProcess) -> None:
    error = refused(server.post("/v1/completions", {"prompt": [1, POISON]}), 500, "server_error")
    assert error["message"] == "poisoned"


# Tokenize


def test_tokenize_and_detokenize(server: ServerProcess) -> None:
    answer = server.post("/tokenize", {"prompt": "aé<eos>", "return_token_strs": True}).json()
    assert answer["tokens"] == [97, 0xC3, 0xA9, 256]
    assert (answer["count"], answer["max_model_len"]) == (4, 2048)
    assert answer["token_strs"] == ["a", "Ã", "©", "<eos>"]
    assert server.post("/detokenize", {"tokens": answer["tokens"]}).json() == {"prompt": "aé<eos>"}
    info = server.http.get("/tokenizer_info").json()
    assert info["eos_token"] == "<eos>" and "add_generation_prompt" in info["chat_template"]


def test_tokenize_writes_a_conversation_as_the_template_does(server: ServerProcess) -> None:
    body: dict[str, Any] = {**CHAT, "add_generation_prompt": False}
    assert bytes(server.post("/tokenize", body).json()["tokens"]) == b"u:hi\n"
    assert bytes(server.post("/tokenize", CHAT).json()["tokens"]) == b"u:hi\na:"


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {**COMPLETION, **CHAT}, "prompt"),
        ("/tokenize", {"prompt": ["a"]}, "prompt"),
        ("/tokenize", {"prompt": "\ud800"}, "prompt"),
        ("/tokenize", {"prompt": "a", "return_tensors": True}, "return_tensors"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": ["1"]}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens"),
        ("/detokenize", {"tokens": [300]}, "tokens"),
    ],
)
def test_tokenize_refuses(server: ServerProcess, path: str, body: dict[str, Any], param: str) -> None:
    assert refused(server.post(path, body))["param"] == param
