"""Typed reading of a Hugging Face config.json: each field is checked, and errors name the field and what it holds.

It reads data only: `auto_map` and other pointers to code in a model repository are never followed. It does not know
what the fields of a family are called: `families.py` does.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flover.errors import ModelError

MAX_JSON_BYTES = 64 * 2**20
"""Largest JSON file of a model directory that is read; the largest index in use is below 10 MB."""
MAX_INTEGER = 2**31 - 1


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of a model directory. Raises `ModelError` naming the file."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ModelError(f"{path} has {path.stat().st_size} bytes; at most {MAX_JSON_BYTES} are read")
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(data, dict):
        raise ModelError(f"{path} must hold a JSON object, got {type(data).__name__}")
    return data


class Fields:
    """A view of a config dict that checks what it hands out. `None` in the file counts as absent."""

    def __init__(self, data: Mapping[str, Any], where: str) -> None:
        self.data = data
        self.where = where

    def has(self, name: str) -> bool:
        """Whether the field is there and not null."""
        return self.data.get(name) is not None

    def integer(self, name: str, default: int | None = None, most: int = MAX_INTEGER) -> int:
        """A positive integer, at most `most`."""
        value = self._get(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            raise self.error(name, f"must be an integer between 1 and {most}, got {value!r}")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A finite number that is not negative."""
        value = self._get(name, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value) or value < 0:
            raise self.error(name, f"must be a number that is not negative, got {value!r}")
        return float(value)

    def positive(self, name: str, default: float | None = None) -> float:
        """A finite number above zero."""
        value = self.number(name, default)
        if value == 0:
            raise self.error(name, "must be above 0")
        return value

    def flag(self, name: str, default: bool) -> bool:
        """true or false."""
        value = self._get(name, default)
        if not isinstance(value, bool):
            raise self.error(name, f"must be true or false, got {value!r}")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        """A string."""
        value = self._get(name, default)
        if not isinstance(value, str):
            raise self.error(name, f"must be a string, got {value!r}")
        return value

    def numbers(self, name: str, count: int) -> tuple[float, ...]:
        """A list of exactly `count` numbers above zero."""
        value = self._get(name, None)
        if not isinstance(value, list) or len(value) != count:
            raise self.error(name, f"must be a list of {count} numbers, got {value!r}")
        return tuple(Fields({name: item}, self.where).positive(name) for item in value)

    def ids(self, name: str) -> tuple[int, ...]:
        """One token id or a list of them; empty if absent."""
        value = self.data.get(name)
        items = value if isinstance(value, list) else [] if value is None else [value]
        if not all(isinstance(item, int) and not isinstance(item, bool) for item in items):
            raise self.error(name, f"must be a token id or a list of them, got {value!r}")
        return tuple(items)

    def section(self, name: str) -> Mapping[str, Any] | None:
        """An object inside the config; None if absent."""
        value = self.data.get(name)
        if value is not None and not isinstance(value, dict):
            raise self.error(name, f"must be an object, got {value!r}")
        return value

    def error(self, name: str, problem: str) -> ModelError:
        """The error to raise about a field."""
        return ModelError(f"{self.where}: {name} {problem}")

    def _get(self, name: str, default: Any) -> Any:
        value = self.data.get(name)
        if value is not None:
            return value
        if default is None:
            raise self.error(name, "is missing")
        return default
