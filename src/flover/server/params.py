"""Makes `SamplingParams` from the fields of a request body. Absent fields take the model's defaults, then OpenAI's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flover.errors import RequestError, wrong_value
from flover.generation_config import SamplingDefaults, default_max_tokens
from flover.request import SamplingParams
from flover.sampling_checks import ALL, MAX_LOGPROBS, RANGES, Range, check_number
from flover.server.protocol import ChatBody, CompletionBody, GenerationBody
from flover.server.read_structured import SCHEMA

_CONSTRAINT = re.compile(r"structured_outputs(\.\w+)?")
_SAME = tuple(
    name
    for name in SamplingParams.__struct_fields__
    if name in GenerationBody.__struct_fields__ and name not in ("max_tokens", "logit_bias")
)
"""Fields with the same name and meaning in the body and in `SamplingParams`."""


LOGPROBS = Range(0, MAX_LOGPROBS, integer=True)
"""Maximum log-probabilities per token of a client; the whole vocabulary is for `LLM` only."""


def completion_params(
    body: CompletionBody, defaults: SamplingDefaults, *, detokenize: bool, strict: bool = False
) -> SamplingParams:
    """The sampling parameters of a text completion. Raises `RequestError`."""
    fields = _common(body, defaults, strict=strict)
    wanted = _max_tokens(body, default_max_tokens(defaults, chat=False), strict=strict)
    if scores_prompt_only(body):
        wanted = 1  # the engine scores a prompt on the way to its first token; the server drops that one
    if body.logprobs is not None:
        check_number("logprobs", body.logprobs, LOGPROBS)
    fields |= {"max_tokens": wanted, "logprobs": body.logprobs, "detokenize": detokenize}
    if body.echo and body.logprobs is not None and body.prompt_logprobs is None:
        fields["prompt_logprobs"] = body.logprobs
    return SamplingParams(**fields)


def scores_prompt_only(body: CompletionBody) -> bool:
    """`echo` with `max_tokens: 0`: the prompt and its log-probabilities, nothing generated."""
    return body.wanted_tokens == 0 and bool(body.echo)


def chat_params(body: ChatBody, defaults: SamplingDefaults, *, strict: bool = False) -> SamplingParams:
    """The sampling parameters of a chat completion; without a limit the output may fill the context. Raises
    `RequestError`."""
    fields = _common(body, defaults, strict=strict)
    if body.top_logprobs is not None:
        check_number("top_logprobs", body.top_logprobs, LOGPROBS)
        if not body.logprobs and (strict or body.top_logprobs > 0):
            raise RequestError("top_logprobs needs logprobs: true", param="top_logprobs")
    if body.logprobs:
        fields["logprobs"] = body.top_logprobs or 0
    fields["max_tokens"] = _max_tokens(body, default_max_tokens(defaults, chat=True), strict=strict)
    return SamplingParams(**fields)


@contextmanager
def own_names(body: GenerationBody, *, tools: bool = False) -> Iterator[None]:
    """Rename fields in errors raised inside from `SamplingParams` to those of the request. `tools`: whether a
    constraint is made of the tools."""
    try:
        yield
    except RequestError as error:
        names = {}
        if isinstance(body, ChatBody):
            names["prompt"] = "messages"
        if body.max_completion_tokens is not None:
            names["max_tokens"] = "max_completion_tokens"
        if body.structured_outputs is None:
            names["structured_outputs"] = "tools" if tools else "response_format"
        own = names.get(error.param or "")
        if own is None:
            raise
        message = error.message
        if own == "response_format":
            message = message.replace("structured_outputs.json", SCHEMA)
        elif own == "tools":
            message = _CONSTRAINT.sub("tools" if body.response_format is None else "tools and response_format", message)
        elif own != "messages":
            message = message.replace("max_tokens", own)
        raise RequestError(message, param=own, code=error.code) from None


def _max_tokens(body: GenerationBody, default: int | None, *, strict: bool) -> int | None:
    old, new = body.max_tokens, body.max_completion_tokens
    for name, value in (("max_tokens", old), ("max_completion_tokens", new)):
        scores = value == 0 and body.echo and isinstance(body, CompletionBody)
        if value is not None and not scores and (strict or value != ALL):
            check_number(name, value, RANGES["max_tokens"])
    if strict and None not in (old, new) and old != new:
        raise RequestError(
            f"max_completion_tokens ({new}) and its old name max_tokens ({old}) differ", param="max_completion_tokens"
        )
    wanted = body.wanted_tokens
    if wanted is None:  # a default yields to min_tokens of the request
        return default if default is None or not body.min_tokens else max(default, body.min_tokens)
    return None if wanted == ALL else wanted


def _common(body: GenerationBody, defaults: SamplingDefaults, *, strict: bool) -> dict[str, Any]:
    options = body.stream_options
    if options is not None and not body.stream and (strict or options.asks_for_usage):
        raise RequestError("stream_options needs stream: true", param="stream_options")
    if body.prompt_logprobs is not None:
        check_number("prompt_logprobs", body.prompt_logprobs, LOGPROBS)
        if body.stream:
            raise RequestError("prompt_logprobs cannot be streamed", param="prompt_logprobs")
    fields: dict[str, Any] = dict(defaults)
    fields |= {name: getattr(body, name) for name in _SAME if getattr(body, name) is not None}
    if body.response_format is not None and body.response_format.constraint is not None:
        if body.structured_outputs is not None:
            raise RequestError(
                f"response_format of type {body.response_format.type} and structured_outputs exclude each other",
                param="structured_outputs",
            )
        fields["structured_outputs"] = body.response_format.constraint
    if body.best_of not in (None, 1, fields.get("n", 1)):
        raise wrong_value("best_of", "1, or equal to n", body.best_of)
    if body.logit_bias:
        fields["logit_bias"] = {_token_id(key): value for key, value in body.logit_bias.items()}
    return fields


def _token_id(key: str) -> int:
    if not (key.isascii() and key.isdigit() and len(key) <= 10 and key == str(int(key))):
        raise wrong_value("a name in logit_bias", "a token id", key, param="logit_bias")
    return int(key)
