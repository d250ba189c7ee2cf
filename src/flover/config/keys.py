"""Checks of the API keys in a server's configuration."""

from __future__ import annotations

from collections.abc import Sequence

from flover.errors import ConfigError


def check_keys(keys: Sequence[str]) -> None:
    """Raises `ConfigError` unless each key is one or more printable ASCII characters without blanks. The message never
    contains the key."""
    if isinstance(keys, str):
        raise ConfigError("--api-key must be a list of keys, got one text")
    for number, key in enumerate(keys, 1):
        which = "--api-key" if len(keys) == 1 else f"--api-key: key {number} of {len(keys)}"
        if not isinstance(key, str):
            raise ConfigError(f"{which} must be text, got {type(key).__name__}")
        if not key.strip():
            raise ConfigError(f"{which} is empty: requests without a key would be accepted; is a variable unset?")
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise ConfigError(f"{which} must be printable ASCII characters without blanks and line breaks")
