"""The parts of a generated answer: reasoning, content and tool calls; and helpers to find them in text that arrives in
pieces."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Reasoning:
    """Text that the model wrote before its answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Content:
    """Text of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a function. `arguments` is the JSON text of an object: empty where a call begins, its parts follow."""

    name: str
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class Arguments:
    """More of the arguments of the call before. All of a call are JSON, or the beginning of JSON that was cut off."""

    text: str


_FEED_CHARS = 4096
WholePart = Reasoning | Content | ToolCall
OutputPart = WholePart | Arguments


class OutputParser(Protocol):
    """Splits one sequence's text into parts. The concatenated parts do not depend on how the text is cut into pieces.

    Text is held back while it may still become a marker or a call.
    """

    def feed(self, text: str) -> list[OutputPart]:
        """Take more text; the parts that are certain now."""

    def finish(self) -> list[OutputPart]:
        """The parts held back, at the end of the text."""


@dataclass(slots=True)
class ParsedOutput:
    """All parts of one sequence."""

    reasoning: str = ""
    content: str = ""
    calls: list[ToolCall] = field(default_factory=list)

    @property
    def parts(self) -> list[WholePart]:
        """Those that there are, in this order."""
        texts: list[WholePart] = [Reasoning(self.reasoning), Content(self.content)]
        return [*(one for one in texts if not isinstance(one, ToolCall) and one.text), *self.calls]

    def add(self, part: OutputPart) -> None:
        """Add a part of a stream."""
        match part:
            case Reasoning():
                self.reasoning += part.text
            case Content():
                self.content += part.text
            case ToolCall():
                self.calls.append(part)
            case Arguments():
                call = self.calls[-1]
                self.calls[-1] = ToolCall(call.name, call.arguments + part.text)

    def take(self) -> list[ToolCall]:
        """The calls, which are then no longer here."""
        calls, self.calls = self.calls, []
        return calls


def parse_output(parser: OutputParser, text: str) -> ParsedOutput:
    """The parts of a complete text."""
    found = ParsedOutput()
    for start in range(0, len(text), _FEED_CHARS):  # a parser copies what it has not read for every call in it
        for part in parser.feed(text[start : start + _FEED_CHARS]):
            found.add(part)
    for part in parser.finish():
        found.add(part)
    return found


def join_parts(parts: Sequence[OutputPart]) -> list[OutputPart]:
    """The parts, with neighbours of one kind as one."""
    found: list[OutputPart] = []
    for part in parts:
        last = found[-1] if found else None
        if not isinstance(part, ToolCall) and isinstance(last, type(part)):
            found[-1] = type(part)(last.text + part.text)
        else:
            found.append(part)
    return found


def arguments_object(arguments: str) -> str:
    """Arguments as an object in any case: what was cut off is its only member, as Anthropic recommends it."""
    try:
        whole = isinstance(json.loads(arguments), dict)
    except (ValueError, RecursionError):
        whole = False
    return arguments if whole else json.dumps({"INVALID_JSON": arguments}, ensure_ascii=False)


def in_parts(calls: Sequence[ToolCall]) -> list[OutputPart]:
    """Complete calls as the parts of a stream."""
    return [part for call in calls for part in (ToolCall(call.name), Arguments(call.arguments))]


class PlainParser:
    """Passes all text on as content."""

    def feed(self, text: str) -> list[OutputPart]:
        """The text as it is."""
        return [Content(text)] if text else []

    def finish(self) -> list[OutputPart]:
        """Nothing is held back."""
        return []


def find_first(text: str, markers: Sequence[str], start: int = 0) -> tuple[int, str]:
    """Position of the earliest marker from `start` on, and the longest marker there; (-1, "") if there is none."""
    found = [(text.find(marker, start), -len(marker), marker) for marker in markers]
    position, _, marker = min((one for one in found if one[0] >= 0), default=(-1, 0, ""))
    return position, marker


def open_len(text: str, markers: Sequence[str]) -> int:
    """Length of the longest end of the text that may be the start of a marker."""
    longest = max(map(len, markers)) - 1
    for length in range(min(longest, len(text)), 0, -1):
        end = text[-length:]
        if any(marker.startswith(end) for marker in markers):
            return length
    return 0


class TrimmedText:
    """Text without the whitespace at its start and at its end, which is held back until more text follows."""

    def __init__(self, *, start: bool = True) -> None:
        """`start`: whether whitespace at the start is dropped."""
        self._started = not start
        self._space = ""

    def feed(self, text: str) -> str:
        """Take more text; the text up to its last character that is no whitespace."""
        text = self._space + text
        if not self._started:
            text = text.lstrip()
        shown = text.rstrip()
        self._space = text[len(shown) :]
        self._started = self._started or bool(shown)
        return shown

    def finish(self) -> str:
        """The whitespace held back; later whitespace is held back again."""
        space, self._space = self._space, ""
        return space

    def drop(self) -> None:
        """Drop the whitespace held back, and any that follows."""
        self._space, self._started = "", False
