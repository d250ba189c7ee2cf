"""Decodes the text of tool calls as models write it. Every function returns None for a text that is no call.

The text comes from a model, so clients can steer it: lengths and depths are bounded, and nothing is evaluated.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from typing import Any, NoReturn

from flover.text.output_parts import ToolCall

Tools = Mapping[str, Mapping[str, Any]]
"""The functions that may be called: name to JSON Schema of the arguments."""
MAX_CALL_CHARS = 2**17
"""Maximum length of the text of calls; longer ones are content."""
MAX_PYTHON_CHARS = 2**14
"""The same for calls in Python's syntax, whose parser takes far more memory than its text."""
_BAD = (ValueError, RecursionError, MemoryError)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse)


def decode_json(text: str, tools: Tools) -> list[ToolCall] | None:
    """JSON objects with `name` and `arguments` or `parameters`, as Hermes, Qwen and Llama 3 write them: one, several
    separated by `;`, or a list."""
    text = text.strip()
    found: list[ToolCall] = []
    while text:
        try:
            value, end = _DECODER.raw_decode(text)
        except _BAD:
            return None
        for item in value if isinstance(value, list) else [value]:
            call = call_of(item)
            if call is None:
                return None
            found.append(call)
        text = text[end:].lstrip(" \t\r\n;,")
    return found or None


def call_of(value: Any) -> ToolCall | None:
    """The call that a JSON value describes."""
    if isinstance(value, dict) and isinstance(value.get("function"), dict):
        value = value["function"]
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or not is_text(value["name"]):
        return None
    arguments = value.get("arguments", value.get("parameters", {}))
    try:
        if isinstance(arguments, str):
            arguments = _DECODER.decode(arguments)
        return ToolCall(value["name"], write(arguments)) if isinstance(arguments, dict) else None
    except _BAD:
        return None


def write(value: Any) -> str:
    """A value as JSON. Raises ValueError for a number that is not finite."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return text if is_text(text) else json.dumps(value)


def is_text(text: str) -> bool:
    """Whether it has no half of a surrogate pair, which no encoding can write."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def typed(value: str, schema: Mapping[str, Any]) -> Any:
    """A value as its schema says: JSON if it is that and the schema has its type, or a string if it may be one."""
    kinds = _kinds(schema)
    if kinds == {"string"}:
        return value
    try:
        read = _DECODER.decode(value)
    except _BAD:
        return value
    return value if "string" in kinds and not kinds & _KINDS_OF[type(read)] else read


_KINDS_OF: Mapping[type, frozenset[str]] = {
    str: frozenset({"string"}),
    bool: frozenset({"boolean"}),
    int: frozenset({"integer", "number"}),
    float: frozenset({"number"}),
    list: frozenset({"array"}),
    dict: frozenset({"object"}),
    type(None): frozenset({"null"}),
}


def _kinds(schema: Any) -> set[str]:
    """The types that a schema names; empty if it does not say."""
    if not isinstance(schema, dict):
        return set()
    kind = schema.get("type")
    if isinstance(kind, str | list):
        return {one for one in ([kind] if isinstance(kind, str) else kind) if isinstance(one, str)}
    if isinstance(schema.get("enum"), list):
        return set().union(*(_KINDS_OF[type(one)] for one in schema["enum"]))
    either = schema.get("anyOf", schema.get("oneOf"))
    found = [_kinds(one) for one in either] if isinstance(either, list) else []
    return set().union(*found) if all(found) else set()


def decode_python(text: str, tools: Tools) -> list[ToolCall] | None:
    """Llama 3.2 and 4: a list of Python calls with keywords, `[name(key="value"), ...]`. Values are literals."""
    if len(text) > MAX_PYTHON_CHARS:
        return None
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        if not isinstance(tree, ast.List):
            return None
        return [_python_call(call) for call in tree.elts] or None
    except (*_BAD, SyntaxError, TypeError):
        return None


def _python_call(call: ast.expr) -> ToolCall:
    if not isinstance(call, ast.Call) or call.args or not isinstance(call.func, ast.Name | ast.Attribute):
        raise ValueError("not a call with keywords")
    values = {}
    for keyword in call.keywords:
        if keyword.arg is None:
            raise ValueError("not a keyword")
        values[keyword.arg] = ast.literal_eval(keyword.value)
    return ToolCall(ast.unparse(call.func), write(values))
