"""The body of `/v1/responses`, and the conversation that it asks about. All raise `RequestError` for what is not
supported."""

from __future__ import annotations

from itertools import groupby
from typing import Any, Literal

import msgspec
from msgspec import Raw

from flover.config import Limits, flag_name
from flover.errors import RequestError, named, too_many
from flover.server.openai_responses.tools import as_functions, flat_name, split_tools
from flover.server.protocol import ChatBody, Effort, Message, SamplingBody, TextPart
from flover.server.read_structured import read_format
from flover.server.read_tools import check_tools, read_tool_choice, read_tools
from flover.server.read_values import as_raw, refuse

Role = Literal["system", "developer", "user", "assistant"]
_TEXT_PARTS = ("input_text", "output_text", "text", "refusal", "reasoning_text", "summary_text")


class InputPart(msgspec.Struct, kw_only=True):
    """A part of an item's content."""

    type: str
    text: str | None = None
    refusal: str | None = None


class InputItem(msgspec.Struct, kw_only=True):
    """A message, a function call, its output, or reasoning; `type` says which."""

    type: str = "message"
    role: Role | None = None
    content: str | list[InputPart] | None = None
    call_id: str | None = None
    name: str | None = None
    namespace: str | None = None
    arguments: str | None = None
    output: str | list[InputPart] | None = None


class TextOptions(msgspec.Struct, kw_only=True):
    """What the text must be."""

    format: dict[str, Any] | None = None
    verbosity: str | None = None


class ReasoningOptions(msgspec.Struct, kw_only=True):
    """How much reasoning is asked for; summaries are not made."""

    effort: Effort | None = None
    summary: str | None = None
    generate_summary: str | None = None


class MoreSamplingBody(SamplingBody, kw_only=True):
    """Sampling fields that OpenAI's API does not have here, and vLLM's has."""

    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    ignore_eos: bool | None = None


class ResponsesBody(MoreSamplingBody, kw_only=True):
    """`POST /v1/responses`."""

    input: str | list[InputItem]
    model: str | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    stream: bool | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    truncation: Literal["auto", "disabled"] | None = None
    background: bool | None = None
    include: tuple[str, ...] | None = None
    max_tool_calls: int | None = None
    metadata: dict[str, Any] | None = None
    stream_options: dict[str, Any] | None = None


def to_chat(body: ResponsesBody, limits: Limits) -> ChatBody:
    """The conversation of a body."""
    if body.background:
        refuse("background", "background is not supported: responses are not stored")
    if body.truncation == "auto":
        refuse("truncation", "truncation auto is not supported: send disabled, or fewer items")
    if "message.output_text.logprobs" in (body.include or ()):
        refuse("include", "include: log-probabilities are not supported here, only in chat completions")
    messages = [] if body.instructions is None else [Message(role="system", content=body.instructions)]
    items = [InputItem(role="user", content=body.input)] if isinstance(body.input, str) else body.input
    if not items:
        refuse("input", "input is an empty list: at least one item is needed")
    if len(items) > limits.max_messages:
        raise too_many("input", limits.max_messages, "items", flag=flag_name("max_messages"))
    for is_call, group in groupby(enumerate(items), lambda numbered: numbered[1].type == "function_call"):
        if is_call:  # written once for all: a conversation may have many
            _of_assistant(messages).tool_calls = as_raw([_call(item) for _, item in group])
        else:
            messages += [_message(item, f"input[{number}]") for number, item in group]
    chat = ChatBody(
        model=body.model,
        messages=messages,
        max_tokens=body.max_output_tokens,
        stream=body.stream,
        tools=_tools(body.tools),
        parallel_tool_calls=body.parallel_tool_calls,
        reasoning_effort=None if body.reasoning is None else body.reasoning.effort,
        **{name: getattr(body, name) for name in MoreSamplingBody.__struct_fields__},
    )
    if body.tool_choice is not None:
        chat.tool_choice = read_tool_choice(as_raw(body.tool_choice))
    if body.text is not None and body.text.format is not None:
        chat.response_format = read_format(as_raw(_format(body.text.format)), "text")
    check_tools(chat)
    return chat


def _message(item: InputItem, where: str) -> Message:
    """An item that is a message of the conversation, or its beginning."""
    match item.type:
        case "message":
            if item.role is None:
                refuse("input", f"{where}.role is required")
            if item.content is None:
                refuse("input", f"{where}.content is required")
            return Message(role=item.role, content=_content(item.content, where))
        case "function_call_output":
            content = _content(item.output, where)
            return Message(role="tool", content=content, tool_call_id=item.call_id, name=item.name)
        case "reasoning":
            text = "".join(part.text for part in _parts(item.content or [], where))
            return Message(role="assistant", content="", reasoning_content=text or None)
        case "item_reference":
            refuse(
                "input",
                f"{where} refers to a stored item, and none are: send the item itself (clients do with store: false)",
            )
    what = "only messages, calls and reasoning are supported"
    raise RequestError(f"{where} is of type {named(item.type)}: {what}", param="input")


def _call(item: InputItem) -> dict[str, Any]:
    function = {"name": flat_name(item.namespace, item.name or ""), "arguments": item.arguments or "{}"}
    return {"id": item.call_id, "type": "function", "function": function}


def _of_assistant(messages: list[Message]) -> Message:
    """The assistant's message at the end of the conversation, which is added if there is none: reasoning and calls
    that follow each other are parts of one message."""
    if not messages or messages[-1].role != "assistant":
        messages.append(Message(role="assistant", content=""))
    return messages[-1]


def _content(content: str | list[InputPart] | None, where: str) -> str | list[TextPart]:
    return content if isinstance(content, str) else _parts(content or [], where)


def _parts(content: str | list[InputPart], where: str) -> list[TextPart]:
    if isinstance(content, str):
        return [TextPart(text=content)]
    for i, part in enumerate(content):
        if part.type not in _TEXT_PARTS:
            refuse("input", f"{where}.content[{i}] is of type {named(part.type)}: only text is supported")
        if part.text is None and part.refusal is None:
            refuse("input", f"{where}.content[{i}].text is required")
    return [TextPart(text=part.text or part.refusal or "") for part in content]


def _tools(tools: list[dict[str, Any]] | None) -> Raw | None:
    return read_tools(as_raw(as_functions(split_tools(tools)[0]))) if tools else None


def _format(wanted: dict[str, Any]) -> dict[str, Any]:
    if wanted.get("type") != "json_schema":
        return wanted
    return {"type": "json_schema", "json_schema": {name: value for name, value in wanted.items() if name != "type"}}
