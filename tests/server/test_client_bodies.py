"""Bodies as clients send them by default: each is answered, or refused with the field's name and a reason."""

from __future__ import annotations

from typing import Any

from support.servers import COMPLETION, ServerProcess, refused

TOOL = {"type": "function", "function": {"name": "f", "description": "", "parameters": {}, "strict": True}}
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
    "max_tokens under both names": {"max_tokens": 3, "max_completion_tokens": 4},
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
