"""Bounds how much a tokenizer.json can lengthen a text or a token, checked before first use.

A short chain of replacements that each double a text could use any amount of memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from flover.errors import ModelError

MAX_GROWTH = 64
"""Maximum factor by which all replacements of a tokenizer together may lengthen a text; known models have up to 3."""
MAX_STEPS = 64
"""Maximum number of steps of a normalizer, pre-tokenizer or decoder."""
MAX_ADDED_TOKENS = 64
"""Maximum number of special tokens that a post-processor may add to a text."""


def check_growth(tokenizer: Mapping[str, Any]) -> None:
    """Raises `ModelError` naming the section of a tokenizer.json that can make a text grow without bound."""
    for section in ("normalizer", "pre_tokenizer", "decoder"):
        growth, added = 1.0, 0
        for count, step in enumerate(_steps(tokenizer.get(section), section), 1):
            kind = step.get("type")
            if kind == "Replace":
                growth *= _replacement_growth(step)
            elif kind == "Prepend":
                added += len(_text(step.get("prepend")))
            if growth > MAX_GROWTH or added > MAX_GROWTH or count > MAX_STEPS:
                raise ModelError(
                    f"tokenizer.json: {section} can make a text more than {MAX_GROWTH} times as long, or has more than "
                    f"{MAX_STEPS} steps"
                )
    count = sum(_post_processed(step) for step in _steps(tokenizer.get("post_processor"), "post_processor"))
    if count > MAX_ADDED_TOKENS:
        raise ModelError(f"tokenizer.json: post_processor puts more than {MAX_ADDED_TOKENS} tokens around a text")


def _steps(section: Any, name: str, depth: int = 0) -> Iterator[Mapping[str, Any]]:
    """The steps of a section, with nested sequences flattened."""
    if depth > MAX_STEPS:
        raise ModelError(f"tokenizer.json: {name} is nested too deeply")
    if not isinstance(section, dict):
        return
    inner = next((value for key, value in section.items() if section.get("type") == "Sequence" and key != "type"), None)
    if not isinstance(inner, list):
        yield section
        return
    for step in inner:
        yield from _steps(step, name, depth + 1)


def _replacement_growth(step: Mapping[str, Any]) -> float:
    """The growth factor of one step. A regex may match twice at one character (its start and end), a literal once."""
    pattern, content = step.get("pattern"), _text(step.get("content"))
    plain = _text(pattern.get("String")) if isinstance(pattern, dict) else ""
    return max(1.0, len(content) / len(plain)) if plain else 1.0 + len(content)


def _post_processed(step: Mapping[str, Any]) -> int:
    single = step.get("single")
    return len(single) if isinstance(single, list) else 1


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
