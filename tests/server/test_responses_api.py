"""`/v1/responses` as the official client sees it. The echo server answers with the last message."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from msgspec import convert
from support.servers import ServerProcess, refused

from flover.config import Limits
from flover.server.openai_responses.translate import InputItem, ResponsesBody, to_chat

CALL = '<tool_call>{"name": "f", "arguments": {"x": 1}}</tool_call>'
TOOLS: Any = [{"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True}]


def ask(echo: ServerProcess, text: str, **fields: Any) -> Any:
    """The response, which must be the same streamed and not."""
    client = echo.client()
    arguments: dict[str, Any] = {"model": "toy", "input": text, **fields}
    whole = client.responses.create(**arguments)
    with client.responses.stream(**arguments) as stream:
        events = list(stream)
    streamed = events[-1].response  # type: ignore[union-attr]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[-1].type == f"response.{whole.status}"
    assert plain(streamed) == plain(whole)
    return whole


def plain(response: Any) -> Any:
    items = [{k: v for k, v in item.to_dict().items() if k not in ("id", "call_id")} for item in response.output]
    for item in items:
        item.pop("parsed_arguments", None)
        for part in item.get("content") or []:
            part.pop("parsed", None)
    return response.status, items, response.usage.output_tokens, response.output_text


def test_a_response(echo: ServerProcess) -> None:
    answer = ask(echo, "hello", instructions="Be brief.", store=True, metadata={"a": "b"}, truncation="disabled")
    assert (answer.object, answer.status, answer.output_text, answer.model) == ("response", "completed", "hello", "toy")
    assert answer.usage.output_tokens == 6
    answer = ask(echo, "hello", max_output_tokens=2)
    assert (answer.status, answer.output_text) == ("incomplete", "he")
    assert answer.incomplete_details.reason == "max_output_tokens"


def test_calls_and_reasoning(echo: ServerProcess) -> None:
    answer = ask(echo, f"<think>hm</think>Let me see. {CALL}", tools=TOOLS, tool_choice="auto")
    thought, message, call = answer.output
    assert (thought.type, thought.content[0].text) == ("reasoning", "hm")
    assert (message.type, message.content[0].text) == ("message", "Let me see.")
    assert (call.type, call.name, call.arguments) == ("function_call", "f", '{"x": 1}')
    assert answer.usage.output_tokens_details.reasoning_tokens == 2
    history: Any = [
        {"role": "user", "content": [{"type": "input_text", "text": "look"}]},
        *[item.to_dict() for item in answer.output],
        {"type": "function_call_output", "call_id": call.call_id, "output": "seen"},
    ]
    show = echo.client().responses.create(model="toy", input=history, tools=TOOLS)
    assert show.output_text == "seen"


def test_the_tools_of_codex(echo: ServerProcess) -> None:
    """Those of a namespace are called under their own names; those that OpenAI's servers run are left out."""
    member = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": False}
    space = {"type": "namespace", "name": "mcp__den", "description": "Dens", "tools": [member]}
    tools: Any = [*TOOLS, space, {"type": "web_search", "external_web_access": False}]
    flat = CALL.replace('"f"', '"mcp__den__f"')
    own, call = ask(echo, CALL + flat, tools=tools).output
    assert (own.name, own.namespace, call.name, call.namespace) == ("f", None, "f", "mcp__den")
    assert call.arguments == '{"x": 1}'
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "seen"}
    history: Any = [{"role": "user", "content": "look"}, call.to_dict(), result]
    shown = echo.client().responses.create(model="toy", input=history, tools=tools)
    assert shown.output_text == "seen" and [tool.type for tool in shown.tools] == ["function", "namespace"]
    (message,) = to_chat(ResponsesBody(input=[convert(call.to_dict(), InputItem)], tools=tools), Limits()).messages
    assert message.tool_calls is not None and b'"mcp__den__f"' in bytes(message.tool_calls)
    written = echo.post("/v1/responses", {"input": f"{flat[:-12]}<eos>", "tools": tools, "stream": True}).text
    assert '"response.function_call_arguments.done"' in written and "mcp__den__f" not in written
    for wrong in ({"type": "namespace", "tools": []}, {**space, "tools": [{"type": "custom"}]}):
        assert "namespace" in refused(echo.post("/v1/responses", {"input": "hi", "tools": [wrong]}))["message"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": "x" * 5000}, "input"),
        ({"input": "x" * 5000, "stream": True}, "input"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"truncation": "auto"}, "truncation"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"tools": [{"type": [], "name": "f"}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"text": {"format": {"type": "xml"}}}, "text"),
        ({"include": ["message.output_text.logprobs"]}, "include"),
        ({"unheard_of": 1}, "unheard_of"),
    ],
)
def test_what_is_not_supported_is_named(echo: ServerProcess, fields: dict[str, Any], param: str) -> None:
    assert refused(echo.post("/v1/responses", {"input": "hi", **fields}))["param"] == param


def test_a_missing_model(echo: ServerProcess) -> None:
    with pytest.raises(openai.NotFoundError):
        echo.client().responses.create(model="gpt", input="hi")
