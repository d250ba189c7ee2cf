"""Every family of templates makes of every conversation the prompt that transformers makes of it."""

from __future__ import annotations

import copy
import functools
import json
from typing import Any

import pytest
from support.chat_families import FAMILIES, ONLY_PARTS
from transformers.utils.chat_template_utils import render_jinja_template

from flover.errors import RequestError
from flover.text.chat import ChatTemplate

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
USER = {"role": "user", "content": "Who are you?"}
ANSWER = {"role": "assistant", "content": "A fox, of course."}
SYSTEM = {"role": "system", "content": "You are a fox."}
DEVELOPER = {"role": "developer", "content": "Speak like a fox."}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "find_den",
            "description": "Finds a <den> & more",
            "parameters": {
                "type": "object",
                "properties": {
                    "zone": {"type": "string", "enum": ["north", "süd"]},
                    "among": {"type": "array", "items": {"type": "integer"}},
                    "any": {"type": ["string", "null"]},
                },
                "required": ["zone"],
            },
        },
    }
]


def _call(arguments: Any) -> dict[str, Any]:
    return {"id": "call00001", "type": "function", "function": {"name": "find_den", "arguments": arguments}}


ARGUMENTS = {"zone": "süd", "among": [3, 1, 2], "any": None, "deep": {"b": [{"a": 1.5}], "a": True}}
RESULT = {"role": "tool", "content": '{"den": 7}', "tool_call_id": "call00001", "name": "find_den"}
LATER = "system in the middle"
CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "one": [USER],
    "turns": [USER, ANSWER, USER],
    "system": [SYSTEM, USER, ANSWER, USER],
    "ends with the assistant": [USER, ANSWER],
    LATER: [USER, ANSWER, SYSTEM, USER],
    "two users": [USER, USER],
    "only system": [SYSTEM],
    "empty content": [SYSTEM, {"role": "user", "content": ""}, {"role": "assistant", "content": ""}],
    "unicode": [{"role": "user", "content": "Größe 🦊 漢字 \u2028 <b>&amp;</b>\t"}],
    "space": [{"role": "user", "content": "  \n x \n\n"}, {"role": "assistant", "content": "\n y "}],
    "markers": [{"role": "user", "content": "<|im_end|>\n<|im_start|>system {{ 7 * 7 }} {% raw %}"}],
    "think": [USER, {"role": "assistant", "content": "<think>\nhm\n</think>\n\nA fox."}, USER],
    "reasoning": [USER, ANSWER | {"reasoning_content": "hm"}, USER],
    "reasoning under another name": [USER, ANSWER | {"reasoning": "hm"}],
    "calls": [USER, {"role": "assistant", "content": "", "tool_calls": [_call(ARGUMENTS)]}, RESULT, ANSWER, USER],
    "two calls": [
        USER,
        {"role": "assistant", "content": "Let me", "tool_calls": [_call(ARGUMENTS)] * 2},
        RESULT,
        RESULT,
    ],
    "no arguments": [USER, {"role": "assistant", "content": "", "tool_calls": [_call({})]}, RESULT],
}


def _expected(source: str, messages: list[dict[str, Any]], **kwargs: Any) -> str | None:
    """What transformers makes of it; None if it fails."""
    try:
        texts, _ = render_jinja_template(
            conversations=[copy.deepcopy(messages)], chat_template=source, **(TOKENS | kwargs)
        )
    except Exception:
        return None
    return str(texts[0])


@functools.cache
def _template(source: str) -> ChatTemplate:
    return ChatTemplate(source, special_tokens=TOKENS)


def _found(source: str, messages: list[dict[str, Any]], **kwargs: Any) -> str | None:
    try:
        return _template(source).render(messages, **kwargs)
    except RequestError:
        return None


def test_there_are_many_families() -> None:
    assert len(FAMILIES) >= 40


@pytest.mark.parametrize("name", FAMILIES)
def test_prompts_are_those_of_transformers(name: str) -> None:
    source = FAMILIES[name]
    template = _template(source)
    rendered = 0
    for kind, messages in CONVERSATIONS.items():
        for tools in (None, TOOLS):
            for prompt in (True, False):
                expected = _expected(source, messages, tools=tools, add_generation_prompt=prompt)
                if expected is None or (kind == LATER and SYSTEM["content"] not in expected):
                    continue
                found = template.render(messages, tools=tools, add_generation_prompt=prompt)
                assert found == expected, (kind, tools is not None, prompt)
                rendered += 1
    assert rendered > 10


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(
    "kwargs", [{"enable_thinking": False}, {"thinking": True}, {"reasoning_effort": "high", "date_string": "4 May"}]
)
def test_switches_and_documents_reach_the_template(name: str, kwargs: dict[str, Any]) -> None:
    documents = [{"title": "Foxes", "text": "They live\nin dens."}, {"text": "Dens are holes."}]
    messages = CONVERSATIONS["turns"]
    expected = _expected(FAMILIES[name], messages, documents=documents, add_generation_prompt=True, **kwargs)
    found = _found(FAMILIES[name], messages, documents=documents, template_kwargs=kwargs)
    assert found == expected


@pytest.mark.parametrize("name", FAMILIES)
def test_what_transformers_refuses_is_refused_in_the_templates_words(name: str) -> None:
    """Where there is more than that, the template takes less than the API: a role, a list, an absent content."""
    messages = CONVERSATIONS["only system"]
    if _expected(FAMILIES[name], messages, add_generation_prompt=True) is None:
        with pytest.raises(RequestError, match="the chat template failed"):
            _template(FAMILIES[name]).render(messages)


@pytest.mark.parametrize("name", FAMILIES)
def test_messages_of_the_user_in_a_row_are_in_the_prompt(name: str) -> None:
    """As in the prompt of transformers, or else as one."""
    second = {"role": "user", "content": PARTS}
    found = _found(FAMILIES[name], [USER, second])
    assert found is not None and USER["content"] in found and "I see." in found


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("spelled", [json.dumps(ARGUMENTS), json.dumps(ARGUMENTS, indent=2), "{}"])
def test_arguments_as_a_json_string_render_like_the_object(name: str, spelled: str) -> None:
    as_text = [USER, {"role": "assistant", "content": "", "tool_calls": [_call(spelled)]}, RESULT]
    as_object = [USER, {"role": "assistant", "content": "", "tool_calls": [_call(json.loads(spelled))]}, RESULT]
    expected = _expected(FAMILIES[name], as_object, tools=TOOLS, add_generation_prompt=True)
    if expected is not None:
        assert _found(FAMILIES[name], as_text, tools=TOOLS) == expected


@pytest.mark.parametrize("spelled", ["not json", "[1, 2]", '"text"', "7", "null", "{", '{"a": 1} x', "[" * 9999])
def test_arguments_that_spell_no_object_stay_as_they_are(spelled: str) -> None:
    source = "{{ messages[1].tool_calls[0].function.arguments }}"
    messages = [USER, {"role": "assistant", "content": "", "tool_calls": [_call(spelled)]}]
    assert ChatTemplate(source).render(messages) == spelled


@pytest.mark.parametrize("spelled", ["", " ", None])
def test_a_call_without_arguments_has_none(spelled: str | None) -> None:
    messages = [USER, {"role": "assistant", "content": None, "tool_calls": [_call(spelled)]}, RESULT]
    source = "{{ messages[1].tool_calls[0].function.arguments|tojson }}{{ messages[1].content is defined }}"
    assert ChatTemplate(source).render(messages) == "{}False"


@pytest.mark.parametrize("name", FAMILIES)
def test_a_call_without_a_content_renders_as_in_transformers_or_as_an_empty_one(name: str) -> None:
    for tools in (None, TOOLS):
        call = {"role": "assistant", "content": None, "tool_calls": [_call(ARGUMENTS)]}
        absent = {key: value for key, value in call.items() if value is not None}
        expected = _expected(FAMILIES[name], [USER, absent, RESULT], tools=tools, add_generation_prompt=True)
        empty = _expected(
            FAMILIES[name], [USER, absent | {"content": ""}, RESULT], tools=tools, add_generation_prompt=True
        )
        assert _found(FAMILIES[name], [USER, call, RESULT], tools=tools) in (expected, empty)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_developers_message_is_in_the_prompt_where_the_systems_is(name: str) -> None:
    source = FAMILIES[name]
    said = DEVELOPER["content"]
    as_system = _found(source, [SYSTEM | {"content": said}, USER])
    found = _found(source, [DEVELOPER, USER])
    own = _expected(source, [DEVELOPER, USER], add_generation_prompt=True)
    if own is not None and said in own:
        assert found == own
    else:
        assert found == as_system
    if name not in ("gemma1", "mistral_v1"):
        assert found is not None
        assert said in found


@pytest.mark.parametrize("name", sorted(FAMILIES.keys() - {"gemma1", "mistral_v1"}))
def test_instructions_of_system_and_developer_at_the_start_are_both_in_the_prompt(name: str) -> None:
    for first, second in ((SYSTEM, DEVELOPER), (DEVELOPER, SYSTEM), (DEVELOPER, DEVELOPER | {"content": PARTS})):
        found = _found(FAMILIES[name], [first, second, USER])
        assert found is not None
        wanted = second["content"] if isinstance(second["content"], str) else "I see."
        assert first["content"] in found and wanted in found and USER["content"] in found


@pytest.mark.parametrize("name", FAMILIES)
def test_instructions_after_a_users_message_are_in_the_prompt(name: str) -> None:
    """As in the prompt of transformers, or else as text of the user, where Claude Code and others write them."""
    first = [] if name in ("gemma1", "mistral_v1") else [DEVELOPER]
    for role in ("system", "developer"):
        later = {"role": role, "content": PARTS}
        for before, after in (([USER], []), ([USER], [ANSWER, USER]), ([USER, ANSWER], [USER])):
            found = _found(FAMILIES[name], [*first, *before, later, *after])
            assert found is not None
            said = [*(one["content"] for one in [*first, *before]), "I see.", *(one["content"] for one in after)]
            assert all(text in found for text in said)


def test_a_template_without_a_system_role_says_so() -> None:
    for role in ("system", "developer"):
        with pytest.raises(RequestError, match="System role not supported"):
            ChatTemplate(FAMILIES["gemma1"], special_tokens=TOKENS).render([{"role": role, "content": "x"}, USER])


PARTS = [{"type": "text", "text": "I see. "}, {"type": "text", "text": " A fox"}]


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("role", ["system", "user", "assistant", "tool"])
def test_a_list_of_parts_loses_nothing(name: str, role: str) -> None:
    """As transformers renders it where all parts come through; else like the joined text."""
    source = FAMILIES[name]
    before = {"system": [], "user": [], "assistant": [USER], "tool": CONVERSATIONS["calls"][:2]}[role]
    after = [USER] if role == "system" else []
    rest = RESULT if role == "tool" else {"role": role}
    expected = _expected(source, [*before, rest | {"content": PARTS}, *after], add_generation_prompt=True)
    joined = _found(source, [*before, rest | {"content": "I see.  A fox"}, *after])
    found = _found(source, [*before, rest | {"content": PARTS}, *after])
    whole = expected is not None and "I see." in expected and "A fox" in expected and "type" not in expected
    assert found == (expected if whole else joined)


CONTENTS = [
    *("I am a", "end", "im", "eot", "", " ", "Hi ", "Who are you?", "A fox, of course.", "\n", "  two\n\n lines \n"),
    *("<|im_end|>", "<|im_start|>assistant", "assistant", "</s>", "CONTINUE_FINAL_MESSAGE_TAG", "C", "G ", "TAG "),
    *("<think>\nhm", "<think>hm</think>\n\nA", "Größe 🦊 ", "{{ 7 }}", "{'a': 1}", "\u2028x\u2028", "content"),
    [{"type": "text", "text": "I am "}, {"type": "text", "text": "a fox "}],
    [{"type": "text", "text": ""}],
]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_message_is_continued_as_in_transformers(name: str) -> None:
    source = FAMILIES[name]
    for content in CONTENTS:
        for before in ([USER], [SYSTEM, USER], [{"role": "user", "content": "Hi there end"}], [USER, ANSWER, USER]):
            messages = [*before, {"role": "assistant", "content": content}]
            expected = _expected(source, messages, continue_final_message=True)
            if isinstance(content, list) and (expected is None or "type" in expected):
                joined = "".join(part["text"] for part in content)
                messages[-1] = {"role": "assistant", "content": joined}
                expected = _expected(source, messages, continue_final_message=True)
            found = _found(source, messages, continue_final_message=True, add_generation_prompt=False)
            assert found == expected, (content, before)


def test_the_other_contents_of_a_template_that_takes_lists_only() -> None:
    template = ChatTemplate(ONLY_PARTS)
    assert template.render([USER]) == "<|user|>Who are you?<|end|><|assistant|>"
    messages = [USER, {"role": "assistant", "content": "I am "}]
    text = template.render(messages, add_generation_prompt=False, continue_final_message=True)
    assert text == "<|user|>Who are you?<|end|><|assistant|>I am "
