"""The formats of tool calls, as data under vLLM's names, and which of them a chat template asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from flover.text.output_parts import ToolCall
from flover.text.tool_arguments import HeadFinder, gemma_head, json_head, mistral_head, no_head, xml_head
from flover.text.tool_decoders import Tools, decode_json, decode_python


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolFormat:
    """How a family writes calls: between two markers anywhere in the text, or as the whole answer."""

    head: HeadFinder = json_head
    """Finds the beginning of a call, whose arguments are then given out as they come."""
    decode: Callable[[str, Tools], list[ToolCall] | None] = decode_json
    """Reads complete calls whose beginning `head` does not find."""
    begin: str
    """What a call begins with. Of a whole answer, a marker that may stand before it."""
    end: str | None = None
    """The marker after a call; None if it goes on to the end of the text."""
    opening: tuple[str, ...] = ()
    """Of a whole answer: what it begins with, whitespace left out. Only then can it be a call."""
    shown_by: str
    """What a chat template holds that asks for this format."""


TOOL_FORMATS: Mapping[str, ToolFormat] = {
    "mistral": ToolFormat(head=mistral_head, begin="[TOOL_CALLS]", shown_by="[TOOL_CALLS]"),
    "functiongemma": ToolFormat(
        head=gemma_head,
        begin="<start_function_call>",
        end="<end_function_call>",
        shown_by="<start_function_call>",
    ),
    "qwen3_coder": ToolFormat(head=xml_head, begin="<tool_call>", end="</tool_call>", shown_by="<function="),
    "hermes": ToolFormat(begin="<tool_call>", end="</tool_call>", shown_by="<tool_call>"),
    "pythonic": ToolFormat(
        decode=decode_python,
        head=no_head,
        begin="<|python_start|>",
        opening=("[",),
        shown_by="[func_name1(params_name1",
    ),
    "llama3_json": ToolFormat(
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
