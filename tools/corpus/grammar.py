"""The template language that all text of the corpus is written in.

`[a|b|c]` picks one alternative (they nest; an empty one makes the text optional) and `{slot}` inserts a
bound word. Articles, spaces and capital letters are repaired afterwards, so a template may say
"a {animal}" for an owl, and may start a sentence with `{he}`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping

from corpus.dialogue import fix_speech
from corpus.inflect import fix_articles

_ALTERNATIVES = re.compile(r"\[([^\[\]]*)\]")
_SLOT = re.compile(r"\{(\^?)(\w+)\}")
_SENTENCE_START = re.compile(r"(^|\n|[.!?] |\.\" )(\"?)([a-z])")
_OPEN_QUOTE = re.compile(r"((?:^|[\s])\")([a-z])")


def choose_alternatives(template: str, rng: random.Random) -> str:
    """Replace every `[a|b]` by one of its alternatives, innermost first."""
    while True:
        chosen, count = _ALTERNATIVES.subn(lambda match: rng.choice(match.group(1).split("|")), template)
        if count == 0:
            return chosen
        template = chosen


def fill_slots(template: str, slots: Mapping[str, str]) -> str:
    """Replace every `{slot}`; `{^slot}` starts with a capital letter. An unknown slot is a KeyError."""

    def value(match: re.Match[str]) -> str:
        word = slots[match.group(2)]
        return word[:1].upper() + word[1:] if match.group(1) else word

    return _SLOT.sub(value, template)


def tidy(text: str) -> str:
    """Repair spacing, articles and sentence capitals."""
    text = re.sub(r" +", " ", text)
    text = re.sub(r" ([,.!?])", r"\1", text).strip()
    text = fix_speech(fix_articles(text))
    text = _SENTENCE_START.sub(lambda match: match.group(1) + match.group(2) + match.group(3).upper(), text)
    return _OPEN_QUOTE.sub(lambda match: match.group(1) + match.group(2).upper(), text)


def expand(template: str, rng: random.Random, slots: Mapping[str, str] | None = None) -> str:
    """Expand one template to finished text."""
    return tidy(fill_slots(choose_alternatives(template, rng), slots or {}))
