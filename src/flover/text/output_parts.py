"""The parts of a generated answer: reasoning, content and tool calls; and helpers to find them in text that arrives in
pieces."""

from __future__ import annotations

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
    """A complete call of a function; `arguments` is the JSON text of an object."""

    name: str
    arguments: str


OutputPart = Reasoning | Content | ToolCall


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
    def parts(self) -> list[OutputPart]:
        """Those that there are, in this order."""
        reasoning, content = [Reasoning(self.reasoning)], [Content(self.content)]
        return [*(reasoning if self.reasoning else []), *(content if self.content else []), *self.calls]


def parse_output(parser: OutputParser, text: str) -> ParsedOutput:
    """The parts of a complete text."""
    found = ParsedOutput()
    for part in [*parser.feed(text), *parser.finish()]:
        match part:
            case Reasoning():
                found.reasoning += part.text
            case Content():
                found.content += part.text
            case ToolCall():
                found.calls.append(part)
    return found


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
