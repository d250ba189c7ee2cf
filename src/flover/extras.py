"""Checks for optional dependencies, which are installed by pip extras."""

from __future__ import annotations

import importlib.util

from flover.errors import ConfigError


def need(module: str, extra: str, what: str) -> None:
    """Raises `ConfigError` naming the extra if `module`, which `what` needs, is not installed."""
    if importlib.util.find_spec(module) is None:
        raise ConfigError(f"{what} needs {module}: pip install 'flover[{extra}]'")
