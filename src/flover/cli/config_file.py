"""`--config FILE`: flags in a YAML file, as vLLM reads it; those of the command line come later, and so override them.

model: org/name
port: 8000
api-key: [first, second]
enable-prefix-caching: false
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from flover.errors import ConfigError, suggestion

FLAG = "--config"
MAX_FILE_BYTES = 2**20


def expand(arguments: Sequence[str], known: Collection[str], several: Collection[str]) -> list[str]:
    """The arguments with the flags of the file before all others, in place of `--config FILE`. `known` are the flags of
    the command, `several` those that take more than one value. Raises `ConfigError`."""
    rest, path = _without_flag(arguments)
    return rest if path is None else [*_flags_of(_read(path), path, known, several), *rest]


def _without_flag(arguments: Sequence[str]) -> tuple[list[str], str | None]:
    rest, path = list(arguments), None
    for place, argument in enumerate(arguments):
        if argument == "--":
            break
        name, equals, value = argument.partition("=")
        if name != FLAG:
            continue
        if path is not None:
            raise ConfigError(f"{FLAG} was given twice")
        if not equals and place + 1 == len(arguments):
            raise ConfigError(f"{FLAG} needs a file")
        path = value if equals else arguments[place + 1]
        del rest[place : place + (1 if equals else 2)]
    return rest, path


def _read(path: str) -> dict[str, Any]:
    import yaml

    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{FLAG} {path} cannot be read: {error.strerror}") from None
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"{FLAG} {path} has more than {MAX_FILE_BYTES} bytes")
    try:
        read = yaml.safe_load(data)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise ConfigError(f"{FLAG} {path} is not YAML: {' '.join(str(error).split())}") from None
    if read is None:
        return {}
    if not isinstance(read, dict) or not all(isinstance(name, str) for name in read):
        raise ConfigError(f"{FLAG} {path} must map names of flags to their values")
    return read


def _flags_of(settings: dict[str, Any], path: str, known: Collection[str], several: Collection[str]) -> list[str]:
    found: list[str] = []
    for name, value in settings.items():
        flag = "--" + name.replace("_", "-")
        if flag not in known or flag in (FLAG, "--help"):
            raise ConfigError(f"{FLAG} {path}: unknown flag {name}{suggestion(flag, sorted(known))}")
        if value is True:
            found.append(flag)
        elif value is False:
            off = "--no-" + flag.removeprefix("--")
            if off in known:
                found.append(off)
        elif isinstance(value, list) and flag not in several:
            raise ConfigError(f"{FLAG} {path}: {name} takes one value, not a list")
        elif isinstance(value, list) and not any(isinstance(item, list | dict) or item is None for item in value):
            found += [flag, *(_text(item) for item in value)]
        elif isinstance(value, list) or value is None:
            raise ConfigError(f"{FLAG} {path}: {name} must have a value, or a list of them")
        else:
            found.append(f"{flag}={_text(value)}")
    return found


def _text(value: Any) -> str:
    if isinstance(value, dict | bool):
        return json.dumps(value)
    return str(value)
