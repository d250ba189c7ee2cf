"""Tool calls and reasoning in chat completions. The toy model repeats the prompt up to `<eos>`: a test sends the answer
that it wants as the last message."""

from __future__ import annotations

import json
from typing import Any

import openai
from support.servers import ServerProcess, refused

SCHEMA = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
TOOLS: Any = [
    {"type": "function", "function": {"name": "f", "description": "Looks", "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "g"}},
]
CALL = '<tool_call>{"name": "f", "arguments": {"x": 1}}</tool_call>'
HIDDEN = {"include_reasoning": False}
SECOND = '<tool_call>{"name": "g", "arguments": {}}</tool_call>'


def ask(echo: ServerProcess, text: str, **fields: Any) -> tuple[Any, Any]:
    """Message and finish reason, which must be the same streamed and not."""
    client = echo.client()
    arguments: dict[str, Any] = {"model": "toy", "messages": [{"role": "user", "content": text}], **fields}
    (choice,) = client.chat.completions.create(**arguments).choices
    message = choice.message
    content, reasoning, calls, reasons = "", "", [], []
    for chunk in client.chat.completions.create(stream=True, **arguments):
        (one,) = chunk.choices
        content += one.delta.content or ""
        reasoning += getattr(one.delta, "reasoning_content", None) or ""
        for call in one.delta.tool_calls or []:
            if call.id is not None:  # a call begins: the index, the id and the name come once
                assert call.index == len(calls) and call.type == "function" and call.function.arguments == ""
                calls.append([call.function.name])
            else:
                assert call.index == len(calls) - 1 and call.function.name is None
                calls[-1].append(call.function.arguments)
        reasons.append(one.finish_reason)
    assert all(len(pieces) > 2 for pieces in calls), "the arguments come at once"
    whole = [[call.function.name, call.function.arguments] for call in message.tool_calls or []]
    assert (content, reasoning, [[name, "".join(pieces)] for name, *pieces in calls]) == (
        message.content or "",
        getattr(message, "reasoning", ""),
        whole,
    )
    assert reasons[:-1] == [None] * (len(reasons) - 1) and reasons[-1] == choice.finish_reason
    return message, choice.finish_reason


def called(message: Any) -> list[Any]:
    return [(call.function.name, call.function.arguments) for call in message.tool_calls or []]


def test_calls_reasoning_and_content(echo: ServerProcess) -> None:
    message, reason = ask(echo, f"<think>\nhm\n</think>\n\nLet me see.\n{CALL}\n{SECOND}", tools=TOOLS)
    assert (message.content, message.reasoning, reason) == ("Let me see.", "hm", "tool_calls")
    assert called(message) == [("f", '{"x": 1}'), ("g", "{}")]
    assert all(call.type == "function" and len(call.id) == 9 for call in message.tool_calls)
    assert len({call.id for call in message.tool_calls}) == 2
    message, _ = ask(echo, CALL + SECOND, tools=TOOLS, parallel_tool_calls=False)
    assert (message.content, called(message)) == (None, [("f", '{"x": 1}')])
    message, reason = ask(echo, "no call", tools=TOOLS, tool_choice="auto")
    assert (message.content, message.tool_calls, reason) == ("no call", None, "stop")
    message, reason = ask(echo, CALL, tools=TOOLS, max_tokens=20)
    assert (message.content, message.tool_calls, reason) == (CALL[:20], None, "length")
    message, reason = ask(echo, CALL, tools=TOOLS, max_tokens=45)
    assert (message.content, called(message), reason) == (None, [("f", '{"x": 1')], "length")


def test_tokens_of_reasoning_are_told(echo: ServerProcess) -> None:
    client = echo.client()
    for text, more, tokens in [
        ("<think>hm</think>yes", {}, 2),
        ("<think>hm</think>yes", HIDDEN | {"n": 2}, 4),
        ("yes", {}, None),
    ]:
        asked: dict[str, Any] = {"model": "toy", "messages": [{"role": "user", "content": text}], "extra_body": more}
        whole = client.chat.completions.create(**asked).usage
        *_, last = client.chat.completions.create(stream=True, stream_options={"include_usage": True}, **asked)
        assert last.usage == whole and whole is not None
        details = whole.completion_tokens_details
        assert (details and details.reasoning_tokens) == tokens


def test_what_asks_for_no_call_or_no_reasoning(echo: ServerProcess) -> None:
    text = f"<think>hm</think>{CALL}"
    for fields in ({"tools": TOOLS, "tool_choice": "none"}, {}):
        message, reason = ask(echo, text, **fields)
        assert (message.content, message.reasoning, message.tool_calls, reason) == (CALL, "hm", None, "stop")
    message, _ = ask(echo, text, extra_body={"include_reasoning": False})
    assert (message.content, getattr(message, "reasoning", None)) == (CALL, None)
    message, _ = ask(echo, text, extra_body={"separate_reasoning": False})
    assert message.content == text
    message, _ = ask(echo, "hm</think> yes", extra_body={"chat_template_kwargs": {"open": True}})
    assert (message.content, message.reasoning) == ("yes", "hm")


def test_a_budget_of_reasoning_ends_it(echo: ServerProcess) -> None:
    text = "<think>abcdef</think> yes"
    for budget, content, reasoning in (
        (3, "ef</think> yes", "abc"),
        (0, "bcdef</think> yes", None),
        (6, "yes", "abcdef"),
        (99, "yes", "abcdef"),
        (-1, "yes", "abcdef"),
    ):
        message, _ = ask(echo, text, extra_body={"thinking_token_budget": budget})
        assert (message.content, getattr(message, "reasoning", None)) == (content, reasoning), budget
    options = {"thinking_token_budget": 4, "chat_template_kwargs": {"open": True}}
    message, _ = ask(echo, f"abcdef</think>{CALL}", tools=TOOLS, extra_body=options)
    assert (message.reasoning, called(message)) == ("abcd", [("f", '{"x": 1}')])
    options = {"thinking_token_budget": 3, "include_reasoning": False}
    assert ask(echo, text, extra_body=options)[0].content == "ef</think> yes"


def test_a_budget_that_cannot_be_kept_is_refused(echo: ServerProcess, server: ServerProcess) -> None:
    chat = {"messages": [{"role": "user", "content": "hi"}]}
    for place, fields, words in (
        (server, {"thinking_token_budget": 5}, "no markers around reasoning"),
        (server, {"thinking_token_budget": -2}, "-1 for no budget, got -2"),
        (echo, {"thinking_token_budget": 5, "allowed_token_ids": [1]}, "exclude each other"),
        (echo, {"thinking_budget": 5}, "did you mean thinking_token_budget?"),
    ):
        error = refused(place.post("/v1/chat/completions", {**chat, **fields}))
        assert error["param"] in fields and words in error["message"], fields
    error = refused(echo.post("/v1/completions", {"prompt": "hi", "thinking_token_budget": 5}))
    assert error["param"] == "thinking_token_budget"


def test_calls_and_results_reach_the_template_as_objects(echo: ServerProcess) -> None:
    message, _ = ask(echo, CALL, tools=TOOLS)
    history = [
        {"role": "user", "content": "look"},
        message,
        {"role": "tool", "content": "seen", "tool_call_id": message.tool_calls[0].id},
    ]
    answer = echo.client().chat.completions.create(
        model="toy", messages=history, tools=TOOLS, extra_body={"chat_template_kwargs": {"show": True}}
    )
    assert answer.choices[0].message.content == "1seen"


def allowed(*names: str, mode: str = "auto") -> dict[str, Any]:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}}


def test_a_choice_that_cannot_be_followed_is_refused(echo: ServerProcess) -> None:
    chat = {"messages": [{"role": "user", "content": "hi"}], "tools": TOOLS}
    for fields, param, words in (
        (
            {"tool_choice": {"type": "function", "function": {"name": "h"}}},
            "tool_choice",
            '"h" is not one of the tools',
        ),
        ({"tool_choice": "required", "structured_outputs": {"regex": "a"}}, "tool_choice", "send one of them"),
        (allowed("f", "h"), "tool_choice", '"h" is not one of the tools'),
        (allowed(), "tool_choice", "allowed_tools.tools must name at least one tool"),
        (allowed("f", mode="none"), "tool_choice", "allowed_tools.mode must be auto or required"),
        ({**allowed("f"), "tools": None}, "tool_choice", "there are no tools"),
        ({**allowed("f"), "thinking_token_budget": 5}, "thinking_token_budget", "send one of them"),
        ({"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "mcp"}]}}, "tool_choice", "mcp"),
    ):
        error = refused(echo.post("/v1/chat/completions", {**chat, **fields}))
        assert error["param"] == param and words in error["message"]


def test_a_template_without_tools_gets_them_in_the_system_message(client: openai.OpenAI) -> None:
    """The shared server's template writes the first letter of each role."""
    messages: Any = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "look"},
        {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": '{"x": 1}'}}]},
        {"role": "tool", "content": "seen", "tool_call_id": "1"},
        {"role": "user", "content": "and?"},
    ]
    answer = client.chat.completions.create(model="toy", messages=messages, tools=TOOLS, max_tokens=1000)
    prompt = answer.choices[0].message.content or ""
    assert prompt.startswith("s:Be brief.\n\nGiven the following functions")
    assert json.dumps(TOOLS[0]) in prompt
    call = 'a:{"name": "f", "parameters": {"x": 1}}\n'
    assert f"\nu:look\n{call}u:Result of the function: seen\nu:and?\na:" in prompt
