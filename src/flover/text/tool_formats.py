"""The formats of tool calls, as data under vLLM's names, and which of them a chat template asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from flover.text.output_parts import (
    Content,
    OutputPart,
    ToolCall,
    TrimmedText,
    find_first,
    open_len,
)
from flover.text.tool_decoders import (
    MAX_CALL_CHARS,
    Tools,
    decode_gemma,
    decode_json,
    decode_mistral,
    decode_python,
    decode_xml,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolFormat:
    """How a family writes calls: between two markers anywhere in the text, or as the whole answer."""

    decode: Callable[[str, Tools], list[ToolCall] | None]
    begin: str
    """What a call begins with. Of a whole answer, a marker that may stand before it."""
    end: str | None = None
    """The marker after a call; None if it goes on to the end of the text."""
    opening: tuple[str, ...] = ()
    """Of a whole answer: what it begins with, whitespace left out. Only then can it be a call."""
    shown_by: str
    """What a chat template holds that asks for this format."""


TOOL_FORMATS: Mapping[str, ToolFormat] = {
    "mistral": ToolFormat(decode=decode_mistral, begin="[TOOL_CALLS]", shown_by="[TOOL_CALLS]"),
    "functiongemma": ToolFormat(
        decode=decode_gemma,
        begin="<start_function_call>",
        end="<end_function_call>",
        shown_by="<start_function_call>",
    ),
    "qwen3_coder": ToolFormat(decode=decode_xml, begin="<tool_call>", end="</tool_call>", shown_by="<function="),
    "hermes": ToolFormat(decode=decode_json, begin="<tool_call>", end="</tool_call>", shown_by="<tool_call>"),
    "pythonic": ToolFormat(
        decode=decode_python, begin="<|python_start|>", opening=("[",), shown_by="[func_name1(params_name1"
    ),
    "llama3_json": ToolFormat(
        decode=decode_json,
        begin="<|python_tag|>",
        opening=('{"name":', '{"type":"function",', '{"function":', '{"parameters":'),
        shown_by="Respond in the format {",
    ),
}
"""The first whose `shown_by` is in a chat template is its format."""
OPENAI = "openai"
"""The format of gpt-oss, which `harmony.py` reads: it says what is reasoning and content too."""


def format_of(template: str) -> str | None:
    """The name of the format that a chat template asks for, if it is known."""
    if "<|channel|>" in template and "<|call|>" in template:
        return OPENAI
    return next((name for name, one in TOOL_FORMATS.items() if one.shown_by in template), None)


_LOOK_CHARS = 256
"""Characters at the start of an answer that show whether it may be a call as a whole."""


class ToolCallParser:
    """Splits text into content and tool calls. A call is given out when it is complete; a text that begins as one and
    is none is content.

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
        if self._inside or (self._whole and text.strip()):
            self._close(text, "", parts)
        else:
            self._pass(text, parts)
        rest = "" if self._called else self._trimmed.finish()
        return parts + ([Content(rest)] if rest else [])

    def _step(self, parts: list[OutputPart]) -> bool:
        """Take one marker or all text up to it; whether there may be more."""
        form = self._form
        if self._whole:
            self._whole = self._may_be_whole()
            return not self._whole
        if self._inside:
            after = form.begin if form.end is None else form.end
            position, marker = find_first(self._text, [after], self._searched)
            self._searched = 0 if position >= 0 else max(0, len(self._text) - len(after))
            if position < 0:
                return False
            body, self._text = self._text[:position], self._text[position + len(marker) :]
            self._close(body, "" if form.end is None else form.end, parts)
            self._inside = form.end is None
            return True
        position, marker = find_first(self._text, [form.begin])
        split = position if position >= 0 else len(self._text) - open_len(self._text, [form.begin])
        self._pass(self._text[:split], parts)
        self._text = self._text[split + len(marker) :]
        self._inside = position >= 0
        return self._inside

    def _may_be_whole(self) -> bool:
        text = self._text[:_LOOK_CHARS].lstrip()
        begin = self._form.begin
        if text.startswith(begin) or begin.startswith(text):
            return True
        squeezed = "".join(text.split())
        return any(squeezed.startswith(one) or one.startswith(squeezed) for one in self._form.opening)

    def _close(self, body: str, end: str, parts: list[OutputPart]) -> None:
        """The calls in a body, or else the body as content."""
        whole = self._whole
        text = body.strip().removeprefix(self._form.begin) if whole else body
        calls = self._form.decode(text, self._tools) if len(text) <= MAX_CALL_CHARS else None
        if calls is None or (whole and any(call.name not in self._tools for call in calls)):
            self._pass(body if whole else self._form.begin + body + end, parts)
            return
        if not self._several:
            calls = [] if self._called else calls[:1]
        self._called = True
        self._trimmed.drop()
        parts += calls

    def _pass(self, text: str, parts: list[OutputPart]) -> None:
        if self._called and not self._several:
            return
        shown = self._trimmed.feed(text)
        if shown:
            parts.append(Content(shown))
