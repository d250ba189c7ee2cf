"""Ollama's API as its official client sees it. The echo server answers with the last message."""

from __future__ import annotations

from typing import Any

import ollama
import pytest
from support.servers import ServerProcess

CALL = '<tool_call>{"name": "f", "arguments": {"x": 1}}</tool_call>'
TOOLS: Any = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
OPTIONS = {"temperature": 0, "num_ctx": 4096, "num_predict": -1, "repeat_penalty": 1.0, "stop": [], "mirostat": 0}


@pytest.fixture
def client(echo: ServerProcess) -> ollama.Client:
    return ollama.Client(host=echo.url)


def test_chat_is_the_same_in_lines_and_whole(client: ollama.Client) -> None:
    for text, tools, thinking, content, calls in (
        ("hello", None, None, "hello", []),
        (f"<think>hm</think>See. {CALL}", TOOLS, "hm", "See.", [("f", {"x": 1})]),
    ):
        arguments: Any = {"model": "toy:latest", "messages": [{"role": "user", "content": text}], "tools": tools}
        whole = client.chat(**arguments, options=OPTIONS, keep_alive="5m")
        lines = list(client.chat(**arguments, options=OPTIONS, stream=True))
        assert (whole.message.thinking, whole.message.content) == (thinking, content)
        found = [(call.function.name, call.function.arguments) for call in whole.message.tool_calls or []]
        assert (found, whole.done, whole.done_reason, whole.model) == (calls, True, "stop", "toy")
        assert whole.eval_count and whole.prompt_eval_count and whole.total_duration
        assert "".join(line.message.content or "" for line in lines) == content
        assert "".join(line.message.thinking or "" for line in lines) == (thinking or "")
        assert [line.done for line in lines] == [False] * (len(lines) - 1) + [True]
        assert lines[-1].eval_count == whole.eval_count


def test_generate_and_what_clients_ask_of_a_model(client: ollama.Client) -> None:
    assert client.generate("toy", "hello", system="Be brief.").response == "hello"
    pieces = list(client.generate("toy", "hello", stream=True, options={"num_predict": 2}))
    assert ("".join(piece.response for piece in pieces), pieces[-1].done_reason) == ("he", "length")
    assert client.generate("toy").done_reason == "load"
    assert [model.model for model in client.list().models] == ["toy"]
    assert client.show("toy").capabilities == ["completion", "tools", "thinking"]


def test_errors_have_the_clients_form(client: ollama.Client, echo: ServerProcess) -> None:
    with pytest.raises(ollama.ResponseError, match="is not served here") as caught:
        client.generate("llama", "hi")
    assert caught.value.status_code == 404
    for fields, words in (
        ({"options": {"mirostat": 1}}, "options.mirostat is not supported"),
        ({"options": {"unheard_of": 1}}, "options.unheard_of is not an option"),
        ({"options": {"temperature": "hot"}}, "options.temperature must be a number"),
        ({"format": "xml"}, 'format must be "json" or a JSON Schema'),
        ({"messages": [{"role": "user", "content": "hi", "images": ["aa"]}]}, "only text is supported"),
    ):
        answer = echo.post("/api/chat", {"messages": [{"role": "user", "content": "hi"}], **fields})
        assert (answer.status_code, list(answer.json())) == (400, ["error"])
        assert words in answer.json()["error"]
