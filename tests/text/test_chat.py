"""Chats become the prompts that transformers makes of them; what is not a chat is refused by name."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from support.chat_families import FAMILIES

from flover.errors import ModelError, RequestError
from flover.text.chat import ChatTemplate
from flover.text.messages import check_messages

CHATML = (
    "{%- for message in messages %}"
    "{%- if loop.first and message.role != 'system' %}{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}"
    "{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# the ways of larger templates: macros, namespaces, tools, slices from the end, tests, filters, breaks
MODERN = """
{%- macro describe(tool, depth=0) %}
{{- '  ' * depth }}- {{ tool.name | upper }}({{ tool.parameters | tojson(indent=2) }})
{%- for key, value in tool.parameters.items() if value is not none %}
 {{ loop.index }}/{{ loop.length }} {{ key }}={{ value | string | trim }}
{%- endfor %}
{%- endmacro %}
{%- set ns = namespace(last=-1, seen=[]) %}
{%- for message in messages[::-1] %}
    {%- if message.role == 'user' and ns.last < 0 %}
        {%- set ns.last = (messages | length) - 1 - loop.index0 %}
        {%- break %}
    {%- endif %}
{%- endfor %}
{%- if tools is defined and tools %}
{%- for tool in tools %}{{ describe(tool.function) }}{{ '\n' }}{%- endfor %}
{%- endif %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else message.content | join(' ') %}
    {%- if message.role == 'assistant' and '</think>' in content %}
        {%- set content = content.split('</think>')[-1].lstrip('\n') %}
    {%- endif %}
    {%- if loop.index0 == ns.last %}[LAST]{% endif %}
    {%- generation %}{{ '<' ~ message.role ~ '>' ~ content.replace('\n', ' ') ~ eos_token }}{% endgeneration %}
{%- endfor %}
{%- set roles = messages | map(attribute='role') | list %}
{{- roles | unique | join(',') }} {{ messages | selectattr('role', 'equalto', 'user') | list | length }}
{%- if enable_thinking is defined and enable_thinking is false %}{{ '\n<think>\n\n</think>' }}{% endif %}
"""
CHAT = [
    {"role": "system", "content": "You are a fox."},
    {"role": "user", "content": "  Who are you?\nSay it. "},
    {"role": "assistant", "content": "<think>hm</think>\n\nA fox."},
    {"role": "user", "content": "Größe 🦊 <b>&amp;</b>"},
]
TOOLS = [
    {"type": "function", "function": {"name": "find", "parameters": {"type": "object", "required": ["a"], "x": None}}}
]
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}


@pytest.mark.parametrize("source", [CHATML, FAMILIES["llama2"], MODERN])
@pytest.mark.parametrize("add_generation_prompt", [True, False])
@pytest.mark.parametrize("messages", [CHAT, CHAT[1:], CHAT[1:2]])
@pytest.mark.parametrize("kwargs", [{}, {"enable_thinking": False}])
def test_prompts_are_those_of_transformers(
    source: str, add_generation_prompt: bool, messages: list[Any], kwargs: dict[str, Any]
) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    expected, _ = render_jinja_template(
        conversations=[messages],
        chat_template=source,
        tools=TOOLS,
        add_generation_prompt=add_generation_prompt,
        **TOKENS,
        **kwargs,
    )
    template = ChatTemplate(source, special_tokens=TOKENS)
    found = template.render(messages, add_generation_prompt=add_generation_prompt, tools=TOOLS, template_kwargs=kwargs)
    assert found == expected[0]


def test_a_template_may_refuse_a_conversation() -> None:
    with pytest.raises(RequestError, match="roles must alternate"):
        ChatTemplate(FAMILIES["llama2"], special_tokens=TOKENS).render([CHAT[1], CHAT[2], CHAT[2]])


def test_the_last_message_can_be_continued() -> None:
    template = ChatTemplate(CHATML)
    messages = [CHAT[1], {"role": "assistant", "content": "I am a"}]
    found = template.render(messages, add_generation_prompt=False, continue_final_message=True)
    assert found.endswith("<|im_start|>assistant\nI am a")
    with pytest.raises(RequestError, match="exclude each other"):
        template.render(messages, add_generation_prompt=True, continue_final_message=True)
    with pytest.raises(RequestError, match="writes no content"):
        ChatTemplate("nothing").render(messages, add_generation_prompt=False, continue_final_message=True)


def test_the_date_comes_from_the_clock_that_is_given() -> None:
    template = ChatTemplate("{{ strftime_now('%d %b %Y') }}", now=lambda: datetime(2031, 5, 4))
    assert template.render(CHAT) == "04 May 2031"


def test_text_parts_are_joined_for_a_template_that_takes_no_lists() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b", "cache_control": {"type": "ephemeral"}}]
    assert ChatTemplate("{{ messages[0].content + '!' }}").render([{"role": "user", "content": parts}]) == "ab!"
    assert ChatTemplate("{{ messages[0].content }}").render([{"role": "user", "content": parts}]) == "ab"


def test_an_assistant_with_tool_calls_needs_no_content() -> None:
    message = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}
    expected = {"role": "assistant", "tool_calls": [{"id": "1", "type": "function"}]}
    assert check_messages([message]) == [expected]


@pytest.mark.parametrize(
    ("messages", "named"),
    [
        ([], "messages must not be empty"),
        ("hello", "messages must be a list"),
        ({"role": "user"}, "messages must be a list"),
        ([CHAT[0]] * 1025, "at most 1024"),
        ([CHAT[0], 7], r"messages\[1\] must be an object"),
        ([{"content": "a"}], r"messages\[0\]\.role"),
        ([{"role": "root", "content": "a"}], r"messages\[0\]\.role must be one of"),
        ([{"role": ["user"], "content": "a"}], r"messages\[0\]\.role"),
        ([{"role": "user"}], r"messages\[0\]\.content is missing"),
        ([{"role": "assistant", "content": None}], r"messages\[0\]\.content is missing"),
        ([{"role": "user", "content": 7}], r"messages\[0\]\.content must be a string"),
        ([{"role": "user", "content": ["a"]}], r"messages\[0\]\.content\[0\]"),
        (
            [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {}}]}],
            r"messages\[0\]\.content\[1\] has type image_url",
        ),
        ([{"role": "user", "content": [{"type": "text", "text": 7}]}], r"messages\[0\]\.content\[0\]\.text"),
    ],
)
def test_what_is_no_chat_is_refused_by_name(messages: Any, named: str) -> None:
    with pytest.raises(RequestError, match=named):
        check_messages(messages)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"messages": "x"},
        {"tools": "x"},
        {"add_generation_prompt": True},
        {"bos_token": "x"},
        {"_private": 1},
        {"not a name": 1},
        {"chat_template": {"a": 1}},
        {"x": [1]},
        {"x": "a" * 1001},
        {f"x{i}": i for i in range(33)},
    ],
)
def test_template_kwargs_are_small_scalars_and_never_the_renderers_own(kwargs: dict[str, Any]) -> None:
    with pytest.raises(RequestError) as caught:
        ChatTemplate(CHATML).render(CHAT, template_kwargs=kwargs)
    assert caught.value.param == "chat_template_kwargs"


@pytest.mark.parametrize(
    "source",
    [
        "{% for %}",
        "{{ a",
        "{% endfor %}",
        "{{ 'a' | no_such_filter }}",
        "x" * (128 * 1024 + 1),
        "{{ " + "(" * 6000 + "1" + ")" * 6000 + " }}",
        "{% if a %}" * 5000 + "{% endif %}" * 2000,
        "{{ " + "[" * 20_000 + " }}",
        "{{ " + "not " * 10_000 + "a }}",
    ],
)
def test_templates_that_are_not_valid_are_refused_when_loaded(source: str) -> None:
    with pytest.raises(ModelError, match="chat template"):
        ChatTemplate(source)
