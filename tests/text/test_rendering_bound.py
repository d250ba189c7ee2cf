"""The law of renderings: each has a bound in time and memory, whatever the template does."""

from __future__ import annotations

import subprocess
import sys

import pytest

GROW = "{% set ns = namespace(x=['aaaaaaaaaa']) %}{% for i in range(40) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}"
TEMPLATES = {
    "shown": GROW + "{{ ns.x }}",
    "joined": GROW + "{{ ns.x ~ '' }}",
    "as text": GROW + "{{ (ns.x|string)|length }}",
    "compared": GROW + "{% set other = ns.x %}{{ ns.x == [other[0], 1] }}{{ 'b' in (ns.x|string) }}",
    "sorted": GROW + "{{ [ns.x, ns.x]|sort }}",
    "doubled text": "{% set ns = namespace(x='a') %}"
    "{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
    "ranges": "{% for i in range(99999) %}{% for j in range(99999) %}{{ i }}{% endfor %}{% endfor %}",
}
SCRIPT = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (2 * 2**30, 2 * 2**30))
resource.setrlimit(resource.RLIMIT_CPU, (15, 15))
from flover.errors import FloverError
from flover.text.chat import ChatTemplate
try:
    template = ChatTemplate(sys.argv[1], special_tokens={})
    template.render([{"role": "user", "content": "hello"}])
except FloverError as error:
    print("refused", error)
"""


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_that_grows_is_refused_soon(name: str) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, TEMPLATES[name]], capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("refused"), (done.returncode, done.stderr[-500:])
