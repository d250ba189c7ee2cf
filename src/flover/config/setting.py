"""What one field of a configuration is, and the checks that fields have in common."""

from __future__ import annotations

from dataclasses import field, fields
from typing import Any

from flover.errors import ConfigError


def setting(default: Any, help: str, *, group: str, choices: tuple[str | None, ...] = (), short: str = "") -> Any:
    """A field of a configuration with what the command line needs to know of it."""
    return field(default=default, metadata={"help": help, "group": group, "choices": choices, "short": short})


def flag_name(name: str) -> str:
    """The command-line flag of a field."""
    return "--" + name.replace("_", "-")


def check_choices(config: Any) -> None:
    """Raises `ConfigError` for a field whose value is none of its choices."""
    for item in fields(config):
        choices, value = item.metadata.get("choices"), getattr(config, item.name)
        if choices and value not in choices:
            names = ", ".join(choice for choice in choices if choice is not None)
            raise ConfigError(f"{flag_name(item.name)} must be one of {names}, got {value!r}")


def at_least(config: Any, name: str, least: float) -> None:
    """Raises `ConfigError` naming the flag if the field is below `least`, or not a number."""
    value = getattr(config, name)
    if not value >= least:
        raise ConfigError(f"{flag_name(name)} must be at least {least:g}, got {value!r}")
