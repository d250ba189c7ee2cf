"""Tools for chat templates that have no place for them, such as Gemma 3's: described in the system message, with calls
as JSON in the text, in the words of Llama 3's template."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

FORMAT = "llama3_json"
"""The format of the calls."""
_INTRODUCTION = (
    "Given the following functions, please respond with a JSON for a function call with its proper arguments that best "
    'answers the given prompt, or answer in text. Respond in the format {"name": function name, "parameters": '
    "dictionary of argument name and its value}. Do not use variables."
)


def write_plain(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None
) -> list[dict[str, Any]]:
    """The conversation with tools, calls and results as text: a result is a message of the user, and messages of one
    role that follow each other are joined if one of them is such a text."""
    plain: list[dict[str, Any]] = []
    for message in messages:
        written = _as_text(message)
        if plain and written is not message and plain[-1]["role"] == written["role"]:
            plain[-1] = dict(plain[-1]) | {"content": f"{text_of(plain[-1])}\n{text_of(written)}"}
        else:
            plain.append(dict(written))
    if not tools:
        return plain
    described = "\n".join([_INTRODUCTION, *(json.dumps(tool, ensure_ascii=False) for tool in tools)])
    if plain and plain[0]["role"] in ("system", "developer"):
        return [dict(plain[0]) | {"content": f"{text_of(plain[0])}\n\n{described}"}, *plain[1:]]
    return [{"role": "system", "content": described}, *plain]


def text_of(message: Mapping[str, Any]) -> str:
    """The text of a message, whose content may be a list of text parts."""
    content = message.get("content") or ""
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def _as_text(message: Mapping[str, Any]) -> Mapping[str, Any]:
    if message["role"] == "tool":
        return {"role": "user", "content": f"Result of {message.get('name') or 'the function'}: {text_of(message)}"}
    calls = message.get("tool_calls")
    if not calls:
        return message
    written = [_call_text(call) for call in calls]
    return {"role": "assistant", "content": "\n".join([*filter(None, [text_of(message)]), *written])}


def _call_text(call: Mapping[str, Any]) -> str:
    function = call["function"]
    arguments = function.get("arguments") or "{}"
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return f'{{"name": {json.dumps(function["name"], ensure_ascii=False)}, "parameters": {arguments}}}'
