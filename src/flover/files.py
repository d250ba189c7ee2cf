"""Opens the files of a model directory, which are untrusted.

Only regular files are opened, since a pipe or a device could block or never end; only inside the model's directory
after resolving symbolic links; and only up to a size limit. Other files are a `ModelError` that names the file.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

from flover.errors import ModelError

MAX_JSON_BYTES = 64 * 2**20
"""Maximum size of a JSON file of a model directory; the largest known index is below 10 MB."""

_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def is_there(path: Path) -> bool:
    """Whether the directory has an entry of this name, also a dangling link."""
    return os.path.lexists(path)


def check_regular(path: Path, limit: int | None = None, folder: Path | None = None) -> int:
    """Size in bytes of a regular file of at most `limit` bytes inside `folder`, by default the one that it is listed
    in. Raises `ModelError`. For files that a library opens itself."""
    try:
        real = path.resolve(strict=True)
        status = real.stat()
    except (OSError, RuntimeError, ValueError) as error:
        raise ModelError(f"cannot read {_shown(path)}: {_reason(error)}") from error
    if not _is_inside(real, (path.parent if folder is None else folder).resolve()):
        raise ModelError(
            f"{path} leads out of the model's directory, to {_shown(real)}: copy the file into the directory"
        )
    _check_status(path, status, limit)
    return status.st_size


def open_regular(path: Path, limit: int, folder: Path | None = None) -> BinaryIO:
    """Open a file after `check_regular`, without blocking."""
    check_regular(path, limit, folder)
    try:
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC), "rb")
    except OSError as error:
        raise ModelError(f"cannot read {_shown(path)}: {_reason(error)}") from error
    try:
        _check_status(path, os.fstat(file.fileno()), limit)
    except ModelError:
        file.close()
        raise
    return file


def read_bytes(path: Path, limit: int, folder: Path | None = None) -> bytes:
    """The content of a regular file of at most `limit` bytes."""
    try:
        with open_regular(path, limit, folder) as file:
            raw = file.read(limit + 1)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {_reason(error)}") from error
    if len(raw) > limit:  # it has grown since
        raise ModelError(_too_long(path, len(raw), limit))
    return raw


def read_text(path: Path, limit: int, folder: Path | None = None) -> str:
    """The UTF-8 text in such a file."""
    try:
        return read_bytes(path, limit, folder).decode()
    except UnicodeDecodeError as error:
        raise ModelError(f"cannot read {path}: {_reason(error)}") from error


def read_object(path: Path, limit: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """The JSON object in a file. Duplicate keys are refused: readers differ about which one they use."""
    text = read_text(path, limit)
    try:
        data = json.loads(text, object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not valid JSON: {_reason(error)}") from error
    if not isinstance(data, dict):
        raise ModelError(f"{path} must hold a JSON object, got {type(data).__name__}")
    return data


def read_optional_object(path: Path, limit: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """The JSON object in a file; empty if there is no such file."""
    return read_object(path, limit) if is_there(path) else {}


def shown(value: Any, most: int = 200) -> str:
    """A value of a file for error messages: its repr, truncated."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):
        return f"a {type(value).__name__}"
    return text if len(text) <= most else f"{text[:most]}… ({len(text)} characters)"


def _is_inside(real: Path, folder: Path) -> bool:
    """In the directory, or in the hub's cache, where a snapshot's files are links to the repository's blobs."""
    if real.is_relative_to(folder):
        return True
    snapshots = next((parent for parent in folder.parents if parent.name == "snapshots"), None)
    return snapshots is not None and real.is_relative_to(snapshots.parent / "blobs")


def _check_status(path: Path, status: os.stat_result, limit: int | None) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(status.st_mode)), "something else")
        raise ModelError(f"{path} must be a regular file, but it is {kind}")
    if limit is not None and status.st_size > limit:
        raise ModelError(_too_long(path, status.st_size, limit))


def _too_long(path: Path, size: int, limit: int) -> str:
    return f"{path} has {size} bytes; at most {limit} are read"


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise ValueError(f"the key {shown(twice)} is there twice")
    return found


def _shown(path: Path) -> str:
    text = str(path)
    return text if len(text) <= 300 else f"{text[:300]}…"


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "too many objects or lists inside each other"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text if len(text) <= 300 else f"{text[:300]}…"
