"""Decodes the large fields of a body, prompts and conversations, piece by piece."""

from __future__ import annotations

import re
from typing import NoReturn

import msgspec
from msgspec import Raw

from flover.config import Limits, flag_name
from flover.errors import RequestError, first_name, shown, wrong_value
from flover.request import ModelFacts, max_total_tokens, too_long
from flover.server.fields import unknown_field
from flover.server.json_bounds import num_values
from flover.server.protocol import (
    MAX_TOOLS,
    Message,
    Prompts,
    Role,
    TextPart,
    ToolCall,
)
from flover.server.read_values import begins, check_list, is_null, read_items, read_members, read_value

A_PROMPT = "a string, a list of token ids, or a list of those"
A_MESSAGE = "an object with role and content"
A_CONVERSATION = "a list of messages"
A_CONTENT = "a string or a list of text parts"
MAX_MESSAGE_FIELDS = 64
MAX_ARGUMENT_VALUES = 2**15
"""Maximum names and values in all tool call arguments given as JSON strings."""
_MESSAGE_FIELDS = frozenset(Message.__struct_fields__)
_REFUSED_IN_MESSAGES = {
    "audio": "audio is not supported",
    "function_call": "function_call is not supported: send tool_calls",
}
_FIRST_MEMBER = re.compile(rb"\[\s*(.)", re.DOTALL)


def read_prompts(raw: Raw, name: str, limits: Limits, facts: ModelFacts | None) -> Prompts:
    """A list of prompts. `facts` limit the number of token ids; None if longer prompts are truncated."""
    if begins(raw, '"'):
        return [read_value(raw, str, name)]
    flag = flag_name("max_request_seqs")
    start = _FIRST_MEMBER.match(bytes(raw)[:4096]) if begins(raw, "[") else None
    first = start.group(1) if start else b""
    if first == b"]":
        raise RequestError(f"{name} is an empty list: at least one token is needed", param=name)
    if first not in (b'"', b"["):
        return [read_token_ids(raw, name, facts, A_PROMPT)]
    items = read_items(raw, name, A_PROMPT, limits.max_request_seqs, "prompts", flag)
    if first == b'"':
        return [read_value(item, str, f"{name}[{i}]", "a string like the first") for i, item in enumerate(items)]
    return [
        read_token_ids(item, f"{name}[{i}]", facts, "a list of token ids like the first")
        for i, item in enumerate(items)
    ]


def read_token_ids(raw: Raw, where: str, facts: ModelFacts | None, wanted: str = "a list of token ids") -> list[int]:
    """Token ids, after checking their number and characters. Raises `RequestError`."""
    if not begins(raw, "["):
        raise wrong_value(where, wanted, raw)
    text = bytes(raw)
    if len(text) > 4096 and (text.translate(None, b"-0123456789, \t\r\n[]") or text.count(b"[") > 1):
        raise RequestError(f"{where} must be {wanted}: not all its members are whole numbers", param=first_name(where))
    count = text.count(b",") + 1
    if facts is not None and count >= max_total_tokens(facts):
        raise too_long(count, None, facts)
    ids: list[int] = read_value(raw, list[int], where, wanted)
    return ids


def read_messages(raw: Raw, limits: Limits, *, strict: bool) -> list[Message]:
    """The messages of a conversation. Raises `RequestError`."""
    flag = flag_name("max_messages")
    items = read_items(raw, "messages", A_CONVERSATION, limits.max_messages, "messages", flag)
    if not items:
        raise RequestError("messages is an empty list: at least one message is needed", param="messages")
    messages = [_read_message(item, f"messages[{i}]", limits, strict) for i, item in enumerate(items)]
    _check_arguments(messages)
    return messages


def _read_message(raw: Raw, where: str, limits: Limits, strict: bool) -> Message:
    members = read_members(raw, where, A_MESSAGE, MAX_MESSAGE_FIELDS)
    given = {name: value for name, value in members.items() if not is_null(value)}
    for name, reason in _REFUSED_IN_MESSAGES.items():
        if name in given:
            _refuse(f"{where}.{reason}")
    if strict and (unknown := members.keys() - _MESSAGE_FIELDS - {"annotations", *_REFUSED_IN_MESSAGES}):
        error = unknown_field(min(unknown), _MESSAGE_FIELDS, f"{where}.")
        raise RequestError(error.message, param="messages")
    if "role" not in given:
        _refuse(f"{where}.role is required")
    roles = "system, developer, user, assistant or tool"
    return Message(
        role=read_value(given["role"], Role, f"{where}.role", roles),
        content=_read_content(given["content"], f"{where}.content", limits, strict) if "content" in given else None,
        tool_calls=_read_tool_calls(given["tool_calls"], f"{where}.tool_calls") if "tool_calls" in given else None,
        **{
            name: read_value(given[name], str, f"{where}.{name}")
            for name in ("name", "tool_call_id", "reasoning", "reasoning_content", "refusal")
            if name in given
        },
    )


def _read_content(raw: Raw, where: str, limits: Limits, strict: bool) -> str | list[TextPart]:
    if not begins(raw, "["):
        text: str = read_value(raw, str, where, A_CONTENT)
        return text
    items = read_items(raw, where, A_CONTENT, limits.max_messages, "parts", flag_name("max_messages"))
    return [_read_part(item, f"{where}[{i}]", strict) for i, item in enumerate(items)]


def _read_part(raw: Raw, where: str, strict: bool) -> TextPart:
    members = read_members(raw, where, "an object with type and text", MAX_MESSAGE_FIELDS)
    if "type" not in members:
        _refuse(f"{where}.type is required")
    kind = read_value(members["type"], str, f"{where}.type")
    if kind == "refusal" and "refusal" in members:
        return TextPart(text=read_value(members["refusal"], str, f"{where}.refusal"))
    if kind != "text":
        _refuse(f"{where} has type {kind if kind.isidentifier() else shown(kind)}: only text is supported")
    if strict and (unknown := members.keys() - {"type", "text"}):
        raise RequestError(unknown_field(min(unknown), ("type", "text"), f"{where}.").message, param="messages")
    if "text" not in members:
        _refuse(f"{where}.text is required")
    return TextPart(text=read_value(members["text"], str, f"{where}.text"))


def _read_tool_calls(raw: Raw, where: str) -> Raw | None:
    check_list(raw, where, "a list of tool calls", MAX_TOOLS, "tool calls")
    calls: list[ToolCall] = read_value(raw, list[ToolCall], where, "a list of tool calls")
    for i, call in enumerate(calls):
        arguments = call.function.arguments
        if not (begins(arguments, '"{') or is_null(arguments)):
            raise wrong_value(f"{where}[{i}].function.arguments", "a string of JSON or an object", arguments)
    return raw if calls else None


def _check_arguments(messages: list[Message]) -> None:
    """Check the number of values in tool call arguments, JSON strings that are parsed for the template.

    Raises `RequestError`.
    """
    left = MAX_ARGUMENT_VALUES
    for i, message in enumerate(messages):
        data = b"" if message.tool_calls is None else bytes(message.tool_calls)
        most = sum(data.count(mark) for mark in (b",", b":", b"[", b"{"))
        left -= most if most <= left else _num_argument_values(data)
        if left < 0:
            _refuse(
                f"messages[{i}].tool_calls: the arguments of a conversation's tool calls may hold at most "
                f"{MAX_ARGUMENT_VALUES} names and values"
            )


def _num_argument_values(calls: bytes) -> int:
    """Number of names and values in arguments given as strings."""
    strings = (call.function.arguments for call in msgspec.json.decode(calls, type=list[ToolCall]))
    return sum(
        num_values(msgspec.json.decode(raw, type=str).encode(), MAX_ARGUMENT_VALUES)
        for raw in strings
        if begins(raw, '"')
    )


def _refuse(message: str) -> NoReturn:
    raise RequestError(message, param="messages")
