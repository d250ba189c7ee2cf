"""Decodes the text of tool calls as models write it. Every function returns None for a text that is no call.

The text comes from a model, so clients can steer it: lengths and depths are bounded, and nothing is evaluated.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from typing import Any

from flover.text.output_parts import ToolCall

Tools = Mapping[str, Mapping[str, Any]]
"""The functions that may be called: name to JSON Schema of the arguments."""
MAX_CALL_CHARS = 2**17
"""Maximum length of the text of calls; longer ones are content."""
MAX_PYTHON_CHARS = 2**14
"""The same for calls in Python's syntax, whose parser takes far more memory than its text."""
_DECODER = json.JSONDecoder()
_BAD = (ValueError, RecursionError, MemoryError)


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
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    arguments = value.get("arguments", value.get("parameters", {}))
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except _BAD:
            return None
    return ToolCall(value["name"], write(arguments)) if isinstance(arguments, dict) else None


def write(arguments: Mapping[str, Any]) -> str:
    """Arguments as JSON."""
    return json.dumps(arguments, ensure_ascii=False)


def decode_mistral(text: str, tools: Tools) -> list[ToolCall] | None:
    """Mistral: a list of JSON objects; since its tokenizer 11 `name[ARGS]{...}` or `name{...}`."""
    text = text.strip()
    if text.startswith(("[", "{")):
        return decode_json(text, tools)
    name, brace, rest = text.partition("{")
    name = name.partition("[ARGS]")[0].partition("[CALL_ID]")[0].strip()
    try:
        arguments, end = _DECODER.raw_decode(brace + rest)
    except _BAD:
        return None
    return [ToolCall(name, write(arguments))] if name and not (brace + rest)[end:].strip() else None


def decode_xml(text: str, tools: Tools) -> list[ToolCall] | None:
    """Qwen3-Coder: `<function=name><parameter=key>value</parameter>...</function>`; JSON is read too. A value is a
    string if the schema says so, else JSON."""
    text = text.strip()
    if not text.startswith("<function="):
        return decode_json(text, tools)
    name, closed, rest = text.removeprefix("<function=").partition(">")
    if not closed:
        return None
    properties = tools.get(name, {}).get("properties")
    arguments: dict[str, Any] = {}
    for part in rest.partition("</function>")[0].split("<parameter=")[1:]:
        key, closed, value = part.partition(">")
        if not closed:
            return None
        value = value.partition("</parameter>")[0].removeprefix("\n").removesuffix("\n")
        schema = properties.get(key) if isinstance(properties, dict) else None
        arguments[key] = _typed(value, schema if isinstance(schema, dict) else {})
    return [ToolCall(name, write(arguments))]


def _typed(value: str, schema: Mapping[str, Any]) -> Any:
    if schema.get("type") == "string":
        return value
    try:
        return json.loads(value)
    except _BAD:
        return value


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
    return ToolCall(ast.unparse(call.func), json.dumps(values, ensure_ascii=False, allow_nan=False))


_ESCAPE = "<escape>"
_GEMMA_PIECE = re.compile(r"<escape>|[{}\[\],:]|[^{}\[\],:<]+|<")


def decode_gemma(text: str, tools: Tools) -> list[ToolCall] | None:
    """FunctionGemma: `call:name{key:<escape>text<escape>,other:12}`."""
    name, brace, rest = text.strip().removeprefix("call:").partition("{")
    pieces: list[str] = []
    inside: list[str] | None = None
    for piece in _GEMMA_PIECE.findall(brace + rest):
        if piece == _ESCAPE:
            if inside is not None:
                pieces.append(json.dumps("".join(inside)))
            inside = [] if inside is None else None
        elif inside is not None:
            inside.append(piece)
        elif piece in "{}[],:" or piece.strip() in ("true", "false", "null", "") or _is_number(piece):
            pieces.append(piece)
        else:
            pieces.append(json.dumps(piece.strip()))
    try:
        arguments = json.loads("".join(pieces))
    except _BAD:
        return None
    return [ToolCall(name.strip(), write(arguments))] if name.strip() and isinstance(arguments, dict) else None


def _is_number(text: str) -> bool:
    try:
        return isinstance(json.loads(text), int | float)
    except _BAD:
        return False
