"""An answer that is either calls of tools or JSON under a constraint, or calls of some tools alone and any text before
them: its grammar, and the parser of what it accepts.

A call begins as the model's format says, which is where the model decides; after that the grammar writes its name and
arguments as JSON, whatever the format's own form.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from flover.structured_outputs import StructuredOutputsParams, json_rule
from flover.text.call_schemas import any_call
from flover.text.harmony import HarmonyParser
from flover.text.output_parts import OutputParser, OutputPart, PlainParser
from flover.text.tool_arguments import json_head
from flover.text.tool_calls import ToolCallParser
from flover.text.tool_decoders import Tools
from flover.text.tool_formats import OPENAI, TOOL_FORMATS, ToolFormat

_BARE = "llama3_json"
"""The form whose calls begin as a text does: one schema has both."""
_CALL = '{"name": NAME, "arguments": ARGUMENTS}'
_LLAMA_CALL = '{"name": NAME, "parameters": ARGUMENTS}'


@dataclass(frozen=True, slots=True, kw_only=True)
class _Form:
    """How calls and texts are written. NAME is the name as JSON, BARE_NAME as it is, ARGUMENTS an object."""

    opening: str = ""
    call: str = _CALL
    between: str | None = None
    """What separates two calls; None if there can only be one."""
    closing: str = ""
    reasoning: bool = False
    """Whether gpt-oss's reasoning may come before."""
    text: str = ""
    """What a text begins with."""


_TAGGED = _Form(call=f"<tool_call>\n{_CALL}\n</tool_call>", between="\n")
_FORMS: Mapping[str, _Form] = {
    "hermes": _TAGGED,
    "qwen3_coder": _TAGGED,
    "functiongemma": _Form(call=f"<start_function_call>{_CALL}<end_function_call>", between=""),
    "mistral": _Form(opening="[TOOL_CALLS][", between=", ", closing="]"),
    "pythonic": _Form(opening="[", call=_LLAMA_CALL, between=", ", closing="]"),
    OPENAI: _Form(
        call="<|channel|>commentary to=functions.BARE_NAME <|constrain|>json<|message|>ARGUMENTS",
        reasoning=True,
        text="<|channel|>final<|message|>",
    ),
}
_REASONING = ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant")
_HEADER = "<|channel|>"
_WHOLE = {_BARE: "{", "pythonic": "["}
"""Where a call is the whole answer, the character that it begins with, and no text does."""
_NEVER = "\0"
"""A marker that JSON cannot hold."""
LIST_OF_CALLS = replace(TOOL_FORMATS[_BARE], opening=("[",))
"""A list of objects with `name` and `parameters`."""
JSON_FORMATS: Mapping[str, ToolFormat] = {
    **TOOL_FORMATS,
    "functiongemma": replace(TOOL_FORMATS["functiongemma"], head=json_head),
    "pythonic": replace(LIST_OF_CALLS, begin=_NEVER),
    _BARE: replace(TOOL_FORMATS[_BARE], begin=_NEVER, opening=('{"name":',)),
}
"""The formats as a grammar of `CallsOrText` has them written."""


@dataclass(frozen=True, slots=True)
class CallsOrText:
    """Answers of a model that writes calls in this format, one of `TOOL_PARSERS`. Several calls, if there may be and
    the format has them.

    Where calls are bare JSON, a text that begins as the call of a tool is one: "any JSON object" is then one whose
    name is not that of a tool, and only a schema that itself describes such a call can let one pass.
    """

    form: str
    tools: Tools
    several: bool = True
    reasons: bool = True
    """Whether gpt-oss may reason first: a mask of a budget and one of a grammar do not go together."""

    def grammar(
        self,
        text: StructuredOutputsParams | None,
        special: Mapping[str, int],
        reasoning: tuple[str, str] | None = None,
    ) -> StructuredOutputsParams:
        """What the answer must be, if a text must be `text`, or may be any (None): then calls may also follow a text
        and reasoning between these markers. `special` are the ids of special tokens by their text. Raises
        `RequestError` if it is too large."""
        if text is None:
            return StructuredOutputsParams(grammar="\n".join(self._beside_any_text(special, reasoning or ())))
        if self.form == _BARE:
            unlike = {"type": "object", "properties": {"name": _other_than([*self.tools])}}
            other = json.loads(text.json) if isinstance(text.json, str) else unlike
            return StructuredOutputsParams(json=any_call(self.tools, text=other))
        form = _FORMS[self.form]
        rules = self._start(form, special)
        many = "" if form.between is None or not self.several else f" ({_literal(form.between, special)} call)*"
        rules += [
            f"calls: {_literal(form.opening, special)} call{many} {_literal(form.closing, special)}",
            f"text: {_literal(form.text, special)} {json_rule(text)}",
            *self._calls(form, special, 0),
        ]
        return StructuredOutputsParams(grammar="\n".join(rules))

    def _beside_any_text(self, special: Mapping[str, int], reasoning: Iterable[str]) -> list[str]:
        """Rules of an answer that is text, and calls after it where the format has them in a text."""
        if self.form == OPENAI:
            form = _FORMS[self.form]
            text = f"text: {_literal(form.text, special)} TEXT"
            return [*self._start(form, special), "calls: call", text, _text(_HEADER), *self._calls(form, special, 0)]
        marks = [_literal(one, special) for one in reasoning if one in special]
        before = f"(TEXT ({' | '.join(marks)}))* " if marks else ""
        if self.form in _WHOLE:
            first = _WHOLE[self.form]
            rules = [f"start: {before}(SPACE calls | OTHER)", r"SPACE: /\s*/", _text(None)]
            rules.append(rf"OTHER: /(\s*[^\s{re.escape(first)}](.|\n)*)?/")
            if self.form == _BARE:
                return [*rules, f"calls: {json_rule(StructuredOutputsParams(json=any_call(self.tools)))}"]
            form, begin, more = _FORMS[self.form], "", _FORMS[self.form].between
            opening = form.opening
        else:
            form, begin = _FORMS[self.form], TOOL_FORMATS[self.form].begin
            # The marker of the first call ends the text before it, whether it is one token or many.
            lead = (
                f"lead: TEXT {_literal(begin, special)}" if begin in special else f"lead[lazy]: ANY {json.dumps(begin)}"
            )
            rules = [f"start: {before}(lead calls | TEXT)", lead, _text(begin if begin in special else None)]
            rules.append(r"ANY: /(.|\n)*/")
            opening = form.opening.removeprefix(begin)
            more = form.between if form.opening else f"{form.between}{begin}"
        skipped = 0 if form.opening else len(begin)
        many = f" ({_literal(more or '', special)} call)*" if self.several else ""
        rules.append(f"calls: {_literal(opening, special)} call{many} {_literal(form.closing, special)}")
        return rules + self._calls(form, special, skipped)

    def _start(self, form: _Form, special: Mapping[str, int]) -> list[str]:
        if not (form.reasoning and self.reasons):
            return ["start: calls | text"]
        begin, end = (_literal(marker, special) for marker in _REASONING)
        return ["start: reasoning? (calls | text)", rf"reasoning: {begin} /(.|\n)*/ {end}"]

    def _calls(self, form: _Form, special: Mapping[str, int], skipped: int) -> list[str]:
        """The rules of a call of any of the tools, less its first `skipped` characters."""
        rules = [f"call: {' | '.join(f'call{number}' for number in range(len(self.tools)))}"]
        for number, (name, schema) in enumerate(self.tools.items()):
            quoted = json.dumps(name, ensure_ascii=False)
            head, tail = form.call[skipped:].replace("BARE_NAME", name).replace("NAME", quoted).split("ARGUMENTS")
            arguments = json_rule(StructuredOutputsParams(json=dict(schema)))
            rules.append(f"call{number}: {_literal(head, special)} arguments{number} {_literal(tail, special)}")
            rules.append(f"arguments{number}: {arguments}")
        return rules

    def parser(self) -> OutputParser:
        """A parser for one sequence."""
        if self.form == OPENAI:
            return HarmonyParser(calls=True, several=self.several)
        form = JSON_FORMATS[self.form]
        calls = ToolCallParser(form, self.tools, several=self.several)
        return calls if form.opening else _MarkedParser(form.begin, calls)


class _MarkedParser:
    """An answer is calls if it begins with the marker, else content as it is, which may hold the marker."""

    def __init__(self, begin: str, calls: OutputParser) -> None:
        self._begin = begin
        self._calls = calls
        self._text = ""
        self._parser: OutputParser | None = None

    def feed(self, text: str) -> list[OutputPart]:
        """Take more text; the parts that are certain now."""
        if self._parser is None:
            self._text += text
            if len(self._text) < len(self._begin) and self._begin.startswith(self._text):
                return []
            self._parser = self._calls if self._text.startswith(self._begin) else PlainParser()
            text = self._text
        return self._parser.feed(text)

    def finish(self) -> list[OutputPart]:
        """The parts held back: the beginning of a marker is content."""
        return PlainParser().feed(self._text) if self._parser is None else self._parser.finish()


def _text(without: str | None) -> str:
    """The terminal of any text without this one."""
    if without is None:
        return r"TEXT: /(.|\n)*/"
    return rf"TEXT: /(.|\n)*/ & ~/(.|\n)*{_escaped(without)}(.|\n)*/"


def _escaped(text: str) -> str:
    return re.escape(text).replace("/", r"\/")


def _literal(text: str, special: Mapping[str, int]) -> str:
    """Terms of a grammar that match this text alone, special tokens as such."""
    if not text:
        return ""
    names = sorted(special, key=len, reverse=True)
    pieces = re.split(f"({'|'.join(map(re.escape, names))})", text) if names else [text]
    return " ".join(
        f"<[{special[one]}]>" if one in special else json.dumps(one, ensure_ascii=False) for one in pieces if one
    )


def _other_than(names: list[str]) -> dict[str, object]:
    """The JSON Schema of any value but one of these strings."""
    after: dict[str, set[str]] = {}
    for name in names:
        for position, one in enumerate(name):
            after.setdefault(name[:position], set()).add(one)
    found = [re.escape(one) for one in after if one not in names]
    found += [f"{re.escape(one)}[^{''.join(map(_in_class, sorted(more)))}](.|\\n)*" for one, more in after.items()]
    found += [f"{re.escape(name)}(.|\\n)+" for name in names if name not in after]
    text = {"type": "string", "pattern": f"^({'|'.join(found)})$"}
    return {"anyOf": [text, {"type": ["null", "boolean", "number", "array", "object"]}]}


def _in_class(character: str) -> str:
    return f"\\{character}" if character in "\\]^-[&~" else character
