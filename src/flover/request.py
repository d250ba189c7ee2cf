"""What a caller asks for and what comes back: data only, shared by the door and the engine; no torch, no text.

The engine speaks token ids. Fields of `SamplingParams` that concern text (stop strings, detokenisation) are
honoured at the door; the engine ignores them.
"""

from __future__ import annotations

import enum
import math
from typing import Any

import msgspec

from flover.errors import RequestError

MAX_LOGPROBS = 20
"""Most alternatives per position that `logprobs` may ask for; -1 asks for the whole vocabulary."""
MAX_SEQUENCES = 64
"""Most sequences that one request may ask for with `n`."""


class FinishReason(enum.StrEnum):
    """Why a sequence ended. Every admitted sequence ends exactly once, with one of these."""

    STOP = "stop"  # end-of-sequence token, stop token id, or stop string
    LENGTH = "length"  # max_tokens or the model's context is used up
    ABORT = "abort"  # cancelled by the caller, or its client went away
    ERROR = "error"  # the engine failed on it


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to choose tokens and when to stop. Names, meanings and defaults are vLLM's.

    Values are checked on construction; `RequestError` names the field and its limit.
    """

    n: int = 1
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    bad_words: list[str] | None = None
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    detokenize: bool = True
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    truncate_prompt_tokens: int | None = None
    logit_bias: dict[int, float] | None = None
    allowed_token_ids: list[int] | None = None

    def __post_init__(self) -> None:
        check_params(self)

    @property
    def greedy(self) -> bool:
        """Temperature 0: the most likely token, always."""
        return self.temperature == 0.0

    @property
    def stop_strings(self) -> list[str]:
        """`stop` as a list."""
        if self.stop is None:
            return []
        return [self.stop] if isinstance(self.stop, str) else self.stop

    def replace(self, **changes: Any) -> SamplingParams:
        """A copy with some fields changed, checked again."""
        return msgspec.structs.replace(self, **changes)


def _number(name: str, value: Any, low: float, high: float, *, integer: bool = False) -> None:
    number = isinstance(value, int if integer else int | float) and not isinstance(value, bool)
    if not number or (isinstance(value, float) and not math.isfinite(value)):  # a whole number may be beyond any float
        kind = "an integer" if integer else "a finite number"
        raise RequestError(f"{name} must be {kind}, got {value!r}", param=name)
    if not low <= value <= high:
        raise RequestError(f"{name} must be between {low:g} and {high:g}, got {value!r}", param=name)


def _ids(name: str, value: Any, most: int) -> None:
    if not isinstance(value, list):
        raise RequestError(f"{name} must be a list of token ids, got {value!r}", param=name)
    if len(value) > most:
        raise RequestError(f"{name} may hold at most {most} token ids, got {len(value)}", param=name)
    for token in value:
        _number(name, token, 0, 2**31 - 1, integer=True)


def _strings(name: str, value: Any, most: int) -> None:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise RequestError(f"{name} must be a list of strings, got {value!r}", param=name)
    if len(value) > most:
        raise RequestError(f"{name} may hold at most {most} strings, got {len(value)}", param=name)
    if not all(value):
        raise RequestError(f"{name} must not hold an empty string", param=name)


_RANGES: dict[str, tuple[float, float, bool]] = {
    "n": (1, MAX_SEQUENCES, True),
    "presence_penalty": (-2, 2, False),
    "frequency_penalty": (-2, 2, False),
    "repetition_penalty": (1e-4, 1e4, False),
    "temperature": (0, 1e4, False),
    "top_p": (1e-10, 1, False),
    "top_k": (-1, 2**31 - 1, True),
    "min_p": (0, 1, False),
    "min_tokens": (0, 2**31 - 1, True),
}
_OPTIONAL_RANGES: dict[str, tuple[float, float]] = {
    "seed": (-(2**63), 2**63 - 1),
    "max_tokens": (1, 2**31 - 1),
    "logprobs": (-1, MAX_LOGPROBS),
    "prompt_logprobs": (-1, MAX_LOGPROBS),
    "truncate_prompt_tokens": (1, 2**31 - 1),
}
_FLAGS = (
    "include_stop_str_in_output",
    "ignore_eos",
    "detokenize",
    "skip_special_tokens",
    "spaces_between_special_tokens",
)


def check_params(params: SamplingParams) -> None:
    """Check every field alone and then the combinations. Raises `RequestError`."""
    for name, (low, high, integer) in _RANGES.items():
        _number(name, getattr(params, name), low, high, integer=integer)
    for name, (low, high) in _OPTIONAL_RANGES.items():
        if getattr(params, name) is not None:
            _number(name, getattr(params, name), low, high, integer=True)
    for name in _FLAGS:
        if not isinstance(getattr(params, name), bool):
            raise RequestError(f"{name} must be true or false, got {getattr(params, name)!r}", param=name)
    if params.stop is not None:
        _strings("stop", params.stop_strings, 16)
    if params.bad_words is not None:
        _strings("bad_words", params.bad_words, 64)
    if params.stop_token_ids is not None:
        _ids("stop_token_ids", params.stop_token_ids, 64)
    if params.allowed_token_ids is not None:
        _ids("allowed_token_ids", params.allowed_token_ids, 2**20)
        if not params.allowed_token_ids:
            raise RequestError("allowed_token_ids must not be empty", param="allowed_token_ids")
    if params.logit_bias is not None:
        _check_bias(params.logit_bias)
    _check_combinations(params)


def _check_bias(bias: Any) -> None:
    if not isinstance(bias, dict):
        raise RequestError(f"logit_bias must map token ids to numbers, got {bias!r}", param="logit_bias")
    if len(bias) > 300:
        raise RequestError(f"logit_bias may hold at most 300 entries, got {len(bias)}", param="logit_bias")
    for token, value in bias.items():
        _number("logit_bias", token, 0, 2**31 - 1, integer=True)
        _number("logit_bias", value, -100, 100)


def _check_combinations(params: SamplingParams) -> None:
    if params.greedy and params.n > 1:
        raise RequestError(f"n must be 1 when temperature is 0, got {params.n}", param="n")
    if params.max_tokens is not None and params.min_tokens > params.max_tokens:
        raise RequestError(
            f"min_tokens ({params.min_tokens}) must not exceed max_tokens ({params.max_tokens})",
            param="min_tokens",
        )
    if params.stop_strings and not params.detokenize:
        raise RequestError("stop strings need detokenize=True", param="stop")


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One request as it crosses from the door to the engine: token ids and resolved parameters.

    `seed` is always set (the door draws one when the caller gives none); sequence i of n samples with seed + i.
    `salt` separates prefix caches: only requests with equal salt share pages. Lower `priority` goes first.
    """

    id: str
    prompt_ids: list[int]
    params: SamplingParams
    seed: int
    priority: int = 0
    salt: str = ""
    bad_words_ids: list[list[int]] = []


class TokenLogprobs(msgspec.Struct, frozen=True):
    """Log-probabilities at one position: the chosen token first, then the most likely ones in order.

    `ranks` count from 1 (the most likely token of the vocabulary).
    """

    token_ids: list[int]
    logprobs: list[float]
    ranks: list[int]


class Delta(msgspec.Struct, frozen=True, kw_only=True):
    """News of one sequence after one iteration. The delta that has a `finish_reason` is the last one.

    `prompt_logprobs` comes once, with the first token, one entry per prompt token; the first entry is None.
    `stop_reason` is the stop token id that ended the sequence, None for end-of-sequence and length.
    """

    request_id: str
    index: int = 0
    token_ids: list[int] = []
    logprobs: list[TokenLogprobs] | None = None
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: int | None = None
    cached_tokens: int = 0
    error: str | None = None


class ModelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the door must know of a loaded model to refuse what the engine cannot do."""

    model: str
    architecture: str
    dtype: str
    vocab_size: int
    """Width of the logits; ids in a prompt, bias or mask must be below it."""
    max_model_len: int
    """Most tokens, prompt and output together, that one sequence may have."""
    pool_tokens: int
    """Tokens that the empty pool of pages can hold."""
    page_size: int
    eos_ids: list[int]
    num_parameters: int = 0
    switch_len: int | None = None
    """Requests that can come to more tokens than this use the model's rotary embedding for long contexts, others that
    for short ones; None if there is but one."""


def is_long(num_prompt: int, params: SamplingParams, switch_len: int | None) -> bool:
    """Whether a request can come to more tokens than `switch_len` (None: no request is long)."""
    return switch_len is not None and (params.max_tokens is None or num_prompt + params.max_tokens > switch_len)


def check_request(request: Request, facts: ModelFacts) -> None:
    """Refuse what can never be served: raises `RequestError` naming the field and the numbers."""
    length, params = len(request.prompt_ids), request.params
    if length == 0:
        raise RequestError("prompt is empty: at least one token is needed", param="prompt")
    low, high = min(request.prompt_ids), max(request.prompt_ids)
    if low < 0 or high >= facts.vocab_size:
        bad = low if low < 0 else high
        raise RequestError(f"token id {bad} is out of range 0..{facts.vocab_size - 1}", param="prompt")
    room = min(facts.max_model_len, facts.pool_tokens)
    wanted = params.max_tokens if params.max_tokens is not None else 1
    if length + wanted > room:
        limit = (
            f"the model's context of {facts.max_model_len}"
            if facts.max_model_len <= facts.pool_tokens
            else f"the key/value pool of {facts.pool_tokens}"
        )
        raise RequestError(
            f"prompt ({length} tokens) plus max_tokens ({wanted}) is {length + wanted}, more than {limit} tokens",
            param="prompt" if length >= room else "max_tokens",
            code="context_length_exceeded",
        )
    if params.max_tokens is None and params.min_tokens > room - length:
        raise RequestError(
            f"min_tokens ({params.min_tokens}) exceeds the room left by the prompt ({room - length})",
            param="min_tokens",
        )
    named = {
        "logit_bias": list(params.logit_bias or ()),
        "allowed_token_ids": params.allowed_token_ids or [],
        "stop_token_ids": params.stop_token_ids or [],
        "bad_words": [token for word in request.bad_words_ids for token in word],
    }
    for name, ids in named.items():
        if ids and max(ids) >= facts.vocab_size:
            raise RequestError(f"{name}: token id {max(ids)} is out of range 0..{facts.vocab_size - 1}", param=name)


def resolve_max_tokens(request: Request, facts: ModelFacts) -> Request:
    """Put a number where `max_tokens` is None: all the room that the prompt leaves."""
    if request.params.max_tokens is not None:
        return request
    room = min(facts.max_model_len, facts.pool_tokens) - len(request.prompt_ids)
    return msgspec.structs.replace(request, params=request.params.replace(max_tokens=room))
