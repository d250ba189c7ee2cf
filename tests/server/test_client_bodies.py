"""Bodies as clients send them by default: each is answered, or refused with the field's name and a reason."""

from __future__ import annotations

import json
from typing import Any

from support.servers import COMPLETION, ServerProcess, refused

TOOL = {"type": "function", "function": {"name": "f", "description": "", "parameters": {}, "strict": True}}
OBJECT = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
FINAL = {"name": "final_result", "description": "A person.", "parameters": OBJECT, "strict": True}
FORMAT = {"name": "P", "schema": {**OBJECT, "title": "P"}, "strict": True}
NAMED = {"type": "function", "function": {"name": "f"}}
CALL = {"id": "call_1", "type": "function", "index": 0, "function": {"name": "f", "arguments": "{}"}}
ANSWERED: dict[str, dict[str, Any]] = {
    "openai (Python)": {
        "store": True,
        "metadata": {"run": 1},
        "service_tier": "flex",
        "verbosity": "low",
        "prompt_cache_key": "a",
        "prompt_cache_retention": "24h",
        "safety_identifier": "a",
        "web_search_options": {},
        "prediction": {"type": "content", "content": "x"},
        "reasoning_effort": "low",
        "modalities": ["text"],
    },
    "openai (Node), runTools": {"tools": [TOOL], "tool_choice": "auto", "parallel_tool_calls": True, "stream": False},
    "langchain": {"tools": [TOOL], "stream": False, "n": 1, "logprobs": None, "max_completion_tokens": 4},
    "langchain, history": {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "hi<eos>", "cache_control": {"type": "ephemeral"}}]},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [CALL],
                "refusal": None,
                "annotations": [],
                "audio": None,
            },
            {"role": "tool", "content": "4", "tool_call_id": "call_1", "name": "f"},
        ]
    },
    "litellm": {"user": "me", "tools": [TOOL], "tool_choice": None, "stop": "", "max_tokens": 4, "extra_headers": None},
    "open-webui": {
        "stream": False,
        "max_tokens": 4096,
        "messages": [{"role": "user", "content": "hi<eos>", "id": "7", "timestamp": 1}],
    },
    "lm-eval": {
        "messages": [{"role": "user", "content": "hi<eos>", "type": "text"}],
        "max_tokens": 4,
        "stop": [],
        "seed": 1,
    },
    "lmdeploy": {
        "top_logprobs": 0,
        "logprobs": False,
        "session_id": -1,
        "response_format": None,
        "min_new_tokens": None,
    },
    "llama.cpp": {"max_tokens": -1, "cache_prompt": True, "samplers": [], "grammar": "", "mirostat": 0},
    "pydantic-ai, its default": {"tools": [{**TOOL, "function": FINAL}], "tool_choice": "required", "stream": False},
    "pydantic-ai, native": {"response_format": {"type": "json_schema", "json_schema": {**FORMAT, "description": "P"}}},
    "langchain, with_structured_output": {"tools": [TOOL], "tool_choice": NAMED, "parallel_tool_calls": False},
    "instructor, strict": {"tools": [TOOL], "tool_choice": NAMED},
    "instructor, JSON": {"response_format": {"type": "json_object"}},
    "llama-index": {"tools": [TOOL], "tool_choice": "auto", "parallel_tool_calls": False, "temperature": 0.1},
    "a call that is forced, and a format for texts": {
        "tools": [TOOL],
        "tool_choice": NAMED,
        "response_format": {"type": "json_schema", "json_schema": FORMAT},
    },
    "litellm, thinking": {"reasoning_effort": "low"},
    "open-webui, a title": {"stream": False, "max_completion_tokens": 1000, "n": 1},
    "max_tokens under both names": {"max_tokens": 3, "max_completion_tokens": 4},
    "llama.cpp and Together, a schema": {"response_format": {"type": "json_object", "schema": OBJECT}},
    "llama.cpp, a schema": {"response_format": {"type": "json_schema", "schema": OBJECT}},
    "Vercel's AI SDK": {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi<eos>"}]}],
        "tools": [{"type": "function", "function": {**FINAL, "parameters": {**OBJECT, "$schema": "a"}}}],
        "tool_choice": "auto",
        "response_format": {"type": "json_schema", "json_schema": {**FORMAT, "description": None}},
        "frequency_penalty": None,
    },
    "Mistral's clients": {"tools": [TOOL], "tool_choice": "any"},
    "Qwen's clients": {"enable_thinking": False},
    "a refusal in the history": {
        "messages": [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
            {"role": "user", "content": "hi<eos>"},
        ]
    },
    "Roo": {
        "messages": [{"role": "assistant", "content": ""}, {"role": "user", "content": "hi<eos>"}],
        "temperature": 0,
    },
    "n8n": {"max_tokens": -1, "response_format": {"type": "text"}, "presence_penalty": 0, "n": 1},
    "a developer's message": {
        "messages": [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "hi<eos>"}]
    },
}
REFUSED: dict[str, dict[str, Any]] = {
    "functions": {"functions": [{"name": "f"}]},
    "modalities": {"modalities": ["text", "audio"]},
    "messages": {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
    "tools": {"tools": [{"type": "web_search"}]},
    "thinking_token_budget": {"thinking_token_budget": 5},
    "max_output_tokens": {"max_output_tokens": 5},
}

CODEX: dict[str, Any] = {
    "instructions": "You are Codex.",
    "input": [
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "sandbox"}]},
        {"type": "message", "id": "msg_1", "role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": None, "encrypted_content": "a"},
        {"type": "function_call", "name": "shell", "arguments": '{"command": ["ls"]}', "call_id": "c1"},
        {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "a<eos>"}]},
    ],
    "tools": [
        {"type": "function", "name": "shell", "description": "", "strict": False, "parameters": OBJECT},
        {
            "type": "namespace",
            "name": "multi_agent_v1",
            "description": "Tools for sub-agents.",
            "tools": [{"type": "function", "name": "close_agent", "strict": False, "parameters": OBJECT}],
        },
        {"type": "web_search", "external_web_access": False},
    ],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "reasoning": {"effort": "medium", "summary": "auto"},
    "store": False,
    "stream": True,
    "include": ["reasoning.encrypted_content"],
    "prompt_cache_key": "a",
    "text": {"verbosity": "medium"},
    "client_metadata": {"a": "b"},
}
_ASKED: list[Any] = [
    {"role": "user", "content": [{"type": "text", "text": "hi<eos>", "cache_control": {"type": "ephemeral"}}]}
]
CLAUDE_CODE: list[dict[str, Any]] = [
    {
        "messages": [*_ASKED, {"role": "system", "content": "Available agents<eos>"}],
        "system": [
            {"type": "text", "text": "You are Claude Code.", "cache_control": {"type": "ephemeral", "ttl": "1h"}}
        ],
        "tools": [
            {
                "name": "Bash",
                "description": "",
                "input_schema": {**OBJECT, "$schema": "a"},
                "eager_input_streaming": True,
            }
        ],
        "metadata": {"user_id": "a"},
        "thinking": {"type": "adaptive"},
        "output_config": {"effort": "medium"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "stream": True,
    },
    {
        "messages": [
            {"role": "user", "content": "hi"},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "a"},
                    {"type": "redacted_thinking", "data": "a"},
                    {"type": "tool_use", "id": "t1", "name": "Bash", "input": {"a": 1}},
                ],
            },
            {
                "role": "user",
                "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "a<eos>", "is_error": True}],
            },
        ],
        "stop_sequences": [],
        "mcp_servers": [],
        "container": None,
    },
    {"messages": _ASKED, "output_config": {"format": {"type": "json_schema", "schema": OBJECT}}},
]


def test_bodies_of_clients(server: ServerProcess) -> None:
    chat = {"messages": [{"role": "user", "content": "hi<eos>"}], "max_tokens": 4}
    wrong = {}
    for name, fields in ANSWERED.items():
        answer = server.post("/v1/chat/completions", {**chat, **fields})
        if answer.status_code != 200:
            wrong[name] = answer.text
    assert wrong == {}
    for name, fields in REFUSED.items():
        error = refused(server.post("/v1/chat/completions", {**chat, **fields}))
        assert error["param"] == name and len(error["message"]) > 30
    load = {"prompt": "abc", "max_completion_tokens": 4, "ignore_eos": True, "best_of": 1, "use_beam_search": False}
    assert server.post("/v1/completions", {**COMPLETION, **load}).json()["usage"]["completion_tokens"] == 4
    assert "suffix" in refused(server.post("/v1/completions", {**COMPLETION, "suffix": "x"}))["message"]


def test_bodies_of_clients_of_other_apis(server: ServerProcess) -> None:
    tool = {"type": "function", "name": "f", "description": "", "parameters": OBJECT, "strict": True}
    text = {"format": {"type": "json_schema", **FORMAT}}
    asked = {"input": [{"role": "user", "content": "hi<eos>", "type": "message"}], "max_output_tokens": 4}
    for fields in (
        {"tools": [tool], "stream": False},
        {"text": text, "tool_choice": tool, "tools": [tool]},
        CODEX,
        {"top_logprobs": 0, "background": False, "truncation": "disabled", "prompt": None},
        {"ignore_eos": True, "stream": True},  # guidellm
    ):
        answer = server.post("/v1/responses", {**asked, **fields})
        assert answer.status_code == 200, (fields, answer.text)
    for fields in CLAUDE_CODE:
        answer = server.post("/v1/messages?beta=true", {"model": "toy", "max_tokens": 4, **fields})
        assert answer.status_code == 200, (fields, answer.text)
    # litellm and Go programs leave out the Content-Type
    body = {"model": "toy", "messages": [{"role": "user", "content": "hi<eos>", "images": []}], "stream": False}
    answer = server.http.post("/api/chat", content=json.dumps({**body, "options": {"num_predict": 4}}))
    assert (answer.status_code, "content-type" in answer.request.headers) == (200, False)
    nothing = {"suffix": "", "system": "", "template": "", "context": [], "images": [], "raw": False, "logprobs": False}
    answer = server.post(
        "/api/generate", {"prompt": "hi<eos>", "format": "", "think": None, "stream": False, **nothing}
    )
    assert answer.status_code == 200, answer.text
    answer = server.http.post("/v1/chat/completions", content=json.dumps(body))
    assert answer.status_code == 415  # a page of another origin could send it


def test_what_open_webui_asks(server: ServerProcess) -> None:
    """Of a connection to OpenAI's API, then of one to Ollama's."""
    headers = {"Authorization": "Bearer x", "Content-Type": "application/json", "X-OpenWebUI-User-Name": "Ann"}
    assert server.http.get("/v1/models", headers=headers).json()["data"][0]["id"] == "toy"
    body = {"model": "toy", "messages": [{"role": "user", "content": "hi<eos>"}], "max_tokens": 4}
    options = {"stream": True, "stream_options": {"include_usage": True}, "function_calling": None}
    lines = server.post("/v1/chat/completions", {**body, **options}).text.split()
    assert lines[-1] == "[DONE]"
    assert server.http.get("/api/version").json()["version"]
    for path in ("/api/tags", "/api/ps"):
        (model,) = server.http.get(path).json()["models"]
        assert model["model"] == model["name"] == "toy"
    chat = {"model": "toy:latest", "messages": body["messages"], "options": {"num_predict": 4}, "keep_alive": "5m"}
    assert json.loads(server.post("/api/chat", chat).text.splitlines()[-1])["done"]
