"""Files that a command writes at its end: looked at before it begins."""

from __future__ import annotations

import os
from pathlib import Path

from flover.errors import ConfigError


def check_output(flag: str, file: str | Path | None) -> None:
    """Raises `ConfigError` if `file` cannot be written where it is; None is no file."""
    if file is None:
        return
    path = Path(file)
    if path.is_dir() or not path.name:
        raise ConfigError(f"{flag} {path}: it is a directory")
    _check_writable(flag, path, path if path.exists() else path.parent)


def check_output_dir(flag: str, directory: str | Path | None) -> None:
    """Raises `ConfigError` if `directory` is not there and cannot be made, or cannot be written to; None is none."""
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
