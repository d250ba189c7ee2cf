"""From the fields of a request body to `SamplingParams`. Silent fields take the model's defaults, then OpenAI's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flover.errors import RequestError
from flover.generation_config import SamplingDefaults, default_max_tokens
from flover.request import SamplingParams
from flover.server.protocol import ChatBody, CompletionBody, GenerationBody

_SAME = (
    "n",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "seed",
    "stop",
    "stop_token_ids",
    "min_tokens",
    "ignore_eos",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "include_stop_str_in_output",
    "bad_words",
    "allowed_token_ids",
    "prompt_logprobs",
    "truncate_prompt_tokens",
)
"""Fields whose name and meaning are the same in the body and in `SamplingParams`."""


def completion_params(body: CompletionBody, defaults: SamplingDefaults, *, detokenize: bool) -> SamplingParams:
    """What a text completion asks for. Raises `RequestError`."""
    fields = _common(body, defaults)
    if body.best_of is not None and body.best_of != fields.get("n", 1):
        raise RequestError(f"best_of must be equal to n ({fields.get('n', 1)}), got {body.best_of}", param="best_of")
    wanted = default_max_tokens(defaults, chat=False) if body.max_tokens is None else body.max_tokens
    if scores_prompt_only(body):
        wanted = 1  # the engine scores a prompt on the way to its first token; the door throws that one away
    fields |= {"max_tokens": wanted, "logprobs": body.logprobs, "detokenize": detokenize}
    if body.echo and body.logprobs is not None and body.prompt_logprobs is None:
        fields["prompt_logprobs"] = body.logprobs
    return SamplingParams(**fields)


def scores_prompt_only(body: CompletionBody) -> bool:
    """`echo` with `max_tokens: 0`: the prompt and its log-probabilities, nothing generated."""
    return body.max_tokens == 0 and bool(body.echo)


def chat_params(body: ChatBody, defaults: SamplingDefaults) -> SamplingParams:
    """What a chat completion asks for; without a limit the answer may fill the context. Raises `RequestError`."""
    fields = _common(body, defaults)
    if body.top_logprobs is not None and not body.logprobs:
        raise RequestError("top_logprobs needs logprobs: true", param="top_logprobs")
    if body.logprobs:
        fields["logprobs"] = body.top_logprobs or 0
    wanted = _chat_max_tokens(body)
    fields["max_tokens"] = default_max_tokens(defaults, chat=True) if wanted is None else wanted
    return SamplingParams(**fields)


@contextmanager
def chat_names(body: ChatBody) -> Iterator[None]:
    """Errors inside name the fields of a chat request, which are not called as in `SamplingParams`."""
    try:
        yield
    except RequestError as error:
        names = {"prompt": "messages"}
        if body.max_completion_tokens is not None:
            names["max_tokens"] = "max_completion_tokens"
        own = names.get(error.param or "")
        if own is None:
            raise
        message = error.message.replace("max_tokens", own) if own != "messages" else error.message
        raise RequestError(message, param=own, code=error.code) from None


def _chat_max_tokens(body: ChatBody) -> int | None:
    old, new = body.max_tokens, body.max_completion_tokens
    if None not in (old, new) and old != new:
        raise RequestError(
            f"max_completion_tokens ({new}) and its old name max_tokens ({old}) differ", param="max_completion_tokens"
        )
    return old if new is None else new


def _common(body: GenerationBody, defaults: SamplingDefaults) -> dict[str, Any]:
    _check_combinations(body)
    given = {name: getattr(body, name) for name in _SAME if getattr(body, name) is not None}
    fields = {**defaults, **given}
    if body.logit_bias is not None:
        fields["logit_bias"] = {_token_id(key): value for key, value in body.logit_bias.items()}
    return fields


def _token_id(key: str) -> int:
    if not (key.isascii() and key.isdigit() and len(key) <= 10):
        raise RequestError(f"logit_bias: {key[:50]!r} is not a token id", param="logit_bias")
    return int(key)


def _check_combinations(body: GenerationBody) -> None:
    if body.stream_options is not None and not body.stream:
        raise RequestError("stream_options needs stream: true", param="stream_options")
    if body.stream and body.prompt_logprobs is not None:
        raise RequestError("prompt_logprobs cannot be streamed", param="prompt_logprobs")
