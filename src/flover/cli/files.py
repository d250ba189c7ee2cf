"""Checks, before a command runs, that its output files can be written."""

from __future__ import annotations

import os
from pathlib import Path

from flover.errors import ConfigError


def check_output(flag: str, file: str | Path | None) -> None:
    """Raises `ConfigError` if `file` cannot be written; None is no file."""
    if file is None:
        return
    path = Path(file)
    if path.is_dir() or not path.name:
        raise ConfigError(f"{flag} {path}: it is a directory")
    _check_writable(flag, path, path if path.exists() else path.parent)


def check_output_dir(flag: str, directory: str | Path | None) -> None:
    """Raises `ConfigError` if `directory` cannot be created or written to; None is no directory."""
    if directory is None:
        return
    path = Path(directory).expanduser()
    nearest = path
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir():
        raise ConfigError(f"{flag} {path}: {nearest} is no directory")
    _check_writable(flag, path, nearest)


def _check_writable(flag: str, path: Path, nearest: Path) -> None:
    if not nearest.exists():
        raise ConfigError(f"{flag} {path}: there is no directory {nearest}")
    if not os.access(nearest, os.W_OK):
        raise ConfigError(f"{flag} {path}: it cannot be written")
