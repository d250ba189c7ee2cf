"""What a hub answers about a repository, checked before it is used: a hub, or who stands between, may be hostile."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flover.errors import ModelError
from flover.files import shown
from flover.hub.names import HubName

MAX_LISTING_BYTES = 64 * 2**20
"""Of the hub's answer: a hundred thousand files take 40 MB."""
MAX_SEGMENT_BYTES, MAX_PATH_BYTES = 255, 1024
MAX_FILE_BYTES = 2**50
_COMMIT, _SHA256 = re.compile(r"[0-9a-f]{40}"), re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Blob:
    """A large file of a repository; `sha256` is the checksum that the hub gives, and its name in the cache."""

    file: str
    sha256: str
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository at one commit."""

    name: HubName
    commit: str
    files: tuple[str, ...]
    blobs: tuple[Blob, ...]
    sizes: dict[str, int]


def read_listing(name: HubName, raw: bytes) -> Repository:
    """The repository of a hub's answer, which is JSON. Raises `ModelError` for anything else, and for the name of a
    file that could leave the directory of its repository."""
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"the hub's answer about {name} is not JSON: it begins with {shown(raw[:40])}") from error
    commit, siblings = (data.get("sha"), data.get("siblings") or []) if isinstance(data, dict) else (None, None)
    if not isinstance(commit, str) or not _COMMIT.fullmatch(commit) or not isinstance(siblings, list):
        raise ModelError(f"the hub's answer about {name} is not that of a hub: it has no commit or no list of files")
    sizes: dict[str, int] = {}
    names: set[str] = set()
    files: list[str] = []
    blobs: list[Blob] = []
    for entry in siblings:
        file = _file(name, entry)
        if file in names:
            raise ModelError(f"{name}: the hub lists {shown(file)} twice")
        names.add(file)
        files.append(file)
        size = _size(name, file, entry.get("size"))
        if size is not None:
            sizes[file] = size
        large = entry.get("lfs")
        if isinstance(large, Mapping) and _SHA256.fullmatch(str(large.get("sha256"))):
            blobs.append(Blob(file, str(large["sha256"]), _size(name, file, large.get("size")) or 0))
    return Repository(name, commit, tuple(files), tuple(blobs), sizes)


def _file(name: HubName, entry: Any) -> str:
    file = entry.get("rfilename") if isinstance(entry, Mapping) else None
    if not isinstance(file, str):
        raise ModelError(f"{name}: the hub lists a file without a name: {shown(entry)}")
    parts = file.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in file or not file.isprintable():
        raise ModelError(f"{name}: the hub lists the file {shown(file)}, which is no name inside a repository")
    lengths = [len(part.encode(errors="replace")) for part in parts]
    if max(lengths) > MAX_SEGMENT_BYTES or sum(lengths) > MAX_PATH_BYTES:
        raise ModelError(
            f"{name}: the hub lists the file {shown(file)}, whose name is too long: at most {MAX_SEGMENT_BYTES} bytes, "
            f"with its folders {MAX_PATH_BYTES}"
        )
    return file


def _size(name: HubName, file: str, value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_FILE_BYTES:
        raise ModelError(f"{name}: the hub lists {shown(file)} with the size {shown(value)}")
    return value
