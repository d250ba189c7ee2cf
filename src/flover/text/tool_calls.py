"""Splits text into content and tool calls."""

from __future__ import annotations

from flover.text.output_parts import (
    Arguments,
    Content,
    OutputPart,
    ToolCall,
    TrimmedText,
    find_first,
    in_parts,
    open_len,
)
from flover.text.tool_arguments import ArgumentsReader
from flover.text.tool_decoders import MAX_CALL_CHARS, Tools
from flover.text.tool_formats import ToolFormat

_LOOK_CHARS = 256
"""Characters at the start of an answer that show whether it may be a call as a whole."""
_BETWEEN = " \t\r\n],;"
"""What may stand between calls of one body."""


class ToolCallParser:
    """Splits text into content and tool calls. The arguments of a call are given out as they come if it begins as its
    format says, otherwise it is when it is complete. A text that begins as a call and is none is content.

    With `several` off, what follows the first call is dropped. Whitespace beside calls is dropped.
    """

    def __init__(self, form: ToolFormat, tools: Tools, *, several: bool = True) -> None:
        self._form = form
        self._tools = tools
        self._several = several
        self._text = ""
        self._inside = False
        self._whole = bool(form.opening)
        """Whether the answer may still be a call as a whole."""
        self._reader: ArgumentsReader | None = None
        """Of the call whose arguments are being read."""
        self._continued = False
        """Whether a call of this body has been given out."""
        self._broken = False
        """Whether the rest of this body is content."""
        self._called = False
        self._searched = 0
        """Characters of a call's text that hold no end marker."""
        self._trimmed = TrimmedText(start=False)

    def feed(self, text: str) -> list[OutputPart]:
        """Take more text; the parts that are certain now."""
        self._text += text
        parts: list[OutputPart] = []
        while self._step(parts):
            pass
        return parts

    def finish(self) -> list[OutputPart]:
        """The parts held back, at the end of the text: a call whose end marker is missing counts."""
        parts: list[OutputPart] = []
        text, self._text = self._text, ""
        if self._ignores:
            return parts
        if self._inside or (self._whole and text.strip()):
            self._close(text, "", parts)
        else:
            self._pass(text, parts)
        rest = "" if self._called else self._trimmed.finish()
        return parts + ([Content(rest)] if rest else [])

    @property
    def _ignores(self) -> bool:
        """Whether all that follows is dropped."""
        return self._called and not self._several and self._reader is None

    def _step(self, parts: list[OutputPart]) -> bool:
        """Take one marker or all text up to it; whether there may be more."""
        if self._reader is not None:
            return self._read(self._reader, parts)
        if self._ignores:
            self._text = ""
            return False
        if self._whole:
            self._whole = self._may_be_whole()
            if not self._whole:
                return True
            body = self._text.lstrip().removeprefix(self._form.begin)
            return self._begin(body, len(self._text) - len(body), parts)
        if self._inside:
            return self._in_body(parts)
        begin = self._form.begin
        position, marker = find_first(self._text, [begin])
        split = position if position >= 0 else len(self._text) - open_len(self._text, [begin])
        self._pass(self._text[:split], parts)
        self._text = self._text[split + len(marker) :]
        self._inside = position >= 0
        return self._inside

    def _in_body(self, parts: list[OutputPart]) -> bool:
        form = self._form
        if self._continued:
            self._text = self._text.lstrip(_BETWEEN)
        after = form.begin if form.end is None else form.end
        position, marker = find_first(self._text, [after], self._searched)
        if not self._broken and self._begin(self._text[:position] if position >= 0 else self._text, 0, parts):
            return True
        self._searched = 0 if position >= 0 else max(0, len(self._text) - len(after))
        if position < 0:
            return False
        body, self._text = self._text[:position], self._text[position + len(marker) :]
        self._close(body, "" if form.end is None else form.end, parts)
        self._inside = form.end is None
        return True

    def _begin(self, body: str, start: int, parts: list[OutputPart]) -> bool:
        """Give out the call that this body, which starts there, begins with; whether it is one."""
        head = self._form.head(body, self._tools)
        if head is None or (self._whole and head[0] not in self._tools):
            return False
        name, size, self._reader = head
        self._text = self._text[start + size :]
        self._whole, self._inside, self._continued, self._searched = False, True, True, 0
        self._called = True
        self._trimmed.drop()
        parts.append(ToolCall(name))
        return True

    def _read(self, reader: ArgumentsReader, parts: list[OutputPart]) -> bool:
        found, self._text = reader.feed(self._text)
        if found:
            parts.append(Arguments(found))
        if reader.ended or reader.broken:
            self._broken = reader.broken
            self._reader = None
        return self._reader is None

    def _may_be_whole(self) -> bool:
        text = self._text[:_LOOK_CHARS].lstrip()
        begin = self._form.begin
        if text.startswith(begin) or begin.startswith(text):
            return True
        squeezed = "".join(text.split())
        return any(squeezed.startswith(one) or one.startswith(squeezed) for one in self._form.opening)

    def _close(self, body: str, end: str, parts: list[OutputPart]) -> None:
        """The calls in the rest of a body, or else the rest as content."""
        whole, continued, broken = self._whole, self._continued, self._broken
        self._continued = self._broken = False
        text = body.strip(_BETWEEN) if continued else body.strip().removeprefix(self._form.begin) if whole else body
        if continued and not text:
            return
        calls = self._form.decode(text, self._tools) if len(text) <= MAX_CALL_CHARS and not broken else None
        if calls is None or (whole and any(call.name not in self._tools for call in calls)):
            self._pass(body if whole or continued else self._form.begin + body + end, parts)
            return
        if not self._several:
            calls = [] if self._called else calls[:1]
        self._called = True
        self._trimmed.drop()
        parts += in_parts(calls)

    def _pass(self, text: str, parts: list[OutputPart]) -> None:
        shown = self._trimmed.feed(text)
        if shown:
            parts.append(Content(shown))
