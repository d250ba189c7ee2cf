"""`--lora-modules`: names and directories of adapters, in both of vLLM's forms."""

from __future__ import annotations

import json
from collections.abc import Sequence

from flover.errors import ConfigError

MAX_NAME_CHARACTERS = 256


def read_lora_modules(entries: Sequence[str]) -> dict[str, str]:
    """Directories by name. Raises `ConfigError`."""
    found: dict[str, str] = {}
    for entry in entries:
        name, path = _from_json(entry) if entry.startswith("{") else entry.partition("=")[::2]
        if not name or not path or len(name) > MAX_NAME_CHARACTERS:
            raise ConfigError(f"--lora-modules: {entry[:300]!r} is not name=directory")
        if name in found:
            raise ConfigError(f"--lora-modules names {name!r} twice")
        found[name] = path
    return found


def _from_json(entry: str) -> tuple[str, str]:
    try:
        value = json.loads(entry)
    except (ValueError, RecursionError):
        raise ConfigError(f"--lora-modules: {entry[:300]!r} is not JSON") from None
    name, path = value.get("name"), value.get("path")
    if not isinstance(name, str) or not isinstance(path, str) or value.keys() - {"name", "path", "base_model_name"}:
        raise ConfigError(f'--lora-modules: {entry[:300]!r} must have "name" and "path", which are texts')
    return name, path
