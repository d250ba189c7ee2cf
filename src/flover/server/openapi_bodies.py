"""JSON Schemas of request bodies.

A schema cannot compare two fields; where the server does, the schema only allows one of them at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

import msgspec
from msgspec import Raw

from flover.config import Limits, ServerConfig
from flover.request import MAX_HIDDEN_SIZE, ModelFacts, max_total_tokens
from flover.sampling_checks import BIAS, MAX_BIASES, MAX_ID, MAX_STOP_IDS, RANGES, THINKING, Range
from flover.server.body import field_types, required_fields
from flover.server.fields import INFORMATION, NEUTRAL, STRICT
from flover.server.openapi_constraints import FORMAT, PLAIN_FORMAT, STRUCTURED, TOOL, TOOL_CHOICE
from flover.server.openapi_shapes import FLAG, NULL, TEXT, Schema, number, text_or_parts
from flover.server.params import LOGPROBS
from flover.server.protocol import (
    MAX_TEMPLATE_ARGUMENTS,
    MAX_TOOLS,
    ChatBody,
    CompletionBody,
    DetokenizeBody,
    EmbeddingBody,
    Message,
    Prompts,
    ResponseFormat,
    Role,
    Scalar,
    StreamOptions,
    TokenizeBody,
)
from flover.structured_outputs import StructuredOutputsParams
from flover.text.chat import RESERVED_KWARGS

_TOOL_CALL = {
    "type": "object",
    "required": ["function"],
    "properties": {
        "id": TEXT,
        "type": TEXT,
        "function": {
            "type": "object",
            "required": ["name"],
            "properties": {"name": {"type": "string"}, "arguments": {"type": ["string", "object", "null"]}},
        },
    },
}
_MESSAGE: Schema = {
    "type": "object",
    "required": ["role", "content"],
    "properties": {
        "content": text_or_parts({"const": "text"}),
        "name": TEXT,
        "tool_calls": {"type": ["array", "null"], "items": _TOOL_CALL, "maxItems": MAX_TOOLS},
        "tool_call_id": TEXT,
        "reasoning": TEXT,
        "reasoning_content": TEXT,
        "refusal": TEXT,
        "audio": NULL,
        "function_call": NULL,
    },
}
_STREAM_OPTIONS: Schema = {
    "type": ["object", "null"],
    "properties": {"include_usage": FLAG, "continuous_usage_stats": FLAG, "include_obfuscation": FLAG},
    "additionalProperties": NULL,
}
_ARGUMENTS: Schema = {
    "type": ["object", "null"],
    "propertyNames": {"pattern": "^[a-z][a-z_]{0,30}$", "not": {"enum": sorted(RESERVED_KWARGS)}},
    "additionalProperties": {"type": ["string", "number", "boolean", "null"], "maxLength": 1000},
    "maxProperties": MAX_TEMPLATE_ARGUMENTS - 1,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """What bodies depend on: the names that a server answers to, and what it knows of the loaded model. `facts` are
    None before it is loaded."""

    names: Sequence[str]
    facts: ModelFacts | None = None
    roles: frozenset[str] = frozenset(get_args(Role))
    """Roles that the chat template supports."""
    constrains: bool = True
    """Whether answers can be constrained: that needs a tokenizer."""
    calls: bool = True
    """Whether the model may choose to call tools: how it writes calls is known."""
    thinks: bool = True
    """Whether reasoning can have a budget: how it begins and ends is known."""
    empty_prompt: bool = False
    """Whether an empty prompt has a token, the beginning-of-sequence token."""


def body_schemas(config: ServerConfig, served: ServedModel) -> dict[str, Schema]:
    """The schemas of all bodies, by the names of their types."""
    make = _Maker(config, served)
    completion, chat = make.body(CompletionBody), make.body(ChatBody)
    some = {name: _max_tokens(1) for name in ("max_tokens", "max_completion_tokens")}
    completion["anyOf"] = _apart([*_NOT_TOGETHER, _joined(_SPACES, _FORMAT, _PROMPTS), (some, {"echo": _ON})])
    chat["anyOf"] = _apart([*_NOT_TOGETHER, _joined(_SPACES, _FORMAT, _CONTINUING, _THINKING), _TOP])
    if not served.thinks:
        chat["properties"][THINKING] = _NO_BUDGET
    if not served.calls:
        chat["properties"]["tools"] = {"type": ["array", "null"], "maxItems": 0}
    tokenize = make.body(TokenizeBody)
    tokenize["properties"] |= {name: {"anyOf": [tokenize["properties"][name], NULL]} for name in ("prompt", "messages")}
    tokenize["oneOf"] = [
        {"required": [name], "properties": {name: {"not": NULL}, other: NULL}}
        for name, other in (("prompt", "messages"), ("messages", "prompt"))
    ]
    tokenize["anyOf"] = _apart([_CONTINUING])
    return {
        "Message": _message(served.roles) | ({"additionalProperties": False} if config.strict else {}),
        "CompletionBody": completion,
        "ChatBody": chat,
        "TokenizeBody": tokenize,
        "EmbeddingBody": make.body(EmbeddingBody),
        "DetokenizeBody": make.body(DetokenizeBody),
    }


_ONLY_ONE: Schema = {"enum": [1, None]}
_OFF: Schema = {"enum": [False, None]}
_ON: Schema = {"const": True}
_ON_BY_DEFAULT: Schema = {"enum": [True, None]}
_NONE_OR_0: Schema = {"enum": [0, None]}
_NO_USAGE: Schema = {
    "type": ["object", "null"],
    "properties": {"include_usage": _OFF, "continuous_usage_stats": _OFF},
}
_Pair = tuple[dict[str, Schema], dict[str, Schema]]
_FREE: dict[str, Schema] = {"bad_words": NULL, "ignore_eos": _OFF}
"""What goes with no constraint on the answer."""
_NOT_TOGETHER: list[_Pair] = [
    ({"stream_options": _NO_USAGE}, {"stream": _ON}),
    ({"prompt_logprobs": NULL}, {"stream": _OFF}),
    ({"structured_outputs": NULL}, _FREE),
    ({"min_tokens": _NONE_OR_0}, {"max_tokens": NULL, "max_completion_tokens": NULL, "allowed_token_ids": NULL}),
    ({"allowed_token_ids": NULL}, {"bad_words": NULL, "min_tokens": _NONE_OR_0}),
]
"""Fields that exclude each other: the usual value of the first, and the value of the second if the first differs."""
_SPACES: _Pair = ({"spaces_between_special_tokens": _ON_BY_DEFAULT}, {"skip_special_tokens": _ON_BY_DEFAULT})
_FORMAT: _Pair = ({"response_format": PLAIN_FORMAT}, _FREE)
_PROMPTS: _Pair = (
    {"n": _ONLY_ONE, "add_special_tokens": _ON_BY_DEFAULT},
    {"prompt": {"type": "string", "minLength": 1}},
)
_CONTINUING: _Pair = ({"continue_final_message": _OFF}, {"add_generation_prompt": _OFF})
_NO_BUDGET: Schema = {"enum": [-1, None]}
_THINKING: _Pair = ({THINKING: _NO_BUDGET}, {"allowed_token_ids": NULL, "bad_words": NULL})
_TOP: _Pair = ({"top_logprobs": _NONE_OR_0}, {"logprobs": _ON})


def _joined(*pairs: _Pair) -> _Pair:
    """The first fields may be unusual if all second ones are as each of the pairs asks."""
    first = {name: schema for one, _ in pairs for name, schema in one.items()}
    return first, {name: schema for _, other in pairs for name, schema in other.items()}


def _apart(pairs: list[_Pair]) -> list[Schema]:
    """Alternatives in which at most one of the pairs' first fields has an unusual value. At most seven: tools that
    generate requests from the document do not support more. The one where all are usual is left out where the first two
    pairs are those of streams: a request streams or does not."""
    usual = {name: schema for first, _ in pairs for name, schema in first.items()}
    alternatives: list[Schema] = [] if pairs[:2] == _NOT_TOGETHER[:2] else [{"properties": usual}]
    for first, second in pairs:
        rest = {name: schema for name, schema in usual.items() if name not in first}
        needed = [name for name, schema in second.items() if "const" in schema]
        alternatives.append({"properties": rest | second, "required": needed})
    return alternatives


class _Maker:
    """Makes the schema of each field from its type and the configured limits."""

    def __init__(self, config: ServerConfig, served: ServedModel) -> None:
        facts = served.facts
        self._strict = config.strict
        self._limits: Limits = config.limits
        self._names = served.names
        self._constrains = served.constrains
        self._shortest = 0 if served.empty_prompt else 1
        last = MAX_ID if facts is None else facts.vocab_size - 1
        self._token: Schema = {"type": "integer", "minimum": 0, "maximum": last}
        self._bias_names = "^[0-9]{1,10}$" if facts is None else number_pattern(last)
        self._room = None if facts is None else max_total_tokens(facts) - 1
        self._hidden_size = MAX_HIDDEN_SIZE if facts is None else facts.hidden_size

    def body(self, kind: type[msgspec.Struct]) -> Schema:
        """The schema of a whole body."""
        others: dict[str, Schema] = {name: {} for name in INFORMATION}
        others |= {name: {"enum": [*neutral, None]} for name, neutral in NEUTRAL.items()}
        if self._strict:
            others = {name: schema for name, schema in others.items() if name in STRICT}
        own = {name: self._field(name, field, kind) for name, field in field_types(kind).items()}
        return {
            "type": "object",
            "description": kind.__doc__,
            "required": list(required_fields(kind)),
            "properties": {name: schema for name, schema in others.items() if name not in own} | own,
            "additionalProperties": False if self._strict else NULL,
        }

    def _field(self, name: str, kind: Any, body: type[msgspec.Struct]) -> Schema:
        named: dict[str, Callable[[], Schema]] = {
            "model": lambda: {"enum": [*self._names, None]},
            "best_of": lambda: _ONLY_ONE,
            "max_tokens": lambda: _max_tokens(0 if body is CompletionBody else 1),
            "max_completion_tokens": lambda: _max_tokens(0 if body is CompletionBody else 1),
            "prompt_logprobs": lambda: number(LOGPROBS),
            "top_logprobs": lambda: number(LOGPROBS),
            "stop_token_ids": lambda: self._list(self._token, MAX_STOP_IDS),
            "allowed_token_ids": lambda: self._list(self._token, None) | {"minItems": 1},
            "tokens": lambda: {"type": "array", "items": self._token},
            "stop": lambda: {"anyOf": [{"type": "string"}, self._list(_A_WORD, self._limits.max_stop_strings)]},
            "bad_words": lambda: self._list(_A_WORD, self._limits.max_bad_words),
            "tools": lambda: self._list(TOOL, MAX_TOOLS),
            "tool_choice": lambda: TOOL_CHOICE,
            "dimensions": lambda: number(Range(1, self._hidden_size, integer=True)),
        }
        if name in named:
            return named[name]()
        if name == "logprobs" and kind is int:
            return number(LOGPROBS)
        if name in RANGES and kind in (int, float):
            return number(RANGES[name])
        return self._by_type(kind)

    def _by_type(self, kind: Any) -> Schema:
        fixed: list[tuple[Any, Schema]] = [
            (bool, FLAG),
            (str, TEXT),
            (StreamOptions, _STREAM_OPTIONS),
            (ResponseFormat, FORMAT if self._constrains else PLAIN_FORMAT),
            (StructuredOutputsParams, STRUCTURED if self._constrains else NULL),
            (dict[str, Scalar], _ARGUMENTS),
            (list[Message], {"type": ["array"], "items": {"$ref": "#/components/schemas/Message"}, "minItems": 1}),
            (dict[str, float], self._bias()),
            (Prompts, self._prompts()),
            (Raw, {}),
        ]
        for other, schema in fixed:
            if kind == other:
                return schema
        if get_origin(kind) is Literal:
            return {"enum": [*get_args(kind), None]}
        return {"anyOf": [msgspec.json.schema(kind), NULL]}

    def _bias(self) -> Schema:
        return {
            "type": ["object", "null"],
            "propertyNames": {"pattern": self._bias_names},
            "additionalProperties": {"type": "number", "minimum": BIAS.low, "maximum": BIAS.high},
            "maxProperties": MAX_BIASES,
        }

    def _prompts(self) -> Schema:
        ids: Schema = {"type": "array", "items": self._token, "minItems": 1}
        if self._room is not None:
            ids["maxItems"] = self._room
        text = {"type": "string", "minLength": self._shortest}
        several = {"type": "array", "minItems": 1, "maxItems": self._limits.max_request_seqs}
        return {"anyOf": [text, ids, {**several, "items": text}, {**several, "items": ids}]}

    def _list(self, items: Schema, most: int | None) -> Schema:
        schema: Schema = {"type": ["array", "null"], "items": items}
        return schema if most is None else {**schema, "maxItems": most}


def _message(roles: frozenset[str]) -> Schema:
    return {**_MESSAGE, "properties": {"role": {"enum": sorted(roles)}, **_MESSAGE["properties"]}}


_A_WORD: Schema = {"type": "string", "minLength": 1}


def _max_tokens(least: int) -> Schema:
    """`max_tokens`; -1 means as many as fit."""
    return {"anyOf": [{"type": "integer", "minimum": least, "maximum": MAX_ID}, {"const": -1}, NULL]}


def number_pattern(last: int) -> str:
    """A regular expression for the whole numbers from 0 to `last`, without leading zeros."""
    digits = str(last)
    options = ["0"] if last < 10 else ["0", "[1-9]" + (f"[0-9]{{0,{len(digits) - 2}}}" if len(digits) > 2 else "")]
    for place, digit in enumerate(digits):
        low = 1 if place == 0 else 0
        if int(digit) > low:
            rest = len(digits) - place - 1
            options.append(f"{digits[:place]}[{low}-{int(digit) - 1}]" + (f"[0-9]{{{rest}}}" if rest else ""))
    return f"^({'|'.join([*options, digits])})$"
