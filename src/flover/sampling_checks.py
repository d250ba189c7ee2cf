"""Sampling parameters: what is known of each, as data, and the checks of every field, then of combinations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from flover.errors import RequestError, too_many, wrong_value
from flover.structured_outputs import StructuredOutputsParams
from flover.thinking import ThinkingBudget

if TYPE_CHECKING:
    from flover.request import SamplingParams

MAX_LOGPROBS = 20
"""Maximum of `logprobs`; -1 asks for the whole vocabulary."""
MAX_SEQUENCES = 64
"""Maximum of `n`."""
MAX_STOP_STRINGS = 1024
MAX_BAD_WORDS = 1024
"""Limits per request, independent of the server's limits."""
MAX_STOP_IDS = 64
MAX_BIASES = 300
MAX_ALLOWED_IDS = 2**20
MAX_ID = 2**31 - 1


ALL = -1
"""As many as fit."""


class Range(msgspec.Struct, frozen=True):
    """The range of a numeric field, both ends included."""

    low: float
    high: float
    integer: bool = False
    optional: bool = False
    """Whether None is allowed too."""
    or_all: bool = False
    """Whether -1, for as many as fit, is allowed too."""

    @property
    def kind(self) -> type[int | float]:
        """The type of its numbers."""
        return int if self.integer else float

    @property
    def wanted(self) -> str:
        """The description of the range in errors."""
        kind = "a whole number" if self.integer else "a number"
        return f"{kind} between {_written(self.low)} and {_written(self.high)}{' or -1' if self.or_all else ''}"


class Parameter(msgspec.Struct, frozen=True, kw_only=True):
    """What is said of a number among the sampling parameters beside its default (`SamplingParams`). A name that is
    empty means that the parameter is not there."""

    range: Range
    help: str = ""
    """Help of its flag."""
    ollama: str = ""
    """Name among Ollama's options."""
    recommended: str = ""
    """Name in generation_config.json."""
    gguf: str = ""
    """Name in the metadata of GGUF files, after general.sampling."""


PARAMETERS = {
    "n": Parameter(range=Range(1, MAX_SEQUENCES, integer=True)),
    "presence_penalty": Parameter(
        range=Range(-2, 2), help="above 0 makes generated tokens less likely", ollama="presence_penalty"
    ),
    "frequency_penalty": Parameter(
        range=Range(-2, 2), help="the same, for each time a token was generated", ollama="frequency_penalty"
    ),
    "repetition_penalty": Parameter(
        range=Range(1e-10, 1e10),
        help="above 1 makes tokens of the prompt and output less likely",
        ollama="repeat_penalty",
        recommended="repetition_penalty",
    ),
    "temperature": Parameter(
        range=Range(0, 1e4),
        help="0 is greedy; higher is more random",
        ollama="temperature",
        recommended="temperature",
        gguf="temp",
    ),
    "top_p": Parameter(
        range=Range(1e-10, 1),
        help="sample from the most likely tokens with this total probability",
        ollama="top_p",
        recommended="top_p",
        gguf="top_p",
    ),
    "top_k": Parameter(
        range=Range(-1, MAX_ID, integer=True),
        help="sample from this many of the most likely tokens; 0 is all",
        ollama="top_k",
        recommended="top_k",
        gguf="top_k",
    ),
    "min_p": Parameter(
        range=Range(0, 1),
        help="sample from tokens with at least this probability, relative to the most likely one",
        ollama="min_p",
        recommended="min_p",
        gguf="min_p",
    ),
    "min_tokens": Parameter(range=Range(0, MAX_ID, integer=True), help="minimum number of tokens to generate"),
    "seed": Parameter(range=Range(-(2**63), 2**63 - 1, integer=True, optional=True), ollama="seed"),
    "max_tokens": Parameter(
        range=Range(1, MAX_ID, integer=True, optional=True),
        help="maximum number of tokens to generate",
        ollama="num_predict",
        recommended="max_new_tokens",
    ),
    "logprobs": Parameter(range=Range(-1, MAX_LOGPROBS, integer=True, optional=True)),
    "prompt_logprobs": Parameter(range=Range(-1, MAX_LOGPROBS, integer=True, optional=True)),
    "truncate_prompt_tokens": Parameter(range=Range(1, MAX_ID, integer=True, optional=True, or_all=True)),
}
"""Numbers among the sampling parameters, in the order in which they are checked. Flags, Ollama's options, the values
that models recommend, and the schemas of bodies are made from them."""
RANGES = {name: parameter.range for name, parameter in PARAMETERS.items()}
THINKING = "thinking_token_budget"
"""The field of clients that gives reasoning a budget."""
THINKING_TOKENS = Range(0, MAX_ID, integer=True)
TOKEN_ID = Range(0, MAX_ID, integer=True)
BIAS = Range(-100, 100)
PRIORITY = Range(-(2**31), 2**31 - 1, integer=True)
_FLAGS = (
    "include_stop_str_in_output",
    "ignore_eos",
    "detokenize",
    "skip_special_tokens",
    "spaces_between_special_tokens",
)


def check_params(params: SamplingParams) -> None:
    """Check every field alone and then the combinations. Raises `RequestError`."""
    for name, allowed in RANGES.items():
        value = getattr(params, name)
        if value is not None or not allowed.optional:
            check_number(name, value, allowed)
    for name in _FLAGS:
        if not isinstance(getattr(params, name), bool):
            raise wrong_value(name, "true or false", getattr(params, name))
    if params.pooling not in (None, "last", "mean"):
        raise wrong_value("pooling", '"last" or "mean"', params.pooling)
    if params.stop is not None:
        _check_strings("stop", params.stop_strings, MAX_STOP_STRINGS)
    if params.bad_words is not None:
        _check_strings("bad_words", params.bad_words, MAX_BAD_WORDS)
    if params.stop_token_ids is not None:
        _check_ids("stop_token_ids", params.stop_token_ids, MAX_STOP_IDS)
    if params.allowed_token_ids is not None:
        _check_ids("allowed_token_ids", params.allowed_token_ids, MAX_ALLOWED_IDS)
        if not params.allowed_token_ids:
            raise RequestError(
                "allowed_token_ids is empty: leave it out to allow every token", param="allowed_token_ids"
            )
    if params.logit_bias is not None:
        _check_bias(params.logit_bias)
    if params.structured_outputs is not None:
        _check_structured_outputs(params)
    if params.thinking is not None:
        _check_thinking(params)
    _check_combinations(params)


def check_number(where: str, value: Any, allowed: Range) -> None:
    """Check that a number is in its range. Raises `RequestError` that names `where`."""
    kinds = int if allowed.integer else int | float
    number = isinstance(value, kinds) and not isinstance(value, bool)
    fits = number and (allowed.low <= value <= allowed.high or (allowed.or_all and value == ALL))  # not NaN
    if not fits:
        raise wrong_value(where, allowed.wanted, value)


def _written(number: float) -> str:
    """A limit as text, whole numbers without an exponent."""
    return str(number) if isinstance(number, int) else f"{number:g}"


def _check_list(name: str, value: Any, most: int, wanted: str, members: str) -> None:
    if not isinstance(value, list):
        raise wrong_value(name, wanted, value)
    if len(value) > most:
        raise too_many(name, most, members, len(value))


def _check_ids(name: str, value: Any, most: int) -> None:
    _check_list(name, value, most, "a list of token ids", "token ids")
    for position, token in enumerate(value):
        if type(token) is not int or not 0 <= token <= MAX_ID:
            check_number(f"{name}[{position}]", token, TOKEN_ID)


def _check_strings(name: str, value: Any, most: int) -> None:
    _check_list(name, value, most, "a string or a list of strings", "strings")
    for position, item in enumerate(value):
        if not isinstance(item, str):
            raise wrong_value(f"{name}[{position}]", "a string", item)
        if not item:
            raise RequestError(f"{name}[{position}] is an empty string, which is in every text", param=name)
        if not _is_unicode(item):
            raise RequestError(f"{name}[{position}] holds half of a surrogate pair, which is no character", param=name)


def _is_unicode(text: str) -> bool:
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


def _check_bias(bias: Any) -> None:
    if not isinstance(bias, dict):
        raise wrong_value("logit_bias", "an object of token ids and numbers", bias)
    if len(bias) > MAX_BIASES:
        raise too_many("logit_bias", MAX_BIASES, "token ids", len(bias))
    for token, value in bias.items():
        if type(token) is not int or not 0 <= token <= MAX_ID:
            raise wrong_value("a token id in logit_bias", TOKEN_ID.wanted, token, param="logit_bias")
        check_number(f"logit_bias.{token}", value, BIAS)


def _check_structured_outputs(params: SamplingParams) -> None:
    """Refuse what could leave no token between a constraint and another, and what a constraint cannot end with."""
    if not isinstance(params.structured_outputs, StructuredOutputsParams):
        raise wrong_value("structured_outputs", "StructuredOutputsParams", params.structured_outputs)
    for name in ("ignore_eos", "min_tokens", "allowed_token_ids", "bad_words"):
        if getattr(params, name):
            raise RequestError(
                f"{name} cannot be combined with structured_outputs, which says what tokens come and when they end",
                param=name,
            )


def _check_thinking(params: SamplingParams) -> None:
    """Refuse what could leave no token where the end of reasoning is forced."""
    budget = params.thinking
    if not isinstance(budget, ThinkingBudget):
        raise wrong_value("thinking", "ThinkingBudget", budget)
    check_number(THINKING, budget.tokens, THINKING_TOKENS)
    _check_ids("thinking", [*budget.start_ids, budget.end_id, *budget.space_ids], MAX_STOP_IDS)
    for name in ("structured_outputs", "allowed_token_ids", "bad_words"):
        if getattr(params, name):
            raise RequestError(f"{THINKING} and {name} exclude each other: both say which tokens may come", param=name)


def _check_combinations(params: SamplingParams) -> None:
    if params.max_tokens is not None and params.min_tokens > params.max_tokens:
        raise RequestError(
            f"min_tokens ({params.min_tokens}) must not exceed max_tokens ({params.max_tokens})",
            param="min_tokens",
        )
    if params.stop_strings and not params.detokenize:
        raise RequestError("stop strings need detokenize=True", param="stop")
    if not params.spaces_between_special_tokens and not params.skip_special_tokens:
        raise RequestError(
            "spaces_between_special_tokens: false is not supported together with skip_special_tokens: false",
            param="spaces_between_special_tokens",
        )
