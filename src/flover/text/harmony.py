"""Splits the output of gpt-oss into its parts: messages with a channel, and a recipient if they are calls.

    <|channel|>analysis<|message|>...<|end|><|start|>assistant<|channel|>commentary to=functions.f
    <|constrain|>json<|message|>{...}<|call|>

The analysis channel is reasoning. Source of the format: OpenAI's description of harmony.
"""

from __future__ import annotations

import re

from flover.text.output_parts import (
    Arguments,
    Content,
    OutputPart,
    Reasoning,
    ToolCall,
    TrimmedText,
    find_first,
    open_len,
)
from flover.text.tool_arguments import JsonArguments

MESSAGE = "<|message|>"
THINKING = ("<|channel|>analysis<|message|>", "<|end|>")
"""What a message of the analysis channel begins and ends with."""
ENDS = ("<|end|>", "<|call|>", "<|return|>", "<|start|>", "<|channel|>")
_CHANNEL = re.compile(r"(?:<\|channel\|>|^)\s*(analysis|commentary|final)\b")
_RECIPIENT = re.compile(r"\bto=(?:functions\.)?([\w.-]+)")
MAX_HEADER_CHARS = 1024
"""A longer text without a message marker is content."""


class HarmonyParser:
    """Splits one sequence that begins with the header of a message. With `several` off only the first call counts;
    with `calls` off, calls are content."""

    def __init__(self, *, calls: bool, several: bool = True) -> None:
        self._calls = calls
        self._several = several
        self._text = ""
        self._header: str | None = None
        self._reader: JsonArguments | None = None
        """Of the arguments of the call that is being read."""
        self._stray = TrimmedText(start=False)
        """Text of that call that is no arguments."""
        self._strayed = False
        self._called = False

    def feed(self, text: str) -> list[OutputPart]:
        """Take more text; the parts that are certain now."""
        self._text += text
        parts: list[OutputPart] = []
        while self._step(parts):
            pass
        return parts

    def finish(self) -> list[OutputPart]:
        """The parts held back, at the end of the text."""
        parts: list[OutputPart] = []
        if self._header is not None:
            self._take(self._text, parts)
            self._end(parts)
        elif self._text and not self._text.startswith("<|"):
            parts.append(Content(self._text))
        self._text = ""
        return parts

    def _step(self, parts: list[OutputPart]) -> bool:
        if self._header is None:
            position = self._text.find(MESSAGE)
            if position < 0 and len(self._text) <= MAX_HEADER_CHARS:
                return False
            split = max(position, 0)
            self._header = self._text[:split] if position >= 0 else ""
            self._text = self._text[split + len(MESSAGE) if position >= 0 else 0 :]
            name = self._recipient()
            if name is not None and (self._several or not self._called):
                self._reader, self._called = JsonArguments(), True
                parts.append(ToolCall(name))
            return True
        if self._reader is not None and not (self._reader.ended or self._reader.broken):
            found, self._text = self._reader.feed(self._text)
            parts += [Arguments(found)] if found else []
        position, marker = find_first(self._text, ENDS)
        split = position if position >= 0 else len(self._text) - open_len(self._text, ENDS)
        self._take(self._text[:split], parts)
        self._text = self._text[split:]
        if position < 0:
            return False
        self._text = self._text[len(marker) :]
        self._end(parts)
        return True

    def _recipient(self) -> str | None:
        found = _RECIPIENT.search(self._header or "")
        return found.group(1) if found and self._calls else None

    def _take(self, text: str, parts: list[OutputPart]) -> None:
        if not text:
            return
        if self._reader is not None:
            shown = self._stray.feed(text) if self._reader.broken else ""
            if shown:
                self._strayed = True
                parts.append(Content(shown))
            return
        if self._recipient() is not None:
            return  # of one call too many
        channel = _CHANNEL.search(self._header or "")
        parts.append(Reasoning(text) if channel and channel.group(1) == "analysis" else Content(text))

    def _end(self, parts: list[OutputPart]) -> None:
        if self._reader is not None and not self._reader.begun and not self._strayed:
            parts.append(Arguments("{}"))
        self._header, self._reader, self._strayed = None, None, False
        self._stray = TrimmedText(start=False)
