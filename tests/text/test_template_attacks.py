"""Hostile templates end soon, whatever they build and however they look at it; honest long chats are not refused."""

from __future__ import annotations

import gc
import resource
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from template_attacks import BUILDERS, WALKERS, all_attacks

from flover.errors import ModelError, RequestError
from flover.text.chat import ChatTemplate

CHAT = [{"role": "user", "content": "hello"}]
MAX_SECONDS = 0.5
"""Of processor time: five times what a rendering should take, for slower machines."""


@pytest.fixture(autouse=True, scope="module")
def own_garbage() -> Iterator[None]:
    """Collections of garbage look at what a template made, not at all that the suite holds."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def _render(source: str, chat: list[dict[str, Any]]) -> float:
    """Processor seconds of one rendering, whatever comes of it."""
    try:
        template = ChatTemplate(source)
    except ModelError:
        return 0.0
    started = time.thread_time()
    try:
        template.render(chat)
    except RequestError as error:
        assert len(str(error)) < 1200
        assert " at 0x" not in str(error)
    return time.thread_time() - started


def test_there_are_enough_attacks() -> None:
    assert len(all_attacks()) > 400


@pytest.mark.parametrize("part", range(8))
def test_every_attack_ends_soon_and_stays_small(part: int) -> None:
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for source in all_attacks()[part::8]:
        assert _render(source, CHAT) < MAX_SECONDS, source[-200:]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 300 * 1024


@pytest.mark.parametrize("walker", WALKERS)
def test_no_walk_through_a_value_of_a_million_million_parts_becomes_text(walker: str) -> None:
    for builder in BUILDERS[:3]:
        with pytest.raises((RequestError, ModelError)):
            ChatTemplate(builder + walker).render(CHAT)


_ATOM = st.sampled_from(["1", "'a'", "'<a>\\n' * 9", "x", "ns.x", "messages", "none", "range(9)", "x|string"])
_BUILT = st.recursive(
    _ATOM,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda pair: "[{}, {}]".format(*pair)),
        st.tuples(inner, inner).map(lambda pair: "({}, {})".format(*pair)),
        st.tuples(inner, inner).map(lambda pair: "{{'a': {}, 'b': {}}}".format(*pair)),
        st.tuples(inner, inner).map(lambda pair: "([{}] + [{}])".format(*pair)),
        st.tuples(inner, inner).map(lambda pair: "({} ~ {})".format(*pair)),
        inner.map("([{}] * 3)".format),
        inner.map("([{}, 1]|list)".format),
        inner.map("dict(a={0}, b={0})".format),
        inner.map("[{0}]|map('string')|list".format),
        inner.map("({0}|string)".format),
        inner.map("({0},)[:5]".format),
    ),
    max_leaves=4,
)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(start=_BUILT, step=_BUILT, times=st.integers(1, 60), walkers=st.lists(st.sampled_from(WALKERS), max_size=3))
def test_any_value_grown_in_a_loop_and_looked_at_ends_soon(
    start: str, step: str, times: int, walkers: list[str]
) -> None:
    source = (
        f"{{% set x = 0 %}}{{% set ns = namespace(x=0) %}}{{% set ns.x = {start} %}}"
        f"{{% for i in range({times}) %}}{{% set x = ns.x %}}{{% set ns.x = {step} %}}{{% endfor %}}"
    )
    assert _render(source + "".join(walkers), CHAT) < MAX_SECONDS


def test_the_clock_ends_a_rendering_whose_units_are_not_used_up() -> None:
    times = iter(range(1000))
    template = ChatTemplate("{% for i in range(20000) %}{% endfor %}done", clock=lambda: float(next(times)))
    with pytest.raises(RequestError, match="costs more"):
        template.render(CHAT)


def test_an_attack_at_loading_does_not_hold_the_loading() -> None:
    started = time.thread_time()
    ChatTemplate("{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}{{ messages }}")
    assert time.thread_time() - started < 2


@pytest.mark.parametrize(
    "source",
    [
        "{% if a %}{% set b = 1 %}{% endif %}" * 3000,
        "".join(f"{{% if a %}}{{% set b{i} = 1 %}}{{% endif %}}" for i in range(2500)),
        "{{ a.b }}" * 14_000,
        "{{ 1" + "1" * 4000 + " }}",
        "{{ '" + "a" * 120_000,
        "{{ " + "{" * 60_000,
        "{# " * 40_000,
        "{%- " * 30_000,
        " \n" * 60_000 + "{% if a %}x{% endif %}",
        "".join(f"{{% macro m{i}() %}}{{% endmacro %}}" for i in range(3000)),
        "{% for a in b %}" * 19 + "x" + "{% endfor %}" * 19,
        "{% autoescape 10**10**10 %}{% endautoescape %}",
    ],
)
def test_compiling_any_template_ends_soon(source: str) -> None:
    started = time.thread_time()
    try:
        ChatTemplate(source)
    except ModelError as error:
        assert "chat template" in str(error)
    assert time.thread_time() - started < 10


def test_a_long_conversation_with_a_template_that_looks_ahead_is_rendered() -> None:
    source = (
        "{% for message in messages %}{% set ns = namespace(more=false) %}"
        "{% for other in messages[loop.index:] %}{% if other.role == 'assistant' and 'tool_calls' not in other %}"
        "{% set ns.more = true %}{% endif %}{% endfor %}"
        "{{ '<|' ~ message.role ~ '|>' ~ message.content|trim ~ ('' if ns.more else '!') }}{% endfor %}"
    )
    turn = [{"role": "user", "content": "please look " * 40}, {"role": "assistant", "content": "seen " * 40}]
    assert len(ChatTemplate(source).render(turn * 150)) > 90_000


def test_long_texts_with_many_operations_are_rendered() -> None:
    source = (
        "{% for m in messages %}{% set c = m.content|trim %}{% set c = c.replace('<|', '< |').strip() %}"
        "{% if '</think>' in c %}{% set c = c.split('</think>')[-1].lstrip('\\n') %}{% endif %}"
        "{% if c.startswith('<tool>') and c.endswith('</tool>') %}T{% endif %}{{ c }}{{ (m|tojson)[:1] }}{% endfor %}"
    )
    chat = [{"role": "user", "content": "wörds and more " * 130_000}]
    assert len(ChatTemplate(source).render(chat)) > 1_900_000


def test_values_nested_too_deep_are_refused_before_python_walks_them() -> None:
    source = "{% set ns = namespace(x=()) %}{% for i in range(200) %}{% set ns.x = (ns.x,) %}{% endfor %}"
    with pytest.raises(RequestError, match="nests lists and objects more than 100 deep"):
        ChatTemplate(source).render(CHAT)
