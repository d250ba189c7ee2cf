"""Splits the reasoning that a model writes between two markers from the answer after it."""

from __future__ import annotations

from collections.abc import Sequence

from flover.text.output_parts import OutputParser, OutputPart, Reasoning, TrimmedText, open_len

MARKERS: Sequence[tuple[str, str]] = (("<think>", "</think>"), ("[THINK]", "[/THINK]"))
"""Start and end of reasoning: DeepSeek, Qwen and many others; Mistral."""


def reasoning_markers(template: str) -> tuple[str, str] | None:
    """The markers that a chat template writes around reasoning, if any."""
    return next((markers for markers in MARKERS if markers[1] in template), None)


def is_open(prompt: str, markers: tuple[str, str]) -> bool:
    """Whether a prompt ends inside reasoning, so that the model continues it."""
    return prompt.rstrip().endswith(markers[0])


class ReasoningParser:
    """Splits off reasoning at the start of a text, and gives the text after it to another parser.

    Without a start marker, and not `inside`, all text is the answer. Whitespace around reasoning is dropped.
    """

    def __init__(self, markers: tuple[str, str], *, inside: bool, rest: OutputParser) -> None:
        self._start, self._end = markers
        self._rest = rest
        self._text = ""
        self._inside = inside
        self._answering = False
        self._trimmed = TrimmedText()
        self._skips_space = False

    def feed(self, text: str) -> list[OutputPart]:
        """Take more text; the parts that are certain now."""
        self._text += text
        parts: list[OutputPart] = []
        if not self._inside and not self._answering:
            self._begin()
        if self._inside:
            self._reason(parts)
        if self._answering:
            text, self._text = self._text, ""
            if self._skips_space:
                text = text.lstrip()
                self._skips_space = not text
            parts += self._rest.feed(text)
        return parts

    def finish(self) -> list[OutputPart]:
        """The parts held back, at the end of the text."""
        parts: list[OutputPart] = []
        if self._inside:
            rest = self._trimmed.feed(self._text)
            parts += [Reasoning(rest)] if rest else []
        elif self._text:
            parts += self._rest.feed(self._text)
        self._text = ""
        return parts + self._rest.finish()

    def _begin(self) -> None:
        text = self._text.lstrip()
        if text.startswith(self._start):
            self._inside, self._text = True, text[len(self._start) :]
        elif not self._start.startswith(text):
            self._answering = True

    def _reason(self, parts: list[OutputPart]) -> None:
        position = self._text.find(self._end)
        split = position if position >= 0 else len(self._text) - open_len(self._text, [self._end])
        text = self._trimmed.feed(self._text[:split])
        parts += [Reasoning(text)] if text else []
        self._text = self._text[split:]
        if position >= 0:
            self._text = self._text[len(self._end) :]
            self._inside, self._answering, self._skips_space = False, True, True
