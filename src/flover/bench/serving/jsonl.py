"""Reads JSONL files. Errors name file and line."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flover.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Line:
    """One object with its file and line number."""

    path: str
    place: int
    fields: dict[str, Any]

    def error(self, reason: str) -> ConfigError:
        """An error about this line."""
        return ConfigError(f"{self.path}, line {self.place}: {reason}")

    def whole(self, names: Sequence[str], *, least: int, default: int | None = None) -> int:
        """The first of these fields that is present, a whole number of at least `least`. Raises `ConfigError`."""
        value = next((self.fields[name] for name in names if name in self.fields), default)
        if type(value) is not int or value < least:
            raise self.error(f"{names[0]} must be a whole number of at least {least}, got {value!r}")
        return value

    def number(self, name: str) -> float:
        """A finite number. Raises `ConfigError`."""
        value = self.fields.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.error(f"{name} must be a number, got {value!r}")
        return float(value)


def read_lines(path: str) -> list[Line]:
    """All non-empty lines, at least one. Raises `ConfigError`."""
    try:
        texts = Path(path).expanduser().read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read --dataset-path {path}: {error}") from error
    lines = [_read(path, place, text) for place, text in enumerate(texts, start=1) if text.strip()]
    if not lines:
        raise ConfigError(f"--dataset-path {path} holds no lines")
    return lines


def _read(path: str, place: int, text: str) -> Line:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}, line {place}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path}, line {place}: not a JSON object")
    return Line(path, place, value)
