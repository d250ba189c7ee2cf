"""From a prompt and sampling parameters to a checked `Request`: the last step before the engine.

Whatever concerns text is settled here: tokenization, truncation, bad words, the seed. Nothing is known of HTTP or of
the engine beyond its `ModelFacts`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from flover.config import Limits, flag_name
from flover.errors import RequestError
from flover.request import ModelFacts, Request, SamplingParams, check_request, resolve_max_tokens
from flover.text.tokenizer import Tokenizer

MAX_TRUNCATED_CHARS = 2**20
"""Most characters of a prompt that `truncate_prompt_tokens` may cut."""
_BEFORE_A_WORD = ("\n", ".", "a")
"""Characters after which a word begins without a space: a SentencePiece tokenizer writes it in another way there."""


Prompt = str | Mapping[str, Any] | Sequence[int]
"""Text, {"prompt": text}, {"prompt_token_ids": ids} (both with an optional "cache_salt"), or a list of token ids."""

_PROMPT_FIELDS = frozenset(("prompt", "prompt_token_ids", "cache_salt"))


def check_text_limits(params: SamplingParams, limits: Limits) -> None:
    """Refuse stop strings and bad words that are longer, or more, than a server allows. Raises `RequestError`."""
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
) -> Request:
    """The request for one prompt, given as text or as token ids.

    `draw_seed` is called if `params` bring no seed. `add_special_tokens` concerns text only; a rendered chat brings
    its own special tokens and wants False. Raises `RequestError` for all that the engine can never serve.
    """
    if isinstance(prompt, str):
        prompt_ids = encode_prompt(prompt, params, tokenizer, facts, add_special_tokens=add_special_tokens)
    else:
        prompt_ids = _check_ids(prompt)
    if params.truncate_prompt_tokens is not None:
        prompt_ids = prompt_ids[-params.truncate_prompt_tokens :]
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
        salt=salt,
        bad_words_ids=bad_words_ids(params.bad_words or [], tokenizer),
    )
    check_request(request, facts)
    return resolve_max_tokens(request, facts)


def encode_prompt(
    text: str,
    params: SamplingParams,
    tokenizer: Tokenizer | None,
    facts: ModelFacts,
    *,
    add_special_tokens: bool = True,
) -> list[int]:
    """Token ids of a prompt, after a look at its length: text that cannot fit is refused before it costs anything."""
    if tokenizer is None:
        raise RequestError("the prompt is text, but no tokenizer is loaded: give token ids", param="prompt")
    cut = params.truncate_prompt_tokens is not None
    return encode_text(text, tokenizer, facts, add_special_tokens=add_special_tokens, cut=cut)


def encode_text(
    text: str, tokenizer: Tokenizer, facts: ModelFacts, *, add_special_tokens: bool, cut: bool = False
) -> list[int]:
    """Token ids of a text that no context can be too short for, or that will be `cut`. Raises `RequestError`."""
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
    """Token sequences that must not be generated: each word as tokens at the beginning of a text, after a space, and
    after other characters, whatever their numbers of tokens."""
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
            raise RequestError(f"bad_words[{position}] ({word[:50]!r}) has no tokens", param="bad_words")
        sequences += forms
    return sequences


def _forms_of(word: str, tokenizer: Tokenizer) -> list[list[int]]:
    """The different token sequences that a word has in texts."""

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
            raise RequestError(f"prompt[{position}] must be a token id, got {token!r}", param="prompt")
    return ids


def prompt_list(prompts: Prompt | Sequence[Prompt]) -> Sequence[Prompt]:
    """`prompts` as a list: text, a dictionary and a list of integers are one prompt each."""
    if isinstance(prompts, str | Mapping):
        return [prompts]
    if prompts and all(isinstance(item, int) for item in prompts):
        return [cast(Sequence[int], prompts)]
    return cast(Sequence[Prompt], prompts)


def read_prompt(prompt: Prompt) -> tuple[str | None, list[int] | None, str]:
    """A prompt's text, token ids (which win) and cache salt."""
    if isinstance(prompt, str):
        return prompt, None, ""
    if isinstance(prompt, bytes) or not isinstance(prompt, Mapping | Sequence):
        raise RequestError(f"a prompt must be text or token ids, got {type(prompt).__name__}", param="prompt")
    if not isinstance(prompt, Mapping):
        return None, [*cast(Sequence[int], prompt)], ""
    unknown = sorted(set(prompt) - _PROMPT_FIELDS)
    if unknown:
        raise RequestError(f"a prompt has no field {unknown[0]!r}: {', '.join(sorted(_PROMPT_FIELDS))}", param="prompt")
    text, ids, salt = prompt.get("prompt"), prompt.get("prompt_token_ids"), prompt.get("cache_salt") or ""
    if text is None and ids is None:
        raise RequestError("a prompt needs prompt or prompt_token_ids", param="prompt")
    if text is not None and not isinstance(text, str):
        raise RequestError(f"prompt must be text, got {type(text).__name__}", param="prompt")
    if ids is not None and (isinstance(ids, str | bytes) or not isinstance(ids, Sequence)):
        raise RequestError(f"prompt_token_ids must be a list of token ids, got {ids!r}", param="prompt_token_ids")
    if not isinstance(salt, str):
        raise RequestError(f"cache_salt must be text, got {type(salt).__name__}", param="cache_salt")
    return text, None if ids is None else list(ids), salt
