"""Checks for optional dependencies, which are installed by pip extras."""

from __future__ import annotations

import importlib.util

from flover.errors import ConfigError

BENCHMARKS = "flover_benchmarks"
"""The package in `benchmarks/`: the paper's experiments, other engines, kernels, accuracy, simulations."""
NO_BENCHMARKS = "is in a package of its own, which is not installed: in a clone of Flover, pip install ./benchmarks"


def benchmarks_installed() -> bool:
    """Whether the package is installed."""
    return importlib.util.find_spec(BENCHMARKS) is not None


def need(module: str, extra: str, what: str) -> None:
    """Raises `ConfigError` naming the extra if `module`, which `what` needs, is not installed."""
    try:
        found = importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # a package that it is in
        found = False
    if not found:
        raise ConfigError(f"{what} needs {module}: pip install 'flover[{extra}]'")
