"""Converts log-probabilities and usage to the formats of the API. Pure functions.

The engine returns per position the chosen token first, then the most likely ones in order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from flover.request import TokenLogprobs
from flover.server.generation import Generation
from flover.server.responses import (
    CachedTokens,
    ChatLogprobs,
    CompletionLogprobs,
    PromptLogprob,
    PromptLogprobs,
    TokenLogprob,
    TopLogprob,
    Usage,
)
from flover.text.tokenizer import Tokenizer

LEAST_LOGPROB = -9999.0
"""The JSON value for minus infinity, as in vLLM."""


def usage_of(generation: Generation, *, scores_only: bool = False) -> Usage:
    """Tokens so far. With `scores_only` the one token that the engine generated is not counted."""
    prompt = generation.prompt_tokens
    completion = 0 if scores_only else generation.completion_tokens
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=prompt + completion,
        prompt_tokens_details=CachedTokens(cached_tokens=generation.cached_tokens),
    )


def chat_logprobs(entries: Iterable[TokenLogprobs], tokenizer: Tokenizer | None) -> ChatLogprobs:
    """The chat API's format: one entry per token, each with its alternatives."""
    content = []
    for entry in entries:
        pairs = zip(entry.token_ids, entry.logprobs, strict=True)
        chosen, *top = [_top(tokenizer, token_id, logprob) for token_id, logprob in pairs]
        content.append(TokenLogprob(token=chosen.token, logprob=chosen.logprob, bytes=chosen.bytes, top_logprobs=top))
    return ChatLogprobs(content=content)


def completion_logprobs(
    texts: Sequence[str],
    entries: Sequence[TokenLogprobs | None],
    tokenizer: Tokenizer | None,
    start: int,
    end: int | None = None,
) -> CompletionLogprobs:
    """The completions API's format: parallel lists, one entry per token.

    `texts` are the texts that the tokens add to the response, so that `text[text_offset[i]:]` begins with tokens[i]; a
    token without text, such as a hidden special one, has an empty one. `start` is the offset of the first token, `end`
    the length of a text that a stop string may have truncated. The entry of the first token of a prompt is None.
    Alternatives include the chosen token, under the same text.
    """
    shaped = CompletionLogprobs()
    for text, entry in zip(texts, entries, strict=True):
        own = text if end is None else text[: max(0, end - start)]
        shaped.tokens.append(own)
        shaped.text_offset.append(start if end is None else min(start, end))
        start += len(text)
        if entry is None:
            shaped.token_logprobs.append(None)
            shaped.top_logprobs.append(None)
            continue
        chosen = _finite(entry.logprobs[0])
        shaped.token_logprobs.append(chosen)
        top: dict[str, float] = {}
        for other, logprob in zip(entry.token_ids, entry.logprobs, strict=True):
            top.setdefault(own if other == entry.token_ids[0] else token_text(tokenizer, other), _finite(logprob))
        shaped.top_logprobs.append(top)
    return shaped


def prompt_logprobs(entries: Iterable[TokenLogprobs | None], tokenizer: Tokenizer | None) -> PromptLogprobs:
    """vLLM's format: one dictionary per prompt token, by token id."""
    return [None if entry is None else _by_id(entry, tokenizer) for entry in entries]


def _by_id(entry: TokenLogprobs, tokenizer: Tokenizer | None) -> dict[str, PromptLogprob]:
    return {
        str(token_id): PromptLogprob(logprob=_finite(logprob), rank=rank, decoded_token=token_text(tokenizer, token_id))
        for token_id, logprob, rank in zip(entry.token_ids, entry.logprobs, entry.ranks, strict=True)
    }


def token_text(tokenizer: Tokenizer | None, token_id: int) -> str:
    """The text of a token; without a tokenizer its id in vLLM's format."""
    return f"token_id:{token_id}" if tokenizer is None else tokenizer.token_to_str(token_id)


def _top(tokenizer: Tokenizer | None, token_id: int, logprob: float) -> TopLogprob:
    text = token_text(tokenizer, token_id)
    raw = text.encode() if tokenizer is None else tokenizer.token_bytes(token_id)
    return TopLogprob(token=text, logprob=_finite(logprob), bytes=list(raw))


def _finite(logprob: float) -> float:
    return max(logprob, LEAST_LOGPROB)
