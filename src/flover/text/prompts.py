"""Makes a checked `Request` from a prompt and sampling parameters: tokenization, truncation, bad words, seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from flover.config import Limits, flag_name
from flover.errors import RequestError, quoted, wrong_value
from flover.lora import cache_salt
from flover.request import (
    ModelFacts,
    Request,
    SamplingParams,
    check_request,
    max_total_tokens,
    resolve_max_tokens,
)
from flover.sampling_checks import ALL
from flover.text.tokenizer import Tokenizer

MAX_TRUNCATED_CHARS = 2**20
"""Maximum length in characters of a prompt that `truncate_prompt_tokens` shortens."""
_BEFORE_A_WORD = ("\n", ".", "a")
"""Characters that a word can follow without a space: SentencePiece tokenizes the word differently there."""


Prompt = str | Mapping[str, Any] | Sequence[int]
"""A text, {"prompt": text}, {"prompt_token_ids": ids} (both with an optional "cache_salt"), or a list of token ids."""

_PROMPT_FIELDS = frozenset(("prompt", "prompt_token_ids", "cache_salt"))


def check_text_limits(params: SamplingParams, limits: Limits) -> None:
    """Check number and length of stop strings and bad words. Raises `RequestError`."""
    _check_texts("stop", params.stop_strings, limits, "max_stop_strings", "max_stop_bytes")
    _check_texts("bad_words", params.bad_words or [], limits, "max_bad_words", "max_bad_word_bytes")


def _check_texts(name: str, texts: Sequence[str], limits: Limits, count_limit: str, size_limit: str) -> None:
    most, most_bytes = getattr(limits, count_limit), getattr(limits, size_limit)
    if len(texts) > most:
        flag = flag_name(count_limit)
        raise RequestError(f"{name} may hold at most {most} strings ({flag}), got {len(texts)}", param=name)
    for index, text in enumerate(texts):
        size = len(text.encode(errors="replace"))
        if size > most_bytes:
            where = f"{name}[{index}]" if len(texts) > 1 else name
            flag = flag_name(size_limit)
            raise RequestError(f"{where} is {size} bytes long, at most {most_bytes} are allowed ({flag})", param=name)


def make_request(
    prompt: str | Sequence[int],
    params: SamplingParams,
    *,
    request_id: str,
    tokenizer: Tokenizer | None,
    facts: ModelFacts,
    draw_seed: Callable[[], int],
    add_special_tokens: bool = True,
    priority: int = 0,
    salt: str = "",
    client: str = "",
    weight: float = 1.0,
    banned: list[list[int]] | None = None,
) -> Request:
    """The request for one prompt, given as text or as token ids.

    `draw_seed` is called if `params` have no seed. `add_special_tokens` applies to text only; it is False for a chat,
    whose template has them. `banned` is the result of `bad_words_ids`, if several prompts share it. Raises
    `RequestError` if the engine can never serve the request.
    """
    if isinstance(prompt, str):
        prompt_ids = encode_prompt(prompt, params, tokenizer, facts, add_special_tokens=add_special_tokens)
    else:
        prompt_ids = _check_ids(prompt)
    if params.truncate_prompt_tokens is not None:
        prompt_ids = prompt_ids[-_kept_tokens(params, facts) :]
    if params.stop_strings and tokenizer is None:
        raise RequestError("stop strings need a tokenizer, and none is loaded", param="stop")
    if not params.spaces_between_special_tokens and tokenizer is not None and tokenizer.adds_spaces:
        raise RequestError(
            "spaces_between_special_tokens: false is not supported with this model's tokenizer, which puts a space "
            "between any two tokens",
            param="spaces_between_special_tokens",
        )
    request = Request(
        id=request_id,
        prompt_ids=prompt_ids,
        params=params,
        seed=params.seed if params.seed is not None else draw_seed(),
        priority=priority,
        salt=cache_salt(salt, params.lora),
        client=client,
        weight=weight,
        bad_words_ids=bad_words_ids(params.bad_words or [], tokenizer) if banned is None else banned,
    )
    check_request(request, facts)
    return resolve_max_tokens(request, facts)


def _kept_tokens(params: SamplingParams, facts: ModelFacts) -> int:
    """How many tokens `truncate_prompt_tokens` leaves of a prompt; -1 leaves as many as fit beside `max_tokens`."""
    assert params.truncate_prompt_tokens is not None
    if params.truncate_prompt_tokens != ALL:
        return params.truncate_prompt_tokens
    total, wanted = max_total_tokens(facts), params.max_tokens or 1
    if wanted >= total:
        raise RequestError(
            f"max_tokens ({wanted}) leaves no token of the prompt, which truncate_prompt_tokens: -1 shortens: both "
            f"together have {total} tokens at most",
            param="max_tokens",
        )
    return total - wanted


def encode_prompt(
    text: str,
    params: SamplingParams,
    tokenizer: Tokenizer | None,
    facts: ModelFacts,
    *,
    add_special_tokens: bool = True,
) -> list[int]:
    """Token ids of a prompt; a text too long for the context is refused before it is tokenized."""
    if tokenizer is None:
        raise RequestError("the prompt is text, but no tokenizer is loaded: give token ids", param="prompt")
    cut = params.truncate_prompt_tokens is not None
    return encode_text(text, tokenizer, facts, add_special_tokens=add_special_tokens, cut=cut)


def encode_text(
    text: str, tokenizer: Tokenizer, facts: ModelFacts, *, add_special_tokens: bool, cut: bool = False
) -> list[int]:
    """Token ids of a text. Raises `RequestError` if it cannot fit the context, unless it will be truncated (`cut`)."""
    most = facts.max_model_len * tokenizer.longest_token_len
    if len(text) > (max(most, MAX_TRUNCATED_CHARS) if cut else most):
        raise RequestError(
            f"This model's maximum context length is {facts.max_model_len} tokens, at most {most} characters. However, "
            f"your prompt has {len(text)} characters. Please reduce its length.",
            param="prompt",
            code="context_length_exceeded",
        )
    return tokenizer.encode(text, add_special_tokens=add_special_tokens)


def bad_words_ids(words: Sequence[str], tokenizer: Tokenizer | None) -> list[list[int]]:
    """Token sequences that must not be generated: each word as tokenized at the start of a text, after a space, and
    after other characters."""
    if not words:
        return []
    if tokenizer is None:
        raise RequestError("bad_words need a tokenizer, and none is loaded", param="bad_words")
    sequences: list[list[int]] = []
    for position, word in enumerate(words):
        bare = word.lstrip() or word
        try:
            forms = _forms_of(bare, tokenizer)
        except RequestError as error:
            raise RequestError(f"bad_words[{position}]: {error.message}", param="bad_words") from error
        if not forms:
            raise RequestError(f"bad_words[{position}] ({quoted(word, 50)}) has no tokens", param="bad_words")
        sequences += forms
    return sequences


def _forms_of(word: str, tokenizer: Tokenizer) -> list[list[int]]:
    """The different token sequences of a word."""

    def encode(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False)

    forms = [encode(word), encode(" " + word)]
    for before in _BEFORE_A_WORD:
        prefix, whole = encode(before), encode(before + word)
        if whole[: len(prefix)] == prefix:
            forms.append(whole[len(prefix) :])
    return [list(form) for form in dict.fromkeys(map(tuple, forms)) if form]


def _check_ids(prompt: Sequence[int]) -> list[int]:
    ids = list(prompt)
    for position, token in enumerate(ids):
        if not isinstance(token, int) or isinstance(token, bool):
            raise wrong_value(f"prompt[{position}]", "a token id", token)
    return ids


def prompt_list(prompts: Prompt | Sequence[Prompt]) -> Sequence[Prompt]:
    """`prompts` as a list: text, a dictionary and a list of integers are one prompt each."""
    if isinstance(prompts, str | Mapping):
        return [prompts]
    if prompts and all(isinstance(item, int) for item in prompts):
        return [cast(Sequence[int], prompts)]
    return cast(Sequence[Prompt], prompts)


def read_prompt(prompt: Prompt) -> tuple[str | None, list[int] | None, str]:
    """A prompt's text, token ids (preferred if both are given) and cache salt."""
    if isinstance(prompt, str):
        return prompt, None, ""
    if isinstance(prompt, bytes) or not isinstance(prompt, Mapping | Sequence):
        raise RequestError(f"a prompt must be text or token ids, got {type(prompt).__name__}", param="prompt")
    if not isinstance(prompt, Mapping):
        return None, [*cast(Sequence[int], prompt)], ""
    unknown = sorted(set(prompt) - _PROMPT_FIELDS)
    if unknown:
        raise RequestError(
            f"a prompt has no field {quoted(str(unknown[0]))}: {', '.join(sorted(_PROMPT_FIELDS))}", param="prompt"
        )
    text, ids, salt = prompt.get("prompt"), prompt.get("prompt_token_ids"), prompt.get("cache_salt") or ""
    if text is None and ids is None:
        raise RequestError("a prompt needs prompt or prompt_token_ids", param="prompt")
    if text is not None and not isinstance(text, str):
        raise RequestError(f"prompt must be text, got {type(text).__name__}", param="prompt")
    if ids is not None and (isinstance(ids, str | bytes) or not isinstance(ids, Sequence)):
        raise wrong_value("prompt_token_ids", "a list of token ids", ids)
    if not isinstance(salt, str):
        raise RequestError(f"cache_salt must be text, got {type(salt).__name__}", param="cache_salt")
    return text, None if ids is None else list(ids), salt
