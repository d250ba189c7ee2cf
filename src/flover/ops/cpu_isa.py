"""The instruction sets of the C++ kernels."""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path

from flover import _cpu
from flover.errors import ConfigError


def instruction_sets() -> list[str]:
    """What was compiled and this machine can run, the fastest first. Raises `ConfigError` if there is none."""
    sets = _cpu.instruction_sets()
    if not sets:
        raise ConfigError("the kernels were compiled for another machine: install Flover again on this one")
    return sets


def kernels_digest() -> bytes:
    """A hash of the compiled kernels."""
    assert _cpu.__file__ is not None, "they are a file"
    return blake2b(Path(_cpu.__file__).read_bytes(), digest_size=16).digest()
