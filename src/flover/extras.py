"""What is installed only on request: a pip extra, and what needs it."""

from __future__ import annotations

import importlib.util

from flover.errors import ConfigError


def need(module: str, extra: str, what: str) -> None:
    """Raises `ConfigError` if `module` is not installed, which `what` needs and `extra` brings."""
    if importlib.util.find_spec(module) is None:
        raise ConfigError(f"{what} needs {module}: pip install 'flover[{extra}]'")
