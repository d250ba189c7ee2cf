"""Checks conversations and converts them for chat templates: plain JSON values, tool call arguments as objects."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from flover.errors import RequestError

MAX_MESSAGES = 1024
ROLES = ("system", "developer", "user", "assistant", "tool")
MAX_DEPTH = 64
"""Maximum nesting of lists and objects in a message, a tool or a document."""
_REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")
_MAX_SHOWN = 64

Message = Mapping[str, Any]


def check_messages(messages: Any, max_messages: int = MAX_MESSAGES) -> list[dict[str, Any]]:
    """A copy of a conversation for a template, with all fields of each message.

    `content` is a string or a list of text parts. Fields that are None are left out, as in transformers.
    `tool_calls[].function.arguments`, a JSON string in OpenAI's API, is parsed into an object; other strings stay as
    they are. Raises `RequestError` naming the message and the field.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str | bytes):
        refuse("messages must be a list of messages")
    if not messages:
        refuse("messages must not be empty")
    if len(messages) > max_messages:
        refuse(f"messages may hold at most {max_messages} messages, got {len(messages)} (--max-messages)")
    return [_check_message(message, f"messages[{i}]") for i, message in enumerate(messages)]


def _check_message(message: Any, where: str) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        refuse(f"{where} must be an object with role and content, got {type(message).__name__}")
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        found = f", got {shown(role)}" if isinstance(role, str) else ""
        refuse(f"{where}.role must be one of {', '.join(ROLES)}{found}")
    checked = {str(name): value for name, value in message.items() if value is not None}
    if "content" in checked:
        checked["content"] = _check_content(checked["content"], f"{where}.content")
    elif role != "assistant" or not any(checked.get(name) for name in ("tool_calls", "refusal", *_REASONING_FIELDS)):
        refuse(f"{where}.content is missing")
    if "tool_calls" in checked:
        checked["tool_calls"] = _check_tool_calls(checked["tool_calls"], f"{where}.tool_calls")
    own = ("role", "content", "tool_calls")
    rest = {
        shown(name, len(name)): plain_json(value, f"{where}.{shown(name)}")
        for name, value in checked.items()
        if name not in own
    }
    checked = {name: checked[name] if name in own else rest[name] for name in checked if name in own or name in rest}
    return _alias_reasoning(checked)


def _alias_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    """Copy the reasoning to every name that templates read, as transformers does."""
    reasoning = next((message[name] for name in _REASONING_FIELDS if message.get(name) is not None), None)
    return message if reasoning is None else {"thinking": reasoning, **message, "reasoning_content": reasoning}


def _check_content(content: Any, where: str) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence) or isinstance(content, bytes):
        refuse(f"{where} must be a string or a list of text parts, got {type(content).__name__}")
    parts = []
    for i, part in enumerate(content):
        if not isinstance(part, Mapping) or not isinstance(part.get("type"), str):
            refuse(f"{where}[{i}] must be an object with a type")
        if part["type"] != "text":
            refuse(f"{where}[{i}] has type {shown(part['type'])}: only text is supported")
        if not isinstance(part.get("text"), str):
            refuse(f"{where}[{i}].text must be a string")
        parts.append({"type": "text", "text": part["text"]})
    return parts


def _check_tool_calls(calls: Any, where: str) -> list[Any]:
    if not isinstance(calls, Sequence) or isinstance(calls, str | bytes):
        refuse(f"{where} must be a list, got {type(calls).__name__}")
    return [_check_tool_call(call, f"{where}[{i}]") for i, call in enumerate(calls)]


def _check_tool_call(call: Any, where: str) -> dict[str, Any]:
    checked = plain_json(call, where)
    if not isinstance(checked, dict):
        refuse(f"{where} must be an object, got {type(call).__name__}")
    function = checked.get("function", checked if "name" in checked else {})
    if not isinstance(function, dict):
        refuse(f"{where}.function must be an object, got {type(function).__name__}")
    if function is not checked:
        checked.setdefault("type", "function")
    if "name" in function or "arguments" in function:
        function["arguments"] = _arguments(function.get("arguments"))
    return checked


def _arguments(arguments: Any) -> Any:
    """The arguments of a call; an empty string and null mean no arguments, as in vLLM."""
    if arguments is None or (isinstance(arguments, str) and not arguments.strip()):
        return {}
    if not isinstance(arguments, str):
        return arguments
    try:
        spelled = json.loads(arguments)
        return plain_json(spelled, "arguments") if isinstance(spelled, dict) else arguments
    except (ValueError, RecursionError, RequestError):
        return arguments


def plain_json(value: Any, where: str, depth: int = 0) -> Any:
    """A copy of a JSON value made of built-in types only. Raises `RequestError`."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if depth >= MAX_DEPTH:
        refuse(f"{where} holds lists and objects more than {MAX_DEPTH} deep", where)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, Mapping):
        return {str(name): plain_json(item, where, depth + 1) for name, item in value.items()}
    if not isinstance(value, Sequence) or isinstance(value, bytes | bytearray):
        refuse(f"{where} holds a {type(value).__name__}, which is no JSON value", where)
    return [plain_json(item, where, depth + 1) for item in value]


def shown(text: str, most: int = _MAX_SHOWN) -> str:
    """A client's text for an error message: truncated and escaped."""
    cut = text if len(text) <= most else text[:most] + "…"
    return cut.encode(errors="backslashreplace").decode()


def refuse(message: str, param: str = "messages") -> NoReturn:
    """Raise a `RequestError` about a field; `param` is the field or a path inside it."""
    raise RequestError(message, param=param.partition(".")[0].partition("[")[0])
