"""What the text of an answer must be: the constraint of a request, and the vocabulary that it is applied to.

Sizes are bounded here, before anything reads a constraint; `flover.grammar` compiles it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import msgspec

from flover.errors import RequestError, too_many, wrong_value
from flover.json_formats import with_exact_formats

FIELD = "structured_outputs"
KINDS = ("json", "regex", "choice", "grammar", "json_object")
"""The fields of `StructuredOutputsParams` of which exactly one is given."""
MAX_SCHEMA_BYTES = 64 * 2**10
MAX_SCHEMA_DEPTH = 32
"""Objects and lists of a JSON Schema in each other."""
MAX_GRAMMAR_BYTES = 64 * 2**10
MAX_REGEX_BYTES = 2**10
MAX_CHOICES = 1000
MAX_CHOICE_BYTES = 2**10
MAX_CHOICES_BYTES = 64 * 2**10
"""Maximum of one choice and of all together."""
MAX_WHITESPACE = 32
WHITESPACE = rf"[\x20\x0A\x0D\x09]{{1,{MAX_WHITESPACE}}}"
"""Whitespace between two tokens of JSON. Without an end, a model could write nothing else until max_tokens."""
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_NOT_BRACKETS = re.compile(r"[^][{}]+")


class StructuredOutputsParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A constraint on the text of an answer, under vLLM's names. Exactly one of the first five is given.

    `json` is a JSON Schema, an object or its text, and the answer a document that it accepts; `regex` a regular
    expression in the syntax of Rust's `regex` crate that the whole answer matches; `choice` the possible answers;
    `grammar` a context-free grammar in the Lark syntax of llguidance or in GBNF (EBNF as llama.cpp and xgrammar write
    it); `json_object` asks for any JSON object. The last two fields concern JSON alone: no whitespace between its
    tokens, or whitespace that matches a regular expression. Raises `RequestError`.
    """

    json: str | dict[str, Any] | None = None
    """Always a text once the object is made."""
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    disable_any_whitespace: bool = False
    whitespace_pattern: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.json, dict):
            msgspec.structs.force_setattr(self, "json", _written(self.json))
        given = [name for name in KINDS if getattr(self, name) not in (None, False)]
        if len(given) != 1:
            raise RequestError(
                f"{FIELD} must have exactly one of {', '.join(KINDS)}, got {' and '.join(given) or 'none'}", param=FIELD
            )
        _CHECKS[given[0]](getattr(self, given[0]), f"{FIELD}.{given[0]}")
        if not isinstance(self.disable_any_whitespace, bool):
            raise wrong_value(f"{FIELD}.disable_any_whitespace", "true or false", self.disable_any_whitespace)
        if self.whitespace_pattern is not None:
            _check_text(self.whitespace_pattern, f"{FIELD}.whitespace_pattern", "a string", MAX_REGEX_BYTES)
        changed = self.disable_any_whitespace or self.whitespace_pattern is not None
        if changed and given[0] not in ("json", "json_object"):
            raise RequestError(f"{FIELD}: whitespace is a matter of JSON, not of {given[0]}", param=FIELD)
        if self.disable_any_whitespace and self.whitespace_pattern is not None:
            raise RequestError(
                f"{FIELD}: disable_any_whitespace and whitespace_pattern exclude each other", param=FIELD
            )

    @property
    def kind(self) -> str:
        """Which of the five fields is given."""
        return next(name for name in KINDS if getattr(self, name) not in (None, False))

    @property
    def key(self) -> bytes:
        """Equal for equal constraints and for no others."""
        return msgspec.msgpack.encode(self)


def json_rule(params: StructuredOutputsParams) -> str:
    """A constraint on JSON as part of a grammar in the Lark syntax of llguidance. It sets all options that a schema
    could set itself: `lenient` would drop what is not supported."""
    options: dict[str, Any] = {
        "item_separator": ",",
        "key_separator": ":",
        "whitespace_flexible": not params.disable_any_whitespace,
        "coerce_one_of": False,
        "lenient": False,
    }
    if not params.disable_any_whitespace:
        options["whitespace_pattern"] = params.whitespace_pattern or WHITESPACE
    assert params.json is None or isinstance(params.json, str)
    body = with_exact_formats(params.json or '{"type": "object"}').strip()[:-1].rstrip()
    # The last member of a name counts.
    return f'%json {body}{"" if body == "{" else ", "}"x-guidance": {json.dumps(options)}}}'


class Vocabulary(msgspec.Struct, frozen=True):
    """The bytes of every token inside a text, by id (none for an id without text), and the ids of special tokens."""

    tokens: list[bytes]
    special_ids: list[int]


def _written(schema: dict[str, Any]) -> str:
    try:
        return json.dumps(schema, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise RequestError(f"{FIELD}.json is not JSON: {error}", param=FIELD) from None


def _check_text(text: Any, where: str, wanted: str, most: int) -> None:
    if not isinstance(text, str):
        raise wrong_value(where, wanted, text)
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise RequestError(f"{where} holds half of a surrogate pair, which is no character", param=FIELD) from None
    if size > most:
        raise RequestError(f"{where} may be at most {most} bytes, got {size}", param=FIELD)


def check_schema(schema: Any, where: str) -> None:
    """Check size, depth and kind of the text of a JSON Schema. Raises `RequestError`."""
    _check_text(schema, where, "a JSON Schema, an object", MAX_SCHEMA_BYTES)
    if _depth(schema) > MAX_SCHEMA_DEPTH:
        raise RequestError(f"{where} may have at most {MAX_SCHEMA_DEPTH} objects and lists in each other", param=FIELD)
    try:
        read = json.loads(schema)
    except ValueError as error:
        raise RequestError(f"{where} is not JSON: {error}", param=FIELD) from None
    if not isinstance(read, dict):
        raise wrong_value(where, "a JSON Schema, an object", read)


def _depth(text: str) -> int:
    """The most brackets of a JSON text that are open at once."""
    depth = deepest = 0
    for bracket in _NOT_BRACKETS.sub("", _STRING.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _check_regex(regex: Any, where: str) -> None:
    _check_text(regex, where, "a regular expression, a string", MAX_REGEX_BYTES)


def _check_grammar(grammar: Any, where: str) -> None:
    _check_text(grammar, where, "a grammar, a string", MAX_GRAMMAR_BYTES)


def _check_choices(choices: Any, where: str) -> None:
    if not isinstance(choices, Sequence) or isinstance(choices, str | bytes):
        raise wrong_value(where, "a list of strings", choices)
    if len(choices) > MAX_CHOICES:
        raise too_many(where, MAX_CHOICES, "strings", len(choices))
    for index, choice in enumerate(choices):
        _check_text(choice, f"{where}[{index}]", "a string", MAX_CHOICE_BYTES)
        if not choice:
            raise RequestError(f"{where}[{index}] is an empty string", param=FIELD)
    if not choices:
        raise RequestError(f"{where} is empty", param=FIELD)
    size = sum(len(choice.encode()) for choice in choices)
    if size > MAX_CHOICES_BYTES:
        raise RequestError(f"{where} may hold at most {MAX_CHOICES_BYTES} bytes, got {size}", param=FIELD)


def _check_flag(flag: Any, where: str) -> None:
    if flag is not True:
        raise wrong_value(where, "true or false", flag)


_CHECKS = {
    "json": check_schema,
    "regex": _check_regex,
    "choice": _check_choices,
    "grammar": _check_grammar,
    "json_object": _check_flag,
}
