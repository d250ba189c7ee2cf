"""`bench sweep`: request rates over a grid of settings, and the goodput knee. Pure functions."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flover.bench.serving.figures import Figures
from flover.errors import ConfigError

Params = Mapping[str, Any]
"""Flags without dashes, and their values."""


@dataclass(frozen=True, slots=True)
class Point:
    """One run of the grid: server settings, client settings and rate."""

    server: str
    client: str
    rate: float
    figures: Figures

    @property
    def name(self) -> str:
        """The combination of settings of this point."""
        return ", ".join(part for part in (self.server, self.client) if part) or "as given"


def read_params(flag: str, source: str | None) -> dict[str, Params]:
    """Settings by name, from JSON or a JSON file; one empty setting if none is given. Raises `ConfigError`.

    In a list, settings are named by their content; in an object, by its keys.
    """
    if source is None:
        return {"": {}}
    try:
        text = source if source.lstrip()[:1] in ("[", "{") else Path(source).expanduser().read_text(encoding="utf-8")
        value = json.loads(text)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"{flag} {source}: {error}") from error
    if isinstance(value, dict) and value and all(isinstance(item, dict) for item in value.values()):
        return value
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        return {" ".join(to_arguments(item)) or "as given": item for item in value}
    raise ConfigError(f"{flag} must be a list of objects, or an object of named ones")


def to_arguments(params: Params) -> list[str]:
    """Settings as arguments: true and false are flags without and with "no", null is left out."""
    arguments: list[str] = []
    for name, value in params.items():
        flag = "--" + name.lstrip("-").replace("_", "-")
        if value is True:
            arguments.append(flag)
        elif value is False:
            arguments.append("--no-" + flag.removeprefix("--"))
        elif isinstance(value, list):
            arguments += [flag, *map(str, value)]
        elif isinstance(value, dict):
            arguments.append(f"{flag}={json.dumps(value)}")
        elif value is not None:
            arguments.append(f"{flag}={value}")
    return arguments


def combinations(points: Sequence[Point]) -> dict[str, list[Point]]:
    """The points of each combination by rising rate, in order of first appearance."""
    found: dict[str, list[Point]] = {}
    for point in points:
        found.setdefault(point.name, []).append(point)
    return {name: sorted(some, key=lambda point: point.rate) for name, some in found.items()}


def knee(points: Sequence[Point], attainment: float) -> Point | None:
    """The highest finite rate up to which the fraction of good requests stays at or above `attainment`; None if it is
    below at the first rate."""
    last = None
    for point in sorted(points, key=lambda point: point.rate):
        if math.isinf(point.rate) or point.figures.attainment < attainment:
            break
        last = point
    return last
