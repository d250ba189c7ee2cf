"""Requests, sampling parameters and outputs: the data shared by server and engine.

The engine works on token ids. Fields of `SamplingParams` that concern text (stop strings, detokenization) are
handled by the server and `LLM`; the engine ignores them.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any

import msgspec

from flover.errors import RequestError, shown
from flover.lora import LoraAdapter
from flover.sampling_checks import check_params
from flover.structured_outputs import StructuredOutputsParams
from flover.thinking import ThinkingBudget


class FinishReason(enum.StrEnum):
    """Why a sequence ended. Every admitted sequence ends exactly once, with one of these."""

    STOP = "stop"  # end-of-sequence token, stop token id, or stop string
    LENGTH = "length"  # max_tokens or the model's context is used up
    ABORT = "abort"  # cancelled by the caller, or its client went away
    ERROR = "error"  # the engine failed on it


MAX_HIDDEN_SIZE = 2**16
"""No model has vectors of more numbers."""
GREEDY: Mapping[str, Any] = {"temperature": 0.0}
"""The sampling parameters that always choose the most likely token."""
CHAT_DEFAULTS: Mapping[str, Any] = {"max_tokens": None, "temperature": 0.7}
"""What `flover chat` has instead of the defaults of `SamplingParams`."""


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
    pooling: str | None = None
    detokenize: bool = True
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    truncate_prompt_tokens: int | None = None
    logit_bias: dict[int, float] | None = None
    allowed_token_ids: list[int] | None = None
    structured_outputs: StructuredOutputsParams | None = None
    lora: LoraAdapter | None = None
    thinking: ThinkingBudget | None = None

    def __post_init__(self) -> None:
        check_params(self)

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is always chosen."""
        return self.temperature == 0.0

    @property
    def needs_preparation(self) -> bool:
        """Whether a device may have to prepare something: a grammar, or an adapter."""
        return self.structured_outputs is not None or self.lora is not None

    @property
    def stop_strings(self) -> list[str]:
        """`stop` as a list."""
        if self.stop is None:
            return []
        return [self.stop] if isinstance(self.stop, str) else self.stop

    def replace(self, **changes: Any) -> SamplingParams:
        """A copy with some fields changed, checked again."""
        return msgspec.structs.replace(self, **changes)


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One request as it is sent to the engine: token ids and resolved parameters.

    `seed` is always set (drawn when the caller gives none); sequence i of n samples with seed + i.
    `salt` separates prefix caches: only requests with equal salt share pages. Lower `priority` goes first. Between
    requests of different `client`s the device is divided fairly.
    """

    id: str
    prompt_ids: list[int]
    params: SamplingParams
    seed: int
    priority: int = 0
    salt: str = ""
    client: str = ""
    weight: float = 1.0
    """The share of the device that its client gets beside other clients."""
    backfill: bool = False
    """To be computed only while no other request is there."""
    bad_words_ids: list[list[int]] = []
    output_ids: list[list[int]] = []
    """By sequence: tokens that an engine before brought, after which it goes on. Empty if no sequence has any."""


class TokenLogprobs(msgspec.Struct, frozen=True):
    """Log-probabilities at one position: the chosen token first, then the most likely ones in order.

    `ranks` count from 1 (the most likely token of the vocabulary).
    """

    token_ids: list[int]
    logprobs: list[float]
    ranks: list[int]


class Delta(msgspec.Struct, frozen=True, kw_only=True):
    """The output of one iteration for one sequence. The delta with a `finish_reason` is the last one.

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
    embedding: bytes | None = None
    """With the only token of a request that pools: float32 [hidden], little-endian, not normalised."""
    error: str | None = None


class ExpertReads(msgspec.Struct, frozen=True):
    """What an iteration reads of a model with experts: `part` of all weights are those of experts, and a token uses
    `chosen` of them, both as shares of 1. The default is a model without."""

    part: float = 0.0
    chosen: float = 1.0

    def share(self, tokens: int) -> float:
        """The share of the weights that so many tokens are expected to read: an expert is read if any chose it."""
        return 1.0 - self.part * (1.0 - self.chosen) ** tokens if self.part else 1.0


class ModelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The properties of a loaded model that the server needs to check requests."""

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
    hidden_size: int = MAX_HIDDEN_SIZE
    """Numbers in the vector of a token."""
    experts: ExpertReads = ExpertReads()
    switch_len: int | None = None
    """Requests that can come to more tokens than this use the model's rotary embedding for long contexts, others that
    for short ones; None if there is but one."""
    max_loras: int = 0
    """Most adapters at once; 0: none are computed."""
    deterministic: bool = True
    """Whether a request that is computed again gets the same tokens."""
    num_slots: int = 0
    """Pages of the host tier."""
    page_bytes: int = 0
    """Of one rank."""


def is_long(num_prompt: int, params: SamplingParams, switch_len: int | None) -> bool:
    """Whether a request can come to more tokens than `switch_len` (None: no request is long)."""
    return switch_len is not None and (params.max_tokens is None or num_prompt + params.max_tokens > switch_len)


def check_request(request: Request, facts: ModelFacts) -> None:
    """Check that a request can be served. Raises `RequestError` naming the field and the numbers."""
    length, params = len(request.prompt_ids), request.params
    if length == 0:
        raise RequestError("prompt is empty: at least one token is needed", param="prompt")
    low, high = min(request.prompt_ids), max(request.prompt_ids)
    if low < 0 or high >= facts.vocab_size:
        bad = low if low < 0 else high
        raise RequestError(f"token id {shown(bad)} is out of range 0..{facts.vocab_size - 1}", param="prompt")
    room = max_total_tokens(facts)
    if length >= room:
        raise too_long(length, None, facts)
    named = {
        "logit_bias": list(params.logit_bias or ()),
        "allowed_token_ids": params.allowed_token_ids or [],
        "stop_token_ids": params.stop_token_ids or [],
        "bad_words": [token for word in request.bad_words_ids for token in word],
        "thinking": [] if params.thinking is None else [*params.thinking.start_ids, params.thinking.end_id],
    }
    for name, ids in named.items():
        if ids and max(ids) >= facts.vocab_size:
            raise RequestError(f"{name}: token id {max(ids)} is out of range 0..{facts.vocab_size - 1}", param=name)
    if params.structured_outputs is not None and not facts.eos_ids:
        raise RequestError(
            "structured_outputs need a model with an end-of-sequence token: nothing else ends such an answer",
            param="structured_outputs",
        )
    if params.lora is not None and facts.max_loras == 0:
        raise RequestError("an adapter needs --enable-lora", param="model")
    _check_outputs(request, room)
    _check_choice(request, facts)


def _check_outputs(request: Request, room: int) -> None:
    """Refuse a request that goes on where there is nothing left to generate."""
    if not request.output_ids:
        return
    if len(request.output_ids) != request.params.n:
        raise RequestError(
            f"output_ids has tokens of {len(request.output_ids)} sequences, n is {request.params.n}", param="output_ids"
        )
    most, longest = room - len(request.prompt_ids), max(map(len, request.output_ids))
    if request.params.max_tokens is not None:
        most = min(most, request.params.max_tokens)
    if longest >= most:
        raise RequestError(f"output_ids has a sequence of {longest} tokens, of {most} at most", param="output_ids")


def _check_choice(request: Request, facts: ModelFacts) -> None:
    """Refuse masks that leave no token for the first choice: single tokens of `bad_words` are never chosen, and those
    that end a sequence not before `min_tokens`."""
    params = request.params
    banned = {word[0] for word in request.bad_words_ids if len(word) == 1}
    if params.min_tokens > 0:
        banned.update(facts.eos_ids, params.stop_token_ids or ())
    if params.allowed_token_ids is None:
        left = len(banned) < facts.vocab_size
    else:
        left = not banned.issuperset(params.allowed_token_ids)
    if not left:
        names = [name for name in ("allowed_token_ids", "bad_words") if getattr(params, name)]
        if params.min_tokens > 0:
            names += [f"min_tokens ({params.min_tokens}, before which no token may end the answer)"]
        raise RequestError(f"no token is left to choose under {' and '.join(names)}", param=names[0].partition(" ")[0])


def max_total_tokens(facts: ModelFacts) -> int:
    """Most tokens, prompt and output together, that one sequence can have here."""
    return min(facts.max_model_len, facts.pool_tokens)


def too_long(length: int, max_tokens: int | None, facts: ModelFacts) -> RequestError:
    """The error about a prompt of `length` tokens that leaves no room, or not the `max_tokens` that were asked for; in
    OpenAI's words, which clients look for."""
    limit = max_total_tokens(facts)
    pool = "" if facts.max_model_len <= facts.pool_tokens else f" (the key/value pool of {limit} tokens)"
    if max_tokens is None:
        asked = f"your prompt has {length} tokens, which leaves no room for a completion. Please shorten the prompt."
    else:
        asked = (
            f"you requested {length + max_tokens} tokens ({length} in the prompt, {max_tokens} in the completion). "
            "Please shorten the prompt or the completion."
        )
    return RequestError(
        f"This model's maximum context length is {limit} tokens{pool}. However, {asked}",
        param="prompt" if length >= limit else "max_tokens",
        code="context_length_exceeded",
    )


def check_fits(request: Request, max_tokens: int | None, facts: ModelFacts) -> None:
    """Refuse a request whose prompt does not leave `max_tokens`, instead of cutting them to what fits."""
    length = len(request.prompt_ids)
    if max_tokens is not None and max_tokens > max_total_tokens(facts) - length:
        raise too_long(length, max_tokens, facts)


def resolve_max_tokens(request: Request, facts: ModelFacts) -> Request:
    """The request with a `max_tokens` that fits: where it is None or more, all the room that the prompt leaves. The
    sequence then ends there with the reason "length", also before `min_tokens`."""
    room = max_total_tokens(facts) - len(request.prompt_ids)
    params = request.params
    if params.max_tokens is not None and params.max_tokens <= room:
        return request
    fitting = params.replace(max_tokens=room, min_tokens=min(params.min_tokens, room))
    return msgspec.structs.replace(request, params=fitting)
