"""The arguments of tool calls as JSON text while a model writes them: where each format's call begins, and readers of
what follows. Every reader gives out only what a JSON object can begin with."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from flover.text.json_scanner import JsonScanner
from flover.text.output_parts import find_first, open_len
from flover.text.tool_decoders import Tools, is_text, typed, write


class ArgumentsReader(Protocol):
    """Reads the arguments of one call from its text, which may be cut anywhere."""

    ended: bool
    """Whether the call is complete."""
    broken: bool
    """Whether the text has become one that is no call."""

    def feed(self, text: str) -> tuple[str, str]:
        """The next JSON text of the arguments, and the text behind the call once it has ended or is broken."""


Head = tuple[str, int, ArgumentsReader]
"""A call's beginning: the function, the number of characters up to its arguments, and their reader."""
HeadFinder = Callable[[str, Tools], Head | None]


class JsonArguments:
    """A JSON object, inside `depth` objects that end with the call."""

    def __init__(self, depth: int = 0) -> None:
        self._scanner = JsonScanner(depth)
        self._depth = depth
        self._closed = False
        self.begun = self.ended = self.broken = False

    def feed(self, text: str) -> tuple[str, str]:
        """The text itself up to the object's end, without whitespace before it."""
        found = ""
        if not self.begun:
            text = text.lstrip(" \t\r\n")
            if text and not text.startswith("{"):
                self.broken = True
                return "", text
        if not self._closed:
            split = self._scanner.feed(text, self._depth)
            found, text = text[:split], text[split:]
            self.begun = self.begun or bool(found)
            self._closed = self._scanner.depth == self._depth and found.endswith("}")
        if self._closed and self._depth and not self._scanner.broken:
            text = text[self._scanner.feed(text, 0) :]
        self.ended = self._closed and (not self._scanner.depth or self._scanner.broken)
        self.broken = self._scanner.broken and not self._closed
        return found, text


_ESCAPE = "<escape>"
_GEMMA_PIECE = re.compile(r"<escape>|[{}\[\],:]|[^{}\[\],:<]+|<")


class GemmaArguments:
    """FunctionGemma: `{key:<escape>text<escape>,other:12}`."""

    def __init__(self) -> None:
        self._scanner = JsonScanner()
        self._text = ""
        self._bare = ""
        self._escaped = False
        self.ended = self.broken = False

    def feed(self, text: str) -> tuple[str, str]:
        """The same as JSON: names and texts in quotes."""
        self._text += text
        found = ""
        while not (self.ended or self.broken):
            piece = self._piece()
            if not piece:
                return found, ""
            written = self._written(piece)
            split = self._scanner.feed(written, 0)
            found += written[:split]
            self.broken = self._scanner.broken
            if not self.broken:
                self._text = self._text[len(piece) :]
                self.ended = piece == "}" and not self._scanner.depth and not self._escaped
        rest, self._text = self._text, ""
        return found, rest

    def _piece(self) -> str:
        """The next piece that is complete. A bare value is, at the structure behind it."""
        if self._escaped:
            position = self._text.find(_ESCAPE)
            return _ESCAPE if position == 0 else self._text[: position if position > 0 else self._sure()]
        match = _GEMMA_PIECE.match(self._text)
        if match is None:
            return ""
        piece = match.group()
        if piece in "{}[],:" or piece == _ESCAPE:
            return piece
        position, _ = find_first(self._text, [_ESCAPE, *"{}[],:"])
        return self._text[:position] if position >= 0 else ""

    def _sure(self) -> int:
        return len(self._text) - open_len(self._text, [_ESCAPE])

    def _written(self, piece: str) -> str:
        if piece == _ESCAPE:
            self._escaped = not self._escaped
            return '"'
        if self._escaped:
            return json.dumps(piece, ensure_ascii=False)[1:-1]
        return piece if piece in "{}[],:" or not piece.strip() or is_scalar(piece) else json.dumps(piece.strip())


def is_scalar(text: str) -> bool:
    """Whether a text is a number, true, false or null."""
    try:
        return not isinstance(json.loads(text), str | list | dict) and "N" not in text and "I" not in text
    except ValueError:
        return False


class XmlArguments:
    """Qwen3-Coder: `<parameter=key>value</parameter>...</function>`. A value is a string if the schema says so, which
    is given out as it comes, else JSON."""

    _BEGIN, _END = "<parameter=", "</function>"
    _ENDS = ("</parameter>", _BEGIN, _END, "</tool_call>")

    def __init__(self, schema: Mapping[str, Any]) -> None:
        properties = schema.get("properties")
        self._properties = properties if isinstance(properties, dict) else {}
        self._text = ""
        self._separator = "{"
        self._schema: Mapping[str, Any] | None = None
        """That of the value that is being read."""
        self._begun = False
        self.ended = self.broken = False

    def feed(self, text: str) -> tuple[str, str]:
        """The parameters as members of an object."""
        self._text += text
        found: list[str] = []
        while not (self.ended or self.broken) and (
            self._between(found) if self._schema is None else self._value(found)
        ):
            pass
        rest = ""
        if self.ended or self.broken:
            rest, self._text = self._text, ""
        return "".join(found), rest

    def _between(self, found: list[str]) -> bool:
        """Take a parameter's name, or the function's end; whether there may be more."""
        text = self._text = self._text.lstrip()
        if text.startswith(self._BEGIN):
            key, closed, rest = text.removeprefix(self._BEGIN).partition(">")
            if closed:
                schema = self._properties.get(key)
                self._schema, self._begun, self._text = schema if isinstance(schema, dict) else {}, False, rest
                found.append(f"{self._separator}{json.dumps(key, ensure_ascii=False)}: ")
                self._separator = ", "
            return bool(closed)
        for end in (self._END, "</tool_call>"):
            if text.startswith(end):
                self._text = text.removeprefix(self._END)
                found.append("{}" if self._separator == "{" else "}")
                self.ended = True
        self.broken = not self.ended and not any(one.startswith(text) for one in (self._BEGIN, *self._ENDS))
        return False

    def _value(self, found: list[str]) -> bool:
        assert self._schema is not None
        position, _ = find_first(self._text, self._ENDS)
        as_text = self._schema.get("type") == "string"
        if position < 0:
            if as_text:
                self._give(
                    len(self._text) - open_len(self._text, [f"\n{end}" for end in self._ENDS] + [*self._ENDS]), found
                )
            return False
        value, rest = self._text[:position].removesuffix("\n"), self._text[position:]
        if as_text:
            self._text = value
            self._give(len(value), found)
            found.append('"' if self._begun else '""')
        else:
            found.append(write(typed(value.removeprefix("\n"), self._schema)))
        self._text, self._schema = rest.removeprefix("</parameter>"), None
        return True

    def _give(self, size: int, found: list[str]) -> None:
        """Give out so many characters of a string, less the line break that it begins with."""
        text, self._text = self._text[:size], self._text[size:]
        if text and not self._begun:
            self._begun = True
            found.append('"')
            text = text.removeprefix("\n")
        found.append(json.dumps(text, ensure_ascii=False)[1:-1])


MAX_HEAD_CHARS = 4096
"""A call whose function is named later is given out when it is complete."""
_STRING = r'"(?:[^"\\\x00-\x1f]|\\.)*"'
_JSON_HEAD = re.compile(
    rf'\s*(?:\[\s*)?\{{\s*(?:"type"\s*:\s*"function"\s*,\s*)?(?:"id"\s*:\s*{_STRING}\s*,\s*)?(?P<inner>"function"\s*:\s*\{{\s*)?'
    rf'"name"\s*:\s*(?P<name>{_STRING})\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{{)'
)
_MISTRAL_HEAD = re.compile(r"\s*+(?P<name>[^\s\[{][^\[{]*+)(?:\[CALL_ID\][^\[{]*+)?(?:\[ARGS\]\s*)?(?=\{)")
_GEMMA_HEAD = re.compile(r"\s*call:(?P<name>[^{]+)(?=\{)")
_XML_HEAD = re.compile(r"\s*<function=(?P<name>[^>]+)>")


def json_head(text: str, tools: Tools) -> Head | None:
    """`{"name": ..., "arguments": {`, as Hermes, Qwen and Llama 3 write it, also inside a list or as `function`."""
    found = _JSON_HEAD.match(text, 0, MAX_HEAD_CHARS)
    if found is None:
        return None
    try:
        name = json.loads(found["name"])
    except ValueError:
        return None
    return (name, found.end(), JsonArguments(2 if found["inner"] else 1)) if is_text(name) else None


def mistral_head(text: str, tools: Tools) -> Head | None:
    """`name[ARGS]{` or `name{`, or JSON."""
    found = _MISTRAL_HEAD.match(text, 0, MAX_HEAD_CHARS)
    return (found["name"].strip(), found.end(), JsonArguments()) if found else json_head(text, tools)


def gemma_head(text: str, tools: Tools) -> Head | None:
    """`call:name{`."""
    found = _GEMMA_HEAD.match(text, 0, MAX_HEAD_CHARS)
    return (found["name"].strip(), found.end(), GemmaArguments()) if found and found["name"].strip() else None


def xml_head(text: str, tools: Tools) -> Head | None:
    """`<function=name>`, or JSON."""
    found = _XML_HEAD.match(text, 0, MAX_HEAD_CHARS)
    return (found["name"], found.end(), XmlArguments(tools.get(found["name"], {}))) if found else json_head(text, tools)


def no_head(text: str, tools: Tools) -> Head | None:
    """A format whose calls are given out when they are complete."""
    return None
