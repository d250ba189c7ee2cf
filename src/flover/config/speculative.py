"""`--speculative-config`: JSON with vLLM's keys, read and checked once."""

from __future__ import annotations

import msgspec

from flover.errors import ConfigError

FLAG = "--speculative-config"
DEFAULT_LOOKUP = 5
"""Length of the n-grams if neither bound is given, as in vLLM."""
MOST_TOKENS = 32
MOST_LOOKUP = 64
_KEYS = ("method", "num_speculative_tokens", "prompt_lookup_min", "prompt_lookup_max")


class Speculation(msgspec.Struct, frozen=True, kw_only=True):
    """N-gram speculation: up to `num_tokens` proposals for a row, those that came after the same last `lookup_min` to
    `lookup_max` tokens before."""

    num_tokens: int
    lookup_min: int
    lookup_max: int


def read_speculation(text: str) -> Speculation:
    """What the flag says. Raises `ConfigError` naming the key."""
    try:
        given = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise ConfigError(f"{FLAG} must be JSON: {error}") from error
    if not isinstance(given, dict):
        raise ConfigError(f"{FLAG} must be a JSON object, got {type(given).__name__}")
    method = given.get("method", given.get("model"))
    if method not in ("ngram", "[ngram]"):
        raise ConfigError(
            f"{FLAG}: method must be 'ngram', got {method!r}: tokens are proposed from the prompt and the request's "
            f"own output, not by a second model"
        )
    if unknown := sorted(given.keys() - {*_KEYS, "model"}):
        raise ConfigError(f"{FLAG} has unknown keys {', '.join(unknown)}; known are {', '.join(_KEYS)}")
    num_tokens = _whole(given, "num_speculative_tokens", MOST_TOKENS)
    if num_tokens is None:
        raise ConfigError(f"{FLAG}: num_speculative_tokens is missing")
    least, most = _whole(given, "prompt_lookup_min", MOST_LOOKUP), _whole(given, "prompt_lookup_max", MOST_LOOKUP)
    least, most = least or most or DEFAULT_LOOKUP, most or least or DEFAULT_LOOKUP
    if least > most:
        raise ConfigError(f"{FLAG}: prompt_lookup_min ({least}) must be at most prompt_lookup_max ({most})")
    return Speculation(num_tokens=num_tokens, lookup_min=least, lookup_max=most)


def _whole(given: dict[str, object], key: str, most: int) -> int | None:
    value = given.get(key)
    if value is not None and (type(value) is not int or not 1 <= value <= most):
        raise ConfigError(f"{FLAG}: {key} must be a whole number from 1 to {most}, got {value!r}")
    return value
