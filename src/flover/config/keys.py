"""API keys as an operator gives them."""

from __future__ import annotations

from collections.abc import Sequence

from flover.errors import ConfigError


def check_keys(keys: Sequence[str]) -> None:
    """Raises `ConfigError` for a key that no client could send, or that every client would: each is one or more
    printable ASCII characters without blanks. The key itself is never part of the message."""
    if isinstance(keys, str):
        raise ConfigError("--api-key must be a list of keys, got one text")
    for number, key in enumerate(keys, 1):
        which = "--api-key" if len(keys) == 1 else f"--api-key: key {number} of {len(keys)}"
        if not isinstance(key, str):
            raise ConfigError(f"{which} must be text, got {type(key).__name__}")
        if not key.strip():
            raise ConfigError(f"{which} is empty: it would let in whoever sends none; is a variable unset?")
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise ConfigError(f"{which} must be printable ASCII characters without blanks and line breaks")
