"""Calls of tools or JSON of a format: what the grammar of each form of calls accepts, and how it is split."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pytest

from flover.grammar.compiler import Compiler
from flover.structured_outputs import StructuredOutputsParams, Vocabulary
from flover.text.calls_or_text import CallsOrText
from flover.text.output_format import TOOL_PARSERS, OutputFormat
from flover.text.output_parts import parse_output

TOOLS: dict[str, dict[str, Any]] = {
    "f": {
        "type": "object",
        "properties": {"x": {"type": "integer"}, "s": {"type": "string"}},
        "required": ["x"],
        "additionalProperties": False,
    },
    "fi^-]é": {"type": "object", "properties": {}, "additionalProperties": False},
}
ANSWER = StructuredOutputsParams(
    json={"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}
)
SPECIAL = {
    name: 256 + i for i, name in enumerate(("[TOOL_CALLS]", "<|channel|>", "<|message|>", "<|end|>", "<|start|>"))
}
EOS = 256 + len(SPECIAL)
VOCABULARY = Vocabulary(
    [*(bytes([i]) for i in range(256)), *(name.encode() for name in SPECIAL), b"<eos>"], [*SPECIAL.values(), EOS]
)
COMPILER = Compiler(VOCABULARY, EOS + 1, [EOS])
SEVERAL: dict[str, str] = {
    "hermes": "<tool_call>\n{}\n</tool_call>\n<tool_call>\n{}\n</tool_call>",
    "functiongemma": "<start_function_call>{}<end_function_call><start_function_call>{}<end_function_call>",
    "mistral": "[TOOL_CALLS][{}, {}]",
    "pythonic": "[{}, {}]",
}


def accepts(constraint: StructuredOutputsParams, text: str, tokens: Mapping[str, int] = SPECIAL) -> bool:
    """Whether the masks lead through the text, special tokens as such, and allow the end after it."""
    state = COMPILER.state(constraint, ())
    while True:
        allowed = np.unpackbits(state.words().view(np.uint8), bitorder="little")
        if not text:
            return bool(allowed[EOS])
        special = next((name for name in tokens if text.startswith(name)), None)
        head = special or text[0]
        for token in [tokens[special]] if special else head.encode():
            if not np.unpackbits(state.words().view(np.uint8), bitorder="little")[token]:
                return False
            state.add(token)
        text = text[len(head) :]


def call(form: str, arguments: str, name: str = "f") -> str:
    if form == "openai":
        return f"<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>{arguments}"
    key = "parameters" if form in ("llama3_json", "pythonic") else "arguments"
    return f'{{"name": {json.dumps(name, ensure_ascii=False)}, "{key}": {arguments}}}'


def one_call(form: str, arguments: str) -> str:
    written = call(form, arguments)
    return SEVERAL.get("hermes" if form == "qwen3_coder" else form, "{}").replace("{}", written, 1).split(
        {"mistral": ", {}", "pythonic": ", {}", "functiongemma": "<start_function_call>{}"}.get(
            form, "\n<tool_call>\n{}"
        )
    )[0] + ("]" if form in ("mistral", "pythonic") else "")


@pytest.mark.parametrize("form", TOOL_PARSERS)
def test_either_calls_or_a_text(form: str) -> None:
    either = CallsOrText(form, TOOLS)
    constraint = either.grammar(ANSWER, SPECIAL)
    begin = "<|channel|>final<|message|>" if form == "openai" else ""
    # A text is content as it is, also where it holds the marker of a call.
    text = '{"a": "<tool_call>\\n{} <start_function_call> '
    text += '<|python_tag|>[TOOL_CALL"}'
    assert accepts(constraint, begin + text)
    found = parse_output(either.parser(), begin + text)
    assert (found.content, found.calls) == (text, [])
    # A call has arguments of its schema, and nothing beside it.
    written = one_call(form, '{"x": 1, "s": "</tool_call>\\"é"}')
    assert accepts(constraint, written), written
    found = parse_output(either.parser(), written)
    (only,) = found.calls
    assert (found.content, only.name, json.loads(only.arguments)) == ("", "f", {"x": 1, "s": '</tool_call>"é'})
    for bad in (
        one_call(form, '{"x": "1"}'),
        one_call(form, "{}"),
        f" {written}",
        written + text,
        "",
        begin + '{"b": 1}',
    ):
        assert not accepts(constraint, bad), bad
    if form == "openai":
        thought = f"<|channel|>analysis<|message|>hm\n<|end|><|start|>assistant{begin}{text}"
        assert accepts(constraint, thought)
        silent = CallsOrText(form, TOOLS, reasons=False).grammar(ANSWER, SPECIAL)
        assert accepts(silent, begin + text) and not accepts(silent, thought)
        found = parse_output(either.parser(), thought)
        assert (found.reasoning, found.content) == ("hm\n", text)


@pytest.mark.parametrize("form", SEVERAL)
def test_several_calls_only_where_there_may_be(form: str) -> None:
    written = SEVERAL[form].replace("{}", call(form, '{"x": 1}'), 1).replace("{}", call(form, "{}", "fi^-]é"), 1)
    either = CallsOrText(form, TOOLS)
    assert accepts(either.grammar(ANSWER, SPECIAL), written)
    found = parse_output(either.parser(), written)
    assert [(one.name, json.loads(one.arguments)) for one in found.calls] == [("f", {"x": 1}), ("fi^-]é", {})]
    assert not accepts(CallsOrText(form, TOOLS, several=False).grammar(ANSWER, SPECIAL), written)


def test_any_object_is_one_that_does_not_look_like_a_call() -> None:
    """Where calls are bare JSON, arguments cannot evade their schema as a text."""
    constraint = CallsOrText("llama3_json", TOOLS).grammar(StructuredOutputsParams(json_object=True), SPECIAL)
    for good in (
        "{}",
        '{"name": "g", "parameters": {}}',
        '{"name": "", "a": 1}',
        '{"name": "fi^-]é!"}',
        '{"name": "fi^-x"}',
    ):
        assert accepts(constraint, good), good
    assert accepts(constraint, '{"a": {"name": "f"}}') and accepts(constraint, '{"name": {"name": "f"}}')
    for bad in ('{"name": "f", "parameters": {}}', '{"name": "fi^-]é"}', '{"name": "f"}'):
        assert not accepts(constraint, bad), bad


@pytest.mark.parametrize(("form", "special"), [*((form, SPECIAL) for form in TOOL_PARSERS), ("mistral", {})])
def test_any_text_and_calls_of_some_tools(form: str, special: dict[str, int]) -> None:
    """The marker of Mistral's calls and those of gpt-oss are tokens, but in the last case."""
    alone = {"f": TOOLS["f"]}
    constraint = CallsOrText(form, alone).grammar(None, special, ("<think>", "</think>"))
    parser = partial(OutputFormat(tools=form, reasoning=("<think>", "</think>")).parser, "", tools=alone, as_json=True)
    begin = "<|channel|>final<|message|>" if form == "openai" else ""
    for text in ("", "1 < 2 {} [x]\n", "No <tool call [TOOL"):
        assert accepts(constraint, begin + text, special)
        assert (parse_output(parser(), begin + text).content, parse_output(parser(), begin + text).calls) == (text, [])
    written = one_call(form, '{"x": 1}')
    other = written.replace('"f"', '"g"').replace("functions.f", "functions.g")
    assert other != written
    leads = [""] if form in ("pythonic", "llama3_json", "openai") else ["", "<think>hm</think>", "Let me see. "]
    for lead in leads:
        assert accepts(constraint, lead + written, special)
        found = parse_output(parser(), lead + written)
        assert [(one.name, json.loads(one.arguments)) for one in found.calls] == [("f", {"x": 1})]
        assert lead in ("", f"<think>{found.reasoning}</think>", f"{found.content} ")
        for bad in (other, one_call(form, '{"x": "1"}'), one_call(form, "{}")):
            assert not accepts(constraint, lead + bad, special), lead + bad
    if form in SEVERAL:
        twice = SEVERAL[form].replace("{}", call(form, '{"x": 1}'))
        assert accepts(constraint, twice, special) and len(parse_output(parser(), twice).calls) == 2
        assert not accepts(CallsOrText(form, alone, several=False).grammar(None, special), twice, special)
