"""Reasoning, content and tool calls of every family, and the same parts however the text is cut."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from support.constraints import walk

from flover.structured_outputs import StructuredOutputsParams
from flover.text.output_format import Forced, OutputFormat
from flover.text.output_parts import OutputParser, ParsedOutput, parse_output

TOOLS: dict[str, dict[str, Any]] = {
    "f": {"type": "object", "properties": {"x": {"type": "integer"}, "s": {"type": "string"}}},
    "code": {
        "type": "object",
        "properties": {
            "zip": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "note": {"type": ["string", "null"]},
            "size": {"enum": ["1", "2"]},
            "many": {"type": ["integer", "string"]},
        },
    },
    "g.h": {"type": "object", "properties": {}},
}
F, G = ("f", {"x": 1, "s": "a}é"}), ("g.h", {})
HERMES = '<tool_call>\n{"name": "f", "arguments": {"x": 1, "s": "a}é"}}\n</tool_call>'
THINK = {"reasoning": ("<think>", "</think>")}
# format, end of the prompt, output, reasoning, content, calls
CASES: list[tuple[dict[str, Any], str, str, str, str, list[Any]]] = [
    ({"tools": "hermes"}, "", f"Let me see.\n{HERMES}", "", "Let me see.", [F]),
    (
        {"tools": "hermes"},
        "",
        f'{HERMES}\n<tool_call>{{"name": "g.h", "arguments": {{}}}}</tool_call>\n',
        "",
        "",
        [F, G],
    ),
    ({"tools": "hermes"}, "", HERMES.removesuffix("</tool_call>"), "", "", [F]),
    (
        {"tools": "hermes"},
        "",
        '<tool_call>[{"name": "f", "arguments": {"s": "</tool_call>\\u00e9\\n", "x": [1, -2.5e3, {"": null}, true]}, '
        '"id": "7"}, {"arguments": {}, "name": "g.h"}]</tool_call> a',
        "",
        "a",
        [("f", {"s": "</tool_call>é\n", "x": [1, -2500.0, {"": None}, True]}), G],
    ),
    (
        {"tools": "hermes"},
        "",
        '<tool_call>{"name": "</tool_call>", "arguments": {"x": 1}}</tool_call>',
        "",
        '<tool_call>{"name": "</tool_call>", "arguments": {"x": 1}}</tool_call>',
        [],
    ),
    ({"tools": "hermes"}, "", HERMES.replace("}}", "}"), "", "", [F]),
    ({"tools": "hermes"}, "", "a <tool_call>no</tool_call> b\n", "", "a <tool_call>no</tool_call> b\n", []),
    ({"tools": "hermes"}, "", 'cut <tool_call>{"name": "f"', "", 'cut <tool_call>{"name": "f"', []),
    ({"tools": "hermes"}, "", '<tool_call>{"name": "f", "arguments": {"x": [1, "é', "", "", [("f", '{"x": [1, "é')]),
    (
        {"tools": "hermes"},
        "",
        f'<tool_call>{{"name": "f", "arguments": {{"x": 01}}}}</tool_call>{HERMES}',
        "",
        "1}}",
        [("f", '{"x": 0'), F],
    ),
    ({"tools": "hermes", **THINK}, "", f"<think>\nhm </th\n</think>\n\nOK {HERMES}", "hm </th", "OK", [F]),
    ({"tools": "hermes", **THINK}, "a:<think>\n", "hm </think> yes", "hm", "yes", []),
    ({"tools": "hermes", **THINK}, "a:<think>\n\n</think>\n", "yes <think>", "", "yes <think>", []),
    ({"tools": "hermes", **THINK}, "a:<think>", f"only {HERMES} \n", f"only {HERMES}", "", []),
    (THINK, "", "\n no <think> here", "", "\n no <think> here", []),
    (
        {"tools": "qwen3_coder"},
        "",
        "<tool_call>\n<function=f>\n<parameter=x>\n1\n</parameter>\n<parameter=s>\na}é\n</parameter>\n</function>\n"
        "</tool_call>",
        "",
        "",
        [F],
    ),
    (
        {"tools": "qwen3_coder"},
        "",
        "<tool_call><function=code><parameter=zip>12345</parameter><parameter=note>null</parameter><parameter=size>1"
        "</parameter><parameter=many>2</parameter></function></tool_call>",
        "",
        "",
        [("code", {"zip": "12345", "note": None, "size": "1", "many": 2})],
    ),
    ({"tools": "mistral"}, "", '[TOOL_CALLS] [{"name": "f", "arguments": {"x": 1, "s": "a}é"}}]', "", "", [F]),
    (
        {"tools": "qwen3_coder"},
        "",
        '<tool_call><function=f><parameter=s>\n\n"a"\n</para\n\n<parameter=x>[1,\n2]</parameter></function></tool_call>'
        "<tool_call><function=g.h></tool_call><tool_call><function=f>\n<parameter=s>cut</param",
        "",
        "",
        [("f", {"s": '\n"a"\n</para\n', "x": [1, 2]}), G, ("f", '{"s": "cut')],
    ),
    ({"tools": "mistral"}, "", 'Hi [TOOL_CALLS]f[ARGS]{"x": 1, "s": "a}é"}[TOOL_CALLS]g.h{}', "", "Hi", [F, G]),
    ({"tools": "llama3_json"}, "", '{"name": "f", "parameters": {"x": 1, "s": "a}é"}}', "", "", [F]),
    (
        {"tools": "llama3_json"},
        "",
        ' <|python_tag|>{"name": "f", "parameters": {"x": 1, "s": "a}é"}}; {"name": "g.h", "parameters": {}}',
        "",
        "",
        [F, G],
    ),
    (
        {"tools": "llama3_json"},
        "",
        '{"type": "function", "function": {"name": "f", "parameters": {"x": 1, "s": "a}é"}}} done',
        "",
        "done",
        [F],
    ),
    ({"tools": "llama3_json"}, "", '{"name": "h", "parameters": {}}', "", '{"name": "h", "parameters": {}}', []),
    ({"tools": "llama3_json"}, "", '{"name": "Ann", "age": 5} is JSON', "", '{"name": "Ann", "age": 5} is JSON', []),
    ({"tools": "llama3_json"}, "", '{"age": 5}', "", '{"age": 5}', []),
    ({"tools": "pythonic"}, "", '[f(x=1, s="a}é"), g.h()]', "", "", [F, G]),
    ({"tools": "pythonic"}, "", "[f(x=open('a'))]", "", "[f(x=open('a'))]", []),
    (
        {"tools": "functiongemma"},
        "",
        "<start_function_call>call:f{x:1,s:<escape>a}é<escape>}<end_function_call>",
        "",
        "",
        [F],
    ),
    (
        {"tools": "functiongemma"},
        "",
        '<start_function_call>call:f{s: a b ,x:[1,{y:<escape>"<esc\n<escape>}]}<end_function_call><start_function_call>'
        "call:f{s:<escape>cut<esc",
        "",
        "",
        [("f", {"s": "a b", "x": [1, {"y": '"<esc\n'}]}), ("f", '{"s":"cut')],
    ),
    (
        {"tools": "openai"},
        "",
        "<|channel|>commentary to=functions.f<|message|>the code: print(1)\n<|call|>",
        "",
        "the code: print(1)",
        [("f", "")],
    ),
    (
        {"tools": "openai"},
        "<|start|>assistant",
        "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>commentary to=functions.f "
        '<|constrain|>json<|message|>{"x": 1, "s": "a}é"}<|call|>',
        "hm",
        "",
        [F],
    ),
    (
        {"tools": "openai"},
        "",
        "<|channel|>commentary to=functions.g.h<|message|><|call|><|start|>assistant<|channel|>commentary "
        "to=functions.f "
        '<|message|>\n{\'x\'<|end|><|channel|>commentary to=functions.f<|message|>{"s": "<|call|>',
        "",
        "'x'",
        [G, ("f", "{"), ("f", '{"s": "<|call|>')],
    ),
    (
        {"tools": "openai"},
        "",
        "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>yes",
        "hm",
        "yes",
        [],
    ),
]


def summary(found: ParsedOutput) -> tuple[str, str, list[Any]]:
    return found.reasoning, found.content, [(call.name, read(call.arguments)) for call in found.calls]


def read(arguments: str) -> Any:
    """The arguments, or the text of those that are cut off."""
    try:
        return json.loads(arguments)
    except ValueError:
        return arguments


def in_pieces(parser: OutputParser, pieces: list[str]) -> ParsedOutput:
    found = ParsedOutput()
    for part in [*(part for piece in pieces for part in parser.feed(piece)), *parser.finish()]:
        found.add(part)
    return found


@pytest.mark.parametrize(("form", "prompt", "text", "reasoning", "content", "calls"), CASES)
def test_parts_are_the_same_at_every_split(
    form: dict[str, Any], prompt: str, text: str, reasoning: str, content: str, calls: list[Any]
) -> None:
    def parser() -> OutputParser:
        return OutputFormat(**form).parser(prompt, tools=TOOLS)

    assert summary(parse_output(parser(), text)) == (reasoning, content, calls)
    cuts = [[text[:i], text[i:j], text[j:]] for i in range(len(text)) for j in range(i, len(text), 17)]
    for pieces in [list(text), *cuts]:
        assert summary(in_pieces(parser(), pieces)) == (reasoning, content, calls), pieces


def test_one_call_at_most_if_they_are_not_parallel() -> None:
    for form, prompt, text, _, _, calls in CASES:
        found = parse_output(OutputFormat(**form).parser(prompt, tools=TOOLS, several=False), text)
        assert summary(found)[2] == calls[:1]


@pytest.mark.parametrize(
    ("form", "begin"),
    [
        ("hermes", "<tool_call>"),
        ("qwen3_coder", "<tool_call>"),
        ("qwen3_coder", "<tool_call><function=f><parameter=x>"),
        ("mistral", "[TOOL_CALLS]f"),
        ("mistral", "[TOOL_CALLS]f[ARGS]"),
        ("functiongemma", "<start_function_call>call:f"),
        ("functiongemma", "<start_function_call>call:f{x:"),
        ("llama3_json", '{"name": "f",'),
        ("pythonic", "[f(x="),
    ],
)
def test_a_call_that_never_goes_on_costs_little_per_piece(form: str, begin: str) -> None:
    """A client can make a model write it, and it is read on the event loop."""
    parser = OutputFormat(tools=form).parser("", tools=TOOLS)
    parser.feed(begin + 5000 * " ")
    began = time.thread_time()
    for _ in range(200):
        parser.feed(" ")
    assert time.thread_time() - began < 0.2


def test_calls_that_nest_deeper_than_a_parser_can_are_content() -> None:
    deep = "[" * 50_000
    for name, text in {
        "hermes": f"<tool_call>{deep}</tool_call>",
        "mistral": f"[TOOL_CALLS]{deep}",
        "pythonic": deep[:9000],
        "functiongemma": f"<start_function_call>call:{{x:{deep}<end_function_call>",
    }.items():
        assert parse_output(OutputFormat(tools=name).parser("", tools=TOOLS), text).content == text


def test_a_format_is_found_in_the_template() -> None:
    found = {
        "{{ '<tool_call>' }}": "hermes",
        "{{ '<tool_call><function=' }}": "qwen3_coder",
        "[TOOL_CALLS]": "mistral",
        'Respond in the format {"name": function name': "llama3_json",
        "<|channel|> <|call|>": "openai",
        "no tools": None,
    }
    assert {template: OutputFormat.of(template).tools for template in found} == found
    assert OutputFormat.of("<think></think>").reasoning == ("<think>", "</think>")
    assert OutputFormat.of("</think>", "mistral", "none") == OutputFormat(tools="mistral")


def test_forced_calls() -> None:
    forced = Forced(TOOLS)
    assert forced.schema(several=False)["maxItems"] == 1
    text = '[{"name": "f", "parameters": {"x": 1, "s": "a}é"}}, {"name": "g.h", "parameters": {}}]'
    assert summary(parse_output(OutputFormat().parser("", forced=forced), text)) == ("", "", [F, G])
    named = Forced(TOOLS, "g.h")
    assert named.schema(several=True) == TOOLS["g.h"]
    assert summary(parse_output(OutputFormat().parser("", forced=named), "{}")) == ("", "", [G])
    for pieces in (["{} a \n b\n"], ["{}", " a", " \n", " b", "\n"]):
        assert summary(in_pieces(OutputFormat().parser("", forced=named), pieces)) == ("", "a \n b", [G])
    assert summary(parse_output(OutputFormat().parser("", forced=forced), '[{"na')) == ("", '[{"na', [])


def test_references_of_a_tools_schema_lead_into_it() -> None:
    """As Pydantic writes nested models, for each of several tools."""
    inner = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
    nested = {"$id": "n", "$defs": {"A": inner}, "type": "object", "properties": {"a": {"$ref": "#/$defs/A"}}}
    tree = {"type": "object", "properties": {"$ref": {"const": {"$ref": "#/a"}}, "next": {"$ref": "#"}}}
    schema = Forced({"n": nested, "t": tree}).schema(several=False)
    for call in (
        {"name": "n", "parameters": {"a": {"x": 1}}},
        {"name": "t", "parameters": {"$ref": {"$ref": "#/a"}, "next": {"next": {}}}},
    ):
        assert walk(StructuredOutputsParams(json=schema), json.dumps([call])), call
    assert not walk(StructuredOutputsParams(json=schema), '[{"name": "n", "parameters": {"a": {"x": ""}}}]')
