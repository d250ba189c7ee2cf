"""How a model's answers are split into reasoning, content and tool calls: decided by its chat template."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from flover.text import harmony
from flover.text.call_schemas import any_call
from flover.text.calls_or_text import JSON_FORMATS, LIST_OF_CALLS
from flover.text.output_parts import Arguments, Content, OutputParser, OutputPart, PlainParser, ToolCall, TrimmedText
from flover.text.reasoning import MARKERS, ReasoningParser, is_open, reasoning_markers
from flover.text.tool_arguments import JsonArguments
from flover.text.tool_calls import ToolCallParser
from flover.text.tool_decoders import Tools
from flover.text.tool_formats import OPENAI, TOOL_FORMATS, format_of

TOOL_PARSERS = (*TOOL_FORMATS, OPENAI)
"""The names of tool call parsers, as in vLLM."""
REASONING_PARSERS: Mapping[str, tuple[str, str] | None] = {
    "deepseek_r1": MARKERS[0],
    "qwen3": MARKERS[0],
    "mistral": MARKERS[1],
    "none": None,
}
"""The markers of vLLM's reasoning parsers; "none" leaves reasoning in the content."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputFormat:
    """What the answers of one model look like. `tools` is a name of `TOOL_PARSERS`."""

    tools: str | None = None
    reasoning: tuple[str, str] | None = None

    @classmethod
    def of(cls, template: str, tool_parser: str | None = None, reasoning_parser: str | None = None) -> OutputFormat:
        """That of a chat template, unless a parser is named."""
        known = reasoning_markers(template) if reasoning_parser is None else REASONING_PARSERS[reasoning_parser]
        return cls(tools=tool_parser or format_of(template), reasoning=known)

    @property
    def is_harmony(self) -> bool:
        """Whether every answer has the form of gpt-oss."""
        return self.tools == OPENAI

    @property
    def thinking_markers(self) -> tuple[str, str] | None:
        """What reasoning begins and ends with, if that is known."""
        return harmony.THINKING if self.is_harmony else self.reasoning

    def without_reasoning(self) -> OutputFormat:
        """The same, with reasoning left in the content."""
        return replace(self, reasoning=None)

    def markers(self, *, calls: bool) -> list[str]:
        """The texts that a parser looks for: they must not be hidden as special tokens."""
        if self.is_harmony:
            return [harmony.MESSAGE]
        found = list(self.reasoning or ())
        if calls and self.tools is not None:
            form = TOOL_FORMATS[self.tools]
            found += [form.begin] if form.end is None else [form.begin, form.end]
        return found

    def parser(
        self,
        prompt_end: str,
        *,
        tools: Tools | None = None,
        several: bool = True,
        forced: Forced | None = None,
        as_json: bool = False,
    ) -> OutputParser:
        """A parser for one sequence after a prompt that ends with `prompt_end`. Without `tools` nothing is a call;
        `as_json` where a grammar of `CallsOrText` writes the calls."""
        if forced is not None:
            if forced.name is not None:
                return NamedCallParser(forced.name)
            return ToolCallParser(LIST_OF_CALLS, forced.tools, several=several)
        if self.is_harmony:
            return harmony.HarmonyParser(calls=tools is not None, several=several)
        rest: OutputParser = PlainParser()
        if tools is not None and self.tools is not None:
            forms = JSON_FORMATS if as_json else TOOL_FORMATS
            rest = ToolCallParser(forms[self.tools], tools, several=several)
        if self.reasoning is None:
            return rest
        return ReasoningParser(self.reasoning, inside=is_open(prompt_end, self.reasoning), rest=rest)


@dataclass(frozen=True, slots=True)
class Forced:
    """A call that must be made: of one function, or of any of several."""

    tools: Tools
    name: str | None = None

    def schema(self, *, several: bool) -> dict[str, Any]:
        """The JSON Schema of the answer: the arguments of the named function; else a list of calls."""
        if self.name is not None:
            return dict(self.tools[self.name])
        found: dict[str, Any] = {"type": "array", "minItems": 1, "items": any_call(self.tools, "/items")}
        return found if several else found | {"maxItems": 1}


class NamedCallParser:
    """Reads an answer that is the arguments of one function."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._reader = JsonArguments()
        self._begun = False
        self._rest = TrimmedText()

    def feed(self, text: str) -> list[OutputPart]:
        """Take more text; what follows the arguments is content."""
        parts: list[OutputPart] = []
        if text and not self._begun:
            self._begun = True
            parts.append(ToolCall(self._name))
        found, rest = ("", text) if self._reader.ended or self._reader.broken else self._reader.feed(text)
        shown = self._rest.feed(rest)
        return [*parts, *([Arguments(found)] if found else []), *([Content(shown)] if shown else [])]

    def finish(self) -> list[OutputPart]:
        """Whitespace that is held back is dropped."""
        return []
