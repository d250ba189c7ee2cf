"""Typed reading of a Hugging Face config.json: each field is checked, and errors name the field and what it holds.

It reads data only: `auto_map` and other pointers to code in a model repository are never followed. It does not know
what the fields of a family are called: `families.py` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flover.errors import ModelError
from flover.files import shown
from flover.generation_config import token_ids

MAX_INTEGER = 2**31 - 1
MAX_NUMBER = 1e6
"""Largest number that a field may hold unless it says otherwise."""
LEAST_NUMBER = 1e-30


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
            raise self.error(name, f"must be an integer between 1 and {most}, got {shown(value)}")
        return value

    def number(self, name: str, default: float | None = None, most: float = MAX_NUMBER) -> float:
        """A number from 0 to `most`."""
        value = self._get(name, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= most:
            raise self.error(name, f"must be a number between 0 and {most:g}, got {shown(value)}")
        return float(value)

    def positive(self, name: str, default: float | None = None, most: float = MAX_NUMBER) -> float:
        """A number above zero, at most `most`, that float32 can hold."""
        value = self.number(name, default, most)
        if value < LEAST_NUMBER:
            raise self.error(name, f"must be above 0, got {value}")
        return value

    def flag(self, name: str, default: bool) -> bool:
        """true or false."""
        value = self._get(name, default)
        if not isinstance(value, bool):
            raise self.error(name, f"must be true or false, got {shown(value)}")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        """A string."""
        value = self._get(name, default)
        if not isinstance(value, str):
            raise self.error(name, f"must be a string, got {shown(value)}")
        return value

    def numbers(self, name: str, count: int) -> tuple[float, ...]:
        """A list of exactly `count` numbers above zero."""
        value = self._get(name, None)
        if not isinstance(value, list) or len(value) != count:
            raise self.error(name, f"must be a list of {count} numbers, got {shown(value)}")
        return tuple(Fields({name: item}, self.where).positive(name) for item in value)

    def ids(self, name: str) -> tuple[int, ...]:
        """One token id or a list of them; empty if absent."""
        return tuple(token_ids(self.data.get(name), f"{self.where}: {name}"))

    def section(self, name: str) -> Mapping[str, Any] | None:
        """An object inside the config; None if absent."""
        value = self.data.get(name)
        if value is not None and not isinstance(value, dict):
            raise self.error(name, f"must be an object, got {shown(value)}")
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
