"""`/v1/messages` as Anthropic's official client sees it. The echo server answers with the last message."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import httpx
import pytest
from support.servers import ServerProcess

CALL = '<tool_call>{"name": "f", "arguments": {"x": 1}}</tool_call>'
TOOLS: Any = [{"name": "f", "description": "Looks", "input_schema": {"type": "object", "properties": {}}}]


@pytest.fixture
def claude(echo: ServerProcess) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=echo.url, api_key="none", max_retries=0, timeout=10)


def ask(claude: anthropic.Anthropic, text: str, **fields: Any) -> anthropic.types.Message:
    """The message, which must be the same streamed and not."""
    arguments: Any = {"model": "toy", "max_tokens": 500, "messages": [{"role": "user", "content": text}], **fields}
    whole = claude.messages.create(**arguments)
    pieces = 0
    with claude.messages.stream(**arguments) as stream:
        for event in stream:
            pieces += event.type == "content_block_delta" and event.delta.type == "input_json_delta"
        streamed = stream.get_final_message()
    assert pieces > 1 or not any(block.type == "tool_use" for block in whole.content), "a call comes at once"
    drop = {"id": True, "usage": {"input_tokens", "cache_read_input_tokens"}, "content": {"__all__": {"id"}}}
    assert streamed.model_dump(exclude=drop) == whole.model_dump(exclude=drop)
    return whole


def test_a_message(claude: anthropic.Anthropic) -> None:
    answer = ask(
        claude, "hello", system="Be brief.", metadata={"user_id": "7"}, extra_body={"temperature": 0, "top_k": 4}
    )
    assert (answer.type, answer.role, answer.model, answer.id[:4]) == ("message", "assistant", "toy", "msg_")
    assert [(block.type, block.text) for block in answer.content if block.type == "text"] == [("text", "hello")]
    assert (answer.stop_reason, answer.stop_sequence, answer.usage.output_tokens) == ("end_turn", None, 6)
    answer = ask(claude, "hello", stop_sequences=["l"])
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", "l")
    answer = ask(claude, "hello", max_tokens=2)
    assert answer.stop_reason == "max_tokens"


def test_tools_and_thinking(claude: anthropic.Anthropic) -> None:
    answer = ask(claude, f"<think>hm</think>Let me see. {CALL}", tools=TOOLS, tool_choice={"type": "auto"})
    thinking, text, call = answer.content
    assert thinking.type == "thinking" and thinking.thinking == "hm"
    assert text.type == "text" and text.text == "Let me see."
    assert call.type == "tool_use" and (call.name, call.input) == ("f", {"x": 1})
    assert answer.stop_reason == "tool_use"
    cut: Any = {"model": "toy", "max_tokens": 45, "messages": [{"role": "user", "content": CALL}], "tools": TOOLS}
    (call,) = claude.messages.create(**cut).content
    assert call.type == "tool_use" and call.input == {"INVALID_JSON": '{"x": 1'}
    result: Any = {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "seen"}]}
    history: Any = [
        {"role": "user", "content": "look"},
        {"role": "assistant", "content": answer.content},
        {"role": "user", "content": [result, {"type": "text", "text": "and?"}]},
    ]
    again = claude.messages.create(model="toy", max_tokens=50, messages=history, tools=TOOLS)
    assert [block.text for block in again.content if block.type == "text"] == ["and?"]
    # the prompt: the answer, <eos> as one token, the roles
    counted = claude.messages.count_tokens(model="toy", messages=history)
    assert counted.input_tokens == len("and?") + 1 + len("userassistanttooluser")


def test_the_instructions_of_claude_code(claude: anthropic.Anthropic) -> None:
    """Some come after the user's message; a line for Anthropic's accounts is not among them."""
    accounts = "x-anthropic-billing-header: cc_version=2.1.197.1c0;"
    system: Any = [{"type": "text", "text": accounts}, {"type": "text", "text": "Be brief."}]
    messages: Any = [{"role": "user", "content": "hi"}, {"role": "system", "content": "Agents"}]
    asked: Any = {"model": "toy", "messages": messages, "system": system}
    (text,) = claude.messages.create(max_tokens=50, **asked).content
    said = "hi\n\nAgents"  # the template writes the last message alone, so they become its text
    assert text.type == "text" and text.text == said
    assert claude.messages.count_tokens(**asked).input_tokens == len(said) + 1 + len("systemuser")
    asked["system"] = system[:1]
    assert claude.messages.count_tokens(**asked).input_tokens == len(said) + 1 + len("user")


def test_thinking_has_a_budget(claude: anthropic.Anthropic) -> None:
    budget = {"type": "enabled", "budget_tokens": 2}
    thinking, text = ask(claude, "<think>abcd</think>yes", thinking=budget).content
    assert thinking.type == "thinking" and thinking.thinking == "ab"
    assert text.type == "text" and text.text == "d</think>yes"


def test_errors_have_the_clients_form(claude: anthropic.Anthropic, echo: ServerProcess) -> None:
    image = [{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aa"}}]
    chat: dict[str, Any] = {"max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}
    for fields, words in (
        ({"max_tokens": None}, "max_tokens is required"),
        ({"max_tokens": 0}, "max_tokens must be at least 1"),
        ({"messages": []}, "messages is an empty list"),
        ({"messages": [{"role": "king", "content": "hi"}]}, "messages[0].role must be"),
        ({"messages": [{"role": "user", "content": image}]}, "messages[0].content[0]: only text is supported"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "below max_tokens, got 1024"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens is required"),
        ({"thinking_token_budget": 1}, "thinking_token_budget is not supported"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "only custom ones are supported"),
        ({"tool_choice": {"type": "any"}}, "there are no tools"),
        ({"messages": [{"role": "user", "content": "x" * 5000}]}, "prompt is too long: This model's maximum context"),
        ({"mcp_servers": [{}]}, "mcp_servers is not supported"),
    ):
        answer = echo.post("/v1/messages", {**chat, **fields})
        body = answer.json()
        assert (answer.status_code, body["type"], body["error"]["type"]) == (400, "error", "invalid_request_error")
        assert words in body["error"]["message"]
    empty = {**chat, "messages": [{"role": "user", "content": []}]}
    assert echo.post("/v1/messages", empty).json()["stop_reason"] == "end_turn"
    with pytest.raises(anthropic.NotFoundError, match="is not served here"):
        claude.messages.create(model="claude", **chat)
    with pytest.raises(anthropic.BadRequestError, match="not valid JSON"):
        claude.post("/v1/messages", cast_to=httpx.Response, content=b"{")
    events = echo.post("/v1/messages", {**chat, "stream": True}).text.split("\n\n")
    assert events[0].startswith("event: message_start\ndata: {") and events[-2].startswith("event: message_stop\n")
    assert json.loads(events[-3].partition("data: ")[2])["delta"]["stop_reason"] == "end_turn"
