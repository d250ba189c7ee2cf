"""`--speculative-config`: JSON with vLLM's keys, read and checked once."""

from __future__ import annotations

import msgspec

from flover.errors import ConfigError

FLAG = "--speculative-config"
DEFAULT_LOOKUP = 5
"""Length of the n-grams if neither bound is given, as in vLLM."""
MOST_TOKENS = 32
MOST_LOOKUP = 64
_NGRAM_KEYS = ("method", "num_speculative_tokens", "prompt_lookup_min", "prompt_lookup_max")
_MODEL_KEYS = ("method", "model", "num_speculative_tokens", "quantization")


class Speculation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Up to `num_tokens` proposals for a row: those of the draft model `model`, or those that came after the same last
    `lookup_min` to `lookup_max` tokens before."""

    num_tokens: int
    lookup_min: int
    lookup_max: int
    model: str | None = None
    quantization: str | None = None
    """Of the draft model's weights, as `--quantization` has it."""


def read_speculation(text: str) -> Speculation:
    """What the flag says. Raises `ConfigError` naming the key."""
    try:
        given = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise ConfigError(f"{FLAG} must be JSON: {error}") from error
    if not isinstance(given, dict):
        raise ConfigError(f"{FLAG} must be a JSON object, got {type(given).__name__}")
    model = given.get("model")
    if model in ("ngram", "[ngram]"):
        given, model = {key: value for key, value in given.items() if key != "model"}, None
        given.setdefault("method", "ngram")
    method = given.get("method", "ngram" if model is None else "draft_model")
    if method not in ("ngram", "draft_model"):
        raise ConfigError(f"{FLAG}: method must be 'ngram' or 'draft_model', got {method!r}")
    keys = _NGRAM_KEYS if method == "ngram" else _MODEL_KEYS
    if unknown := sorted(given.keys() - set(keys)):
        raise ConfigError(f"{FLAG} has unknown keys {', '.join(unknown)}; known of {method!r} are {', '.join(keys)}")
    num_tokens = _whole(given, "num_speculative_tokens", MOST_TOKENS)
    if num_tokens is None:
        raise ConfigError(f"{FLAG}: num_speculative_tokens is missing")
    if method == "draft_model":
        return _draft_model(given, num_tokens)
    least, most = _whole(given, "prompt_lookup_min", MOST_LOOKUP), _whole(given, "prompt_lookup_max", MOST_LOOKUP)
    least, most = least or most or DEFAULT_LOOKUP, most or least or DEFAULT_LOOKUP
    if least > most:
        raise ConfigError(f"{FLAG}: prompt_lookup_min ({least}) must be at most prompt_lookup_max ({most})")
    return Speculation(num_tokens=num_tokens, lookup_min=least, lookup_max=most)


def draft_model_of(text: str | None) -> str | None:
    """The name of the draft model, if there is one."""
    return None if text is None else read_speculation(text).model


def with_model(text: str, model: str) -> str:
    """The same with another draft model."""
    return msgspec.json.encode(msgspec.json.decode(text) | {"model": model}).decode()


def _draft_model(given: dict[str, object], num_tokens: int) -> Speculation:
    model, quantization = given.get("model"), given.get("quantization")
    if not isinstance(model, str) or not model.strip():
        raise ConfigError(f"{FLAG}: model must be the draft model's directory, GGUF file or hub name, got {model!r}")
    if quantization not in (None, "int8", "int4"):
        raise ConfigError(f"{FLAG}: quantization must be 'int8' or 'int4', got {quantization!r}")
    return Speculation(num_tokens=num_tokens, lookup_min=0, lookup_max=0, model=model, quantization=quantization)


def _whole(given: dict[str, object], key: str, most: int) -> int | None:
    value = given.get(key)
    if value is not None and (type(value) is not int or not 1 <= value <= most):
        raise ConfigError(f"{FLAG}: {key} must be a whole number from 1 to {most}, got {value!r}")
    return value
