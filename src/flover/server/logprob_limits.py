"""Limits the number of log-probabilities of a request, before anything is computed.

Each becomes an object of the response, and -1 asks for the whole vocabulary at every position.
"""

from __future__ import annotations

from flover.config import Limits
from flover.errors import RequestError
from flover.request import ModelFacts, Request


def check_logprobs(request: Request, facts: ModelFacts, limits: Limits) -> None:
    """Raises `RequestError` naming the field, the numbers and the flag."""
    params, prompt = request.params, len(request.prompt_ids)
    if params.prompt_logprobs is not None:
        entries = _entries(params.prompt_logprobs, facts)
        _check("prompt_logprobs", params.prompt_logprobs, entries, f"{prompt} tokens", prompt, limits)
    if params.logprobs is not None:
        remaining = max(1, min(facts.max_model_len, facts.pool_tokens) - prompt)
        most = remaining if params.max_tokens is None else min(remaining, params.max_tokens)
        asked = f"up to {most} tokens" + (f" of {params.n} sequences" if params.n > 1 else "")
        _check("logprobs", params.logprobs, _entries(params.logprobs, facts), asked, most * params.n, limits)


def _entries(count: int, facts: ModelFacts) -> int:
    """Entries per position: the token and its alternatives."""
    return facts.vocab_size if count < 0 else count + 1


def _check(field: str, count: int, entries: int, asked: str, positions: int, limits: Limits) -> None:
    limit = f"max_{field}_values"
    most: int = getattr(limits, limit)
    if entries * positions > most:
        flag = "--" + limit.replace("_", "-")
        message = f"{field} ({count}) for {asked} is {entries * positions} log-probabilities, more than {flag} ({most})"
        raise RequestError(message, param=field)
