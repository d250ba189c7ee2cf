"""API keys in a server's configuration: their checks, and the file that gives keys limits of their own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from flover.errors import ConfigError

FLAG = "--api-key-file"
MAX_FILE_BYTES = 2**20
MAX_RATE = 10**12


class KeyLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One API key: its share of the device beside other keys, and what it may use in a minute (None: no limit)."""

    key: str
    weight: Annotated[float, Meta(ge=0.001, le=1000)] = 1.0
    requests_per_minute: Annotated[int, Meta(ge=1, le=MAX_RATE)] | None = None
    tokens_per_minute: Annotated[int, Meta(ge=1, le=MAX_RATE)] | None = None

    @property
    def has_rates(self) -> bool:
        """Whether it has a limit in a minute."""
        return self.requests_per_minute is not None or self.tokens_per_minute is not None

    def without_rates(self) -> KeyLimits:
        """The same, with no limit in a minute."""
        return msgspec.structs.replace(self, requests_per_minute=None, tokens_per_minute=None)

    def __repr__(self) -> str:
        return f"KeyLimits(key=..., weight={self.weight})"


def check_keys(keys: Sequence[str], flag: str = "--api-key") -> None:
    """Raises `ConfigError` unless each key is one or more printable ASCII characters without blanks. The message never
    contains the key."""
    if isinstance(keys, str):
        raise ConfigError(f"{flag} must be a list of keys, got one text")
    for number, key in enumerate(keys, 1):
        which = flag if len(keys) == 1 else f"{flag}: key {number} of {len(keys)}"
        if not isinstance(key, str):
            raise ConfigError(f"{which} must be text, got {type(key).__name__}")
        if not key.strip():
            raise ConfigError(f"{which} is empty: requests without a key would be accepted; is a variable unset?")
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise ConfigError(f"{which} must be printable ASCII characters without blanks and line breaks")


def read_keys(path: str) -> tuple[KeyLimits, ...]:
    """The keys of a YAML (or JSON) file: a list of objects with the fields of `KeyLimits`. Raises `ConfigError`, whose
    message never contains a key."""
    import yaml  # only servers with such a file need it

    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"{FLAG} {path} cannot be read: {error.strerror}") from None
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"{FLAG} {path} has more than {MAX_FILE_BYTES} bytes")
    try:
        found = msgspec.convert(yaml.safe_load(data), tuple[KeyLimits, ...])
    except msgspec.ValidationError as error:
        raise ConfigError(f"{FLAG} {path}: {error}") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise ConfigError(f"{FLAG} {path} is not YAML ({type(error).__name__})") from None
    keys = [limits.key for limits in found]
    if not keys:
        raise ConfigError(f"{FLAG} {path} has no keys: a server with it would be open")
    check_keys(keys, FLAG)
    if len(set(keys)) < len(keys):
        raise ConfigError(f"{FLAG} {path} has a key twice")
    return found
