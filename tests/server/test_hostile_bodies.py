"""Random hostile bodies: read, or refused in words that name the field, at a cost that is bounded by their size."""

from __future__ import annotations

import json
import re
import time
import tracemalloc
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.facts import model_facts

from flover.config import Limits
from flover.errors import RequestError
from flover.server.body import field_types, read_body
from flover.server.conversation import render
from flover.server.fields import INFORMATION, NEUTRAL, OTHER_NAMES
from flover.server.params import chat_params, completion_params
from flover.server.protocol import ChatBody, CompletionBody, DetokenizeBody, EmbeddingBody, TokenizeBody
from flover.text.chat import ChatTemplate
from flover.text.prompts import make_request

FACTS = model_facts(max_model_len=2048, eos_ids=[1])
TEMPLATE = ChatTemplate(
    "{{ messages|tojson }}{{ tools|tojson if tools }}{% for m in messages %}{{ m.content }}{% endfor %}"
)
BODIES: dict[type[Any], dict[str, Any]] = {
    CompletionBody: {"prompt": [5]},
    ChatBody: {"messages": [{"role": "user", "content": "hi"}]},
    TokenizeBody: {"prompt": "a"},
    EmbeddingBody: {"input": "a"},
    DetokenizeBody: {"tokens": [5]},
}
HONOURED = sorted({name for kind in BODIES for name in field_types(kind)})
OTHERS = sorted(INFORMATION | NEUTRAL.keys() | OTHER_NAMES.keys())
NO_NAMES = ["unheard_of", "max_token", "", "a b", "\\ud83d", "\\u0000", "x" * 3000, "__class__", "$"]

name = st.sampled_from(HONOURED) | st.sampled_from(HONOURED) | st.sampled_from(OTHERS) | st.sampled_from(NO_NAMES)

# Values are JSON as it is sent: much of what is hostile is no value of Python.
ATOMS = [
    *("null", "true", "false", "0", "1", "-1", "2", "0.5", "5.0", "-0.0", "1e999", "1e-999", "9" * 30, "-" + "9" * 30),
    *('""', '"a"', '"\\ud83d"', '"a\\udc00b"', '"\\u0000"', '"none"', '"required"', '"text"', '"x y"', '"１"'),
    *("[]", "{}", "[null]", "[[]]", '[""]', '["\\ud83d"]', "[1]", "[1,true]", '[1,"a"]', '["a",1]', '{"a":1}'),
    *('{"self":1}', '{"loop":1}', '{"\\ud83d":1}', '{"a":"\\ud83d"}', '{"a":[1]}', '{"":1}', '{"type":"text"}'),
    *('{"type":"json_object"}', '{"include_usage":true}', '{"1":1}', '{"1":"1"}', '{"-1":1}', '{"300":1}', "[300]"),
    '{"type":"function","function":{"name":"f"}}',
]
LONG = [
    "1" * 5000,
    "0." + "1" * 5000,
    '"' + "x" * 100_000 + '"',
    "[" * 1000 + "]" * 1000,
    '{"a":' * 99 + "1" + "}" * 99,
]
value = st.sampled_from(ATOMS) | st.sampled_from(LONG)
many = st.builds(
    lambda item, count: "[" + ",".join([item] * count) + "]",
    st.sampled_from(ATOMS),
    st.sampled_from([2, 17, 65, 1025, 30_000]),
)
fields = st.integers(2, 30_000).map(lambda count: "{" + ",".join(f'"{i}":1' for i in range(count)) + "}")


def _object(members: dict[str, str]) -> str:
    return "{" + ",".join(f'"{name}":{member}' for name, member in members.items()) + "}"


part = st.builds(_object, st.dictionaries(st.sampled_from(["type", "text", "image_url", "cache_control"]), value))
call = st.builds(
    lambda arguments, more: _object({"function": f'{{"name":"f","arguments":{arguments}}}', **more}),
    value | st.sampled_from(ATOMS).map(json.dumps),
    st.dictionaries(st.sampled_from(["id", "type", "index"]), value, max_size=1),
)
message = st.builds(
    lambda role, members: _object({"role": role, **members}),
    st.sampled_from(['"user"', '"assistant"', '"tool"', '"developer"', '"king"', "5", "null"]),
    st.dictionaries(
        st.sampled_from(["content", "name", "tool_calls", "refusal", "id", "timestamp", "audio", "reasoning"]),
        value
        | many
        | st.lists(part, max_size=2).map(lambda parts: "[" + ",".join(parts) + "]")
        | st.lists(call, max_size=2).map(lambda calls: "[" + ",".join(calls) + "]"),
        max_size=3,
    ),
)
messages = st.lists(message, min_size=1, max_size=3).map(lambda items: "[" + ",".join(items) + "]")
hostile = st.tuples(name, value | many | fields) | st.tuples(st.just("messages"), messages)

CONSTANT_BYTES = 500_000
INTERNAL = re.compile(
    r"\$\.|`|msgspec|Expected|object at 0x|\.str\b|keyword|positional|at most 0\b|Traceback"
    r"|(?:between|and|most|least) -?[\d.]+e\+\d"
)


def serve(kind: type[Any], data: bytes) -> Any:
    """What a server does with a body before it asks the engine."""
    body = read_body(data, kind, Limits(), facts=FACTS)
    if isinstance(body, CompletionBody):
        params = completion_params(body, {}, detokenize=True)
        for prompt in body.prompt:
            if not isinstance(prompt, str):
                make_request(prompt, params, request_id="r", tokenizer=None, facts=FACTS, draw_seed=lambda: 1)
    if isinstance(body, ChatBody):
        chat_params(body, {})
    if isinstance(body, ChatBody) or (isinstance(body, TokenizeBody) and body.messages):
        render(TEMPLATE, body).encode()
    return body


@settings(max_examples=400)
@given(kind=st.sampled_from(list(BODIES)), what=hostile)
@example(CompletionBody, ("stop", "[" + ",".join(["1"] * 250_000) + "]"))
@example(CompletionBody, ("unheard_of", "{" + ",".join(f'"f{i}":1' for i in range(120_000)) + "}"))
@example(CompletionBody, ("seed", "9" * 30))
@example(CompletionBody, ("n", "0"))
@example(CompletionBody, ("x" * 3000, '"\\ud83d"'))
@example(ChatBody, ("messages", "[" + ",".join(["{}"] * 140_000) + "]"))
@example(ChatBody, ("messages", '[{"role":"assistant","tool_calls":[' + ",".join(["1"] * 250_000) + "]}]"))
def test_a_body_is_read_or_refused_in_words_that_name_the_field(kind: type[Any], what: tuple[str, str]) -> None:
    name, raw = what
    members = {known: json.dumps(member) for known, member in BODIES[kind].items() if known != name}
    data = _object({**members, name: raw}).encode()
    started = time.thread_time()
    try:
        serve(kind, data)
        return
    except RequestError as error:
        seconds, refusal = time.thread_time() - started, error
    said = refusal.message
    said.encode()
    assert len(said) < 600
    assert not INTERNAL.search(said), said
    if name.isidentifier():
        unreadable = said.startswith("the body has more than" if "\\ud" in raw else "the body ")
        assert refusal.param == name[:64] or unreadable, (refusal.param, said)
    assert seconds < 0.25, (seconds, len(data))
    if len(data) > 50_000:
        assert peak_bytes(kind, data) < 3 * len(data) + CONSTANT_BYTES


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ('{"prompt": "a", "prompt": "b"}', "the body has prompt twice"),
        ('{"prompt": "a", "\\u0070rompt": "b"}', "the body has prompt twice"),
        ('{"a,b": null, "prompt": "x, y", "a,b": null}', 'the body has the string "a,b" twice'),
        (f'{{"prompt": "{9000 * ","}", "seed": 1, "seed": 2}}', "the body has a field twice"),
        ('{"prompt": "a", "logit_bias": {"5": 1, "5": -1}}', 'logit_bias has the string "5" twice'),
        (f'{{"prompt": "a", "seed": {5000 * "1"}, "seed": 2}}', "the body has seed twice"),
        ('{"a,b": null, ",": null, "prompt": "x, y", "stop": ["a", "a"]}', ""),
        ('{"prompt": [[5, 5], [5, 5]], "logit_bias": {"5": 1, "6": 1}}', ""),
        (f'{{",": null, "prompt": "{9000 * ","}"}}', ""),
    ],
    ids=lambda text: text[:30],
)
def test_a_field_that_comes_twice_is_refused(body: str, names: str) -> None:
    """Of two values, a proxy before the server may have judged the other one."""
    try:
        read_body(body.encode(), CompletionBody, Limits(), facts=FACTS)
    except RequestError as error:
        assert error.message == names
    else:
        assert not names


def peak_bytes(kind: type[Any], data: bytes) -> int:
    """Memory that refusing a body takes at most."""
    tracemalloc.start()
    try:
        with pytest.raises(RequestError):
            serve(kind, data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


nothing = st.sampled_from([(name, json.dumps(member)) for name, members in NEUTRAL.items() for member in members])
information = st.tuples(
    st.sampled_from(sorted(INFORMATION)), value.filter(lambda raw: "\\ud" not in raw and len(raw) < 99)
)
null = st.tuples(st.sampled_from([*HONOURED, *OTHERS, "unheard_of", "a b"]), st.just("null"))


@settings(max_examples=200)
@given(
    kind=st.sampled_from([CompletionBody, ChatBody]),
    more=st.lists(nothing | information | null, max_size=6),
    of_message=st.dictionaries(st.sampled_from(["id", "timestamp", "annotations", "cache_control", "mood"]), nothing),
)
def test_what_changes_nothing_never_refuses_a_request(
    kind: type[Any], more: list[tuple[str, str]], of_message: dict[str, tuple[str, str]]
) -> None:
    members = {name: json.dumps(member) for name, member in BODIES[kind].items()}
    if kind is ChatBody:
        told = {name: raw for name, (_, raw) in of_message.items()}
        members["messages"] = f"[{_object({'role': json.dumps('user'), 'content': json.dumps('hi'), **told})}]"
    means = {name for name in (*INFORMATION, *NEUTRAL) if name in kind.__struct_fields__}  # it does so elsewhere alone
    sent = {
        name: raw
        for name, raw in more
        if name not in members and "1e999" not in raw and (name not in means or raw == "null")
    }
    plain = serve(kind, json.dumps(BODIES[kind]).encode())
    assert msgspec.to_builtins(serve(kind, _object({**members, **sent}).encode())) == msgspec.to_builtins(plain)
