"""A language model that computes integers, so that "the same tokens" is an exact law: its meaning, without an engine.

What a transformer's cache and attention do, with 64-bit arithmetic modulo 2^64 in their place:

* a slot (page, offset) stores one value, which depends on the token, its position and *everything before it*, as
  keys and values of the second and later layers do:   value[i] = mix(memory[i], token[i], i)
* attention reads all earlier slots THROUGH THE PAGE TABLE and folds them, order-sensitively:
  memory[i] = sum over j < i of weight[j] * value[j]
* sampling depends on the memory after the last token, the row's parameters and its seed.

The device that runs it behind an engine is `hash_executor.py`; `alone` says what a sequence must yield.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import msgspec
import numpy as np
import numpy.typing as npt

from flover.request import FinishReason, ModelFacts, Request, SamplingParams, TokenLogprobs

MASK = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15
POISON = 0xDEAD_BEEF_DEAD_BEEF
LONGEST = 8192
"""Longest sequence, in tokens, that there are weights for."""


def scramble(x: int) -> int:
    """The finaliser of splitmix64 (Steele, Lea, Flood 2014): a bijection in which every bit moves every other."""
    x &= MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


WEIGHTS: list[int] = [scramble(GOLDEN * (i + 1)) | 1 for i in range(LONGEST)]
WEIGHT_ARRAY: npt.NDArray[np.uint64] = np.array(WEIGHTS, dtype=np.uint64)


def value_of(memory: int, token: int, position: int) -> int:
    """What the slot of this token holds, given the memory of everything before it."""
    return scramble(memory + GOLDEN * (token * LONGEST + position + 1))


def extend(memory: int, token_ids: Sequence[int], start: int) -> tuple[list[int], int]:
    """What the slots of tokens at positions start, start + 1, … hold, and the memory after them."""
    values = []
    for position, token in enumerate(token_ids, start):
        # value_of, spelled out: this is where simulations spend their time.
        x = (memory + GOLDEN * (token * LONGEST + position + 1)) & MASK
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
        x ^= x >> 31
        values.append(x)
        memory = (memory + WEIGHTS[position] * x) & MASK
    return values, memory


SAMPLING_FIELDS = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "logit_bias",
    "allowed_token_ids",
)


@lru_cache(maxsize=4096)
def _fold(encoded: bytes) -> int:
    key = len(encoded)
    for byte in encoded:
        key = scramble(key * 257 + byte)
    return key


def sampling_key(params: SamplingParams, seed: int) -> int:
    """What a row samples with, folded: one that samples with another row's columns gets other tokens."""
    fields = [getattr(params, name) for name in SAMPLING_FIELDS]
    return scramble(_fold(msgspec.msgpack.encode(fields)) + scramble(seed))


def forbidden_ids(params: SamplingParams, eos_ids: Sequence[int]) -> frozenset[int]:
    """Tokens that would end the sequence, not to be chosen before `min_tokens`."""
    stops = frozenset(params.stop_token_ids or ())
    return stops if params.ignore_eos else stops | frozenset(eos_ids)


def sample(memory: int, key: int, vocab_size: int, forbidden: frozenset[int] = frozenset()) -> int:
    """The next token."""
    token = scramble(memory ^ key) % vocab_size
    while token in forbidden:
        key = scramble(key + GOLDEN)
        token = scramble(memory ^ key) % vocab_size
    return token


def logprobs_of(memory: int, token: int, count: int) -> TokenLogprobs:
    """Made-up log-probabilities that depend on everything before the token; `count` alternatives."""
    chosen = scramble(memory + token)
    ids = [token, *(scramble(chosen + rank) % 97 for rank in range(1, count + 1))]
    return TokenLogprobs(token_ids=ids, logprobs=[-float(chosen % 1024)] * len(ids), ranks=list(range(1, len(ids) + 1)))


def prompt_logprobs_of(
    token_ids: Sequence[int], values: Sequence[int], start: int, count: int | None
) -> list[TokenLogprobs | None] | None:
    """One entry per token at positions start, start + 1, …; the slots' values stand for what is before them."""
    if count is None:
        return None
    pairs = enumerate(zip(token_ids, values, strict=True), start)
    return [logprobs_of(value, token, count) if position else None for position, (token, value) in pairs]


@dataclass(frozen=True, slots=True)
class Alone:
    """What a sequence yields, from the definition: no engine, no pages, no neighbours."""

    token_ids: list[int]
    logprobs: list[TokenLogprobs] | None
    prompt_logprobs: list[TokenLogprobs | None] | None
    finish_reason: FinishReason
    stop_reason: int | None


def alone(request: Request, index: int, facts: ModelFacts) -> Alone:
    """The whole output of sequence `index` of a request."""
    params = request.params
    assert params.max_tokens is not None, "resolve max_tokens first"
    values, memory = extend(0, request.prompt_ids, 0)
    key, forbidden = sampling_key(params, request.seed + index), forbidden_ids(params, facts.eos_ids)
    tokens: list[int] = []
    logprobs: list[TokenLogprobs] = []
    reason, stop_reason = FinishReason.LENGTH, None
    while len(tokens) < params.max_tokens and len(request.prompt_ids) + len(tokens) < facts.max_model_len:
        free = len(tokens) >= params.min_tokens
        token = sample(memory, key, facts.vocab_size, frozenset() if free else forbidden)
        if params.logprobs is not None:
            logprobs.append(logprobs_of(memory, token, params.logprobs))
        _, memory = extend(memory, (token,), len(request.prompt_ids) + len(tokens))
        tokens.append(token)
        if free and token in forbidden:
            is_eos = not params.ignore_eos and token in facts.eos_ids
            reason, stop_reason = FinishReason.STOP, None if is_eos else token
            break
    return Alone(
        tokens,
        logprobs if params.logprobs is not None else None,
        prompt_logprobs_of(request.prompt_ids, values, 0, params.prompt_logprobs) if index == 0 else None,
        reason,
        stop_reason,
    )
