"""Templates that attack: none reaches Python, none costs more than its budget, and the next chat goes on."""

from __future__ import annotations

import resource
import time
from pathlib import Path

import pytest

from flover.errors import ModelError, RequestError
from flover.text.chat import ChatTemplate

CHAT = [{"role": "user", "content": "hello"}]

ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ [].__class__.__base__.__subclasses__() }}",
    "{{ ''['__class__'] }}",
    "{{ ''|attr('__class__') }}",
    "{{ messages.__class__.__base__ }}",
    "{{ messages[0].__init__.__globals__ }}",
    "{{ self.__init__.__globals__.__builtins__ }}",
    "{{ self._TemplateReference__context }}",
    "{{ cycler.__init__.__globals__.os.popen('touch CANARY').read() }}",
    "{{ joiner.__init__.__globals__.os.popen('touch CANARY').read() }}",
    "{{ lipsum.__globals__['os'].popen('touch CANARY').read() }}",
    "{{ namespace.__init__.__globals__.os.popen('touch CANARY') }}",
    "{{ raise_exception.__globals__ }}",
    "{{ strftime_now.__globals__['datetime'] }}",
    "{{ strftime_now.__closure__[0].cell_contents.__self__ }}",
    "{{ range.__init__.__globals__ }}",
    "{{ dict.__base__.__subclasses__() }}",
    "{{ dict.fromkeys.__self__ }}",
    "{{ ('%s' % messages.__class__) }}",
    "{{ '{0.__class__}'.format(messages) }}",
    "{{ '{0.__class__.__init__.__globals__}'.format_map({'0': 1}) }}",
    "{% set f = 'a'.format %}{{ f(messages) }}",
    "{{ messages|map(attribute='__class__')|list }}",
    "{{ messages|map('attr', '__class__')|list }}",
    "{{ ['{0.__class__}']|map('format', messages)|list }}",
    "{{ messages|groupby('__class__') }}",
    "{{ messages|selectattr('__class__')|list }}{{ 1/0 }}",
    "{% set ns = namespace(__class__=1) %}{{ ns }}",
    "{% set ns = namespace() %}{% set ns.__class__ = dict %}{{ ns }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update(role='x') }}",
    "{{ messages[0].clear() }}",
    "{{ messages.sort() }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}{{ os }}",
    "{% from 'os' import popen %}",
    "{% extends '/etc/passwd' %}",
    "{{ loop.__class__ }}{{ 1/0 }}",
    "{% for x in messages %}{{ loop._iterable.__class__ }}{{ 1/0 }}{% endfor %}",
    "{% macro m() %}{{ caller.__globals__ }}{% endmacro %}{% call m() %}{% endcall %}",
    "{{ context.environment }}{{ 1/0 }}",
    "{{ environment.join_texts }}{{ 1/0 }}",
    "{{ (1).__class__ }}",
    "{{ (1).to_bytes(8, 'big') }}",
    "{{ 'a'.encode() }}",
    "{{ messages|charged_steps|attr('_budget') }}",
    "{% for x in messages %}{{ x }}{% endfor %}{{ (messages|charged_steps)._budget._left }}{{ 1/0 }}",
]


@pytest.mark.parametrize("source", ESCAPES)
def test_no_template_reaches_python(source: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    try:
        said = ChatTemplate(source.replace("CANARY", str(canary))).render(CHAT)
    except (RequestError, ModelError) as error:
        said = str(error)
    assert not canary.exists()
    assert not any(sign in said for sign in ("<class", "<function", "<module", " at 0x", "root:", "flover."))


def test_messages_cannot_be_changed_by_a_template() -> None:
    chat = [dict(message) for message in CHAT]
    for change in ("messages.append(1)", "messages[0].update(role='x')", "messages[0].clear()", "messages.reverse()"):
        with pytest.raises(RequestError):
            ChatTemplate("{{ " + change + " }}").render(chat)
    assert chat == CHAT


BOMBS = [
    "{{ 'a' * 10**9 }}",
    "{{ 10**9 * 'a' }}",
    "{{ ['a'] * 10**9 }}",
    "{{ 9**9**9 }}",
    "{{ (7**80) * (7**80) * (7**80) }}",
    "{% set ns = namespace(x='ab') %}{% for i in range(64) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "{% set ns = namespace(x='ab') %}{% for i in range(64) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "{% set ns = namespace(x=[1]) %}{% for i in range(64) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "{% set ns = namespace(x='aa') %}{% for i in range(64) %}{% set ns.x = ns.x.replace('a', 'aa') %}{% endfor %}",
    "{% set ns = namespace(x='aa') %}{% for i in range(64) %}{% set ns.x = ns.x|replace('a', 'aa') %}{% endfor %}",
    "{% set ns = namespace(x='aa') %}{% for i in range(64) %}{% set ns.x = ns.x.join(ns.x) %}{% endfor %}",
    "{% set ns = namespace(x='aa') %}{% for i in range(64) %}{% set ns.x = ns.x|join(ns.x) %}{% endfor %}",
    "{% set ns = namespace(x='a') %}{% for i in range(99) %}{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}"
    "{% set ns.x = y %}{% endfor %}",
    "{% macro m(x) %}{{ x }}{{ x }}{% endmacro %}{% set ns = namespace(x='a') %}"
    "{% for i in range(99) %}{% set ns.x = m(ns.x) %}{% endfor %}",
    "{% for i in range(10000) %}{% for j in range(10000) %}{% for k in range(10000) %}"
    "{% endfor %}{% endfor %}{% endfor %}",
    "{% for i in range(10**9) %}{% endfor %}",
    "{{ range(10**12)|list }}",
    "{{ range(9999)|map('string')|map('upper')|list|length }}" * 500,
    "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
    "".join(f"{{% macro m{i}() %}}{{{{ m{i + 1}() }}}}{{{{ m{i + 1}() }}}}{{% endmacro %}}" for i in range(60))
    + "{% macro m60() %}{% endmacro %}{{ m0() }}",
    "{% for x in [[1, 2], [3, 4]] recursive %}{{ loop([[1, 2], [3, 4]]) }}{% endfor %}",
    "{% for x in [1] recursive %}{{ loop(range(10000)) }}{% endfor %}",
    "{{ 'a'|center(10**9) }}",
    "{{ 'a'.center(10**9) }}",
    "{{ 'a'.ljust(10**9) }}",
    "{{ 'a'.zfill(10**9) }}",
    "{{ 'a\t'.expandtabs(10**9) }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '%1000000000d'|format(1) }}",
    "{{ '{:>1000000000}'.format(1) }}",
    "{{ 'a\n'|indent(10**9) }}",
    "{{ {'a': 1}|tojson(indent=10**9) }}",
    "{{ lipsum(n=10**6) }}",
    "{% for i in range(9999) %}" + "x" * 60_000 + "{% endfor %}",
    "{% set x = 'a' * 4000000 %}{% for i in range(9999) %}{% for j in range(9999) %}{{ x.count('b') }}"
    "{% endfor %}{% endfor %}",
    "{% set x = 'a' * 4000000 %}{% for i in range(9999) %}{% for j in range(9999) %}{% if 'b' in x %}{% endif %}"
    "{% endfor %}{% endfor %}",
    "{% set x = 'a' * 4000000 %}{% for i in range(9999) %}{% for j in range(9999) %}{% set y = x[1:] %}"
    "{% endfor %}{% endfor %}",
    "{% set x = 'a' * 4000000 %}{% for i in range(9999) %}{% for j in range(9999) %}{% set y = x|upper %}"
    "{% endfor %}{% endfor %}",
]


@pytest.mark.parametrize("source", BOMBS)
def test_no_template_costs_more_than_its_budget(source: str) -> None:
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    with pytest.raises((RequestError, ModelError)):
        ChatTemplate(source).render(CHAT)
    assert time.process_time() - started < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 600 * 1024


def test_a_long_honest_chat_is_well_within_the_budget() -> None:
    source = (
        "{% for message in messages %}{% set content = message.content | trim %}"
        "{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}"
        "{{ '<|' + message.role + '|>' + content.replace('a', 'b') + '\n' }}" + "{# x #}y" * 300 + "{% endfor %}"
    )
    chat = [{"role": "user", "content": "a long story " * 250}] * 1024
    assert len(ChatTemplate(source).render(chat)) > 3_000_000


def test_a_template_works_again_after_an_attack_by_the_messages() -> None:
    template = ChatTemplate("{{ 'a' * (messages[0].content | int) }}")
    with pytest.raises(RequestError):
        template.render([{"role": "user", "content": "999999999"}])
    assert template.render([{"role": "user", "content": "3"}]) == "aaa"
