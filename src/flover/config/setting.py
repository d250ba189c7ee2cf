"""Fields of configurations, and the checks that they share."""

from __future__ import annotations

from dataclasses import field, fields
from typing import Any

from flover.errors import ConfigError

_TYPES: dict[str, type] = {"str": str, "int": int, "float": float, "bool": bool, "None": type(None)}
_SAID = {str: "a string", int: "a whole number", float: "a number", bool: "true or false", type(None): "None"}


def setting(default: Any, help: str, *, group: str, choices: tuple[str | None, ...] = (), short: str = "") -> Any:
    """A field of a configuration, with the help text, group, choices and short name of its flag."""
    return field(default=default, metadata={"help": help, "group": group, "choices": choices, "short": short})


def flag_name(name: str) -> str:
    """The command-line flag of a field."""
    return "--" + name.replace("_", "-")


def check_choices(config: Any) -> None:
    """Raises `ConfigError` for a field whose value is not one of its choices."""
    for item in fields(config):
        choices, value = item.metadata.get("choices"), getattr(config, item.name)
        if choices and value not in choices:
            names = ", ".join(choice for choice in choices if choice is not None)
            raise ConfigError(f"{flag_name(item.name)} must be one of {names}, got {value!r}")


def check_types(config: Any) -> None:
    """Raises `ConfigError` naming the flag of a field whose value is not of the declared type."""
    for item in fields(config):
        value = getattr(config, item.name)
        kinds = [_TYPES[name] for name in str(item.type).split(" | ") if name in _TYPES]
        if not kinds or (float in kinds and type(value) is int):
            continue
        if not any(type(value) is kind or (kind is str and isinstance(value, str)) for kind in kinds):
            wanted = " or ".join(_SAID[kind] for kind in kinds)
            raise ConfigError(f"{flag_name(item.name)} must be {wanted}, got {type(value).__name__}")


def at_most(config: Any, name: str, most: int, why: str) -> None:
    """Raises `ConfigError` naming the flag if the field is above `most`; `why` is the limit's reason."""
    value = getattr(config, name)
    if value is not None and value > most:
        raise ConfigError(f"{flag_name(name)} must be at most {most}, got {value}: {why}")


def at_least(config: Any, name: str, least: float) -> None:
    """Raises `ConfigError` naming the flag if the field is below `least`, or not a number."""
    value = getattr(config, name)
    if not value >= least:
        raise ConfigError(f"{flag_name(name)} must be at least {least:g}, got {value!r}")
