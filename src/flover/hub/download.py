"""Fetches models from a hub into the cache of `huggingface_hub`, whose environment variables hold (HF_TOKEN, HF_HOME,
HF_ENDPOINT, HF_HUB_OFFLINE).

Large files are fetched here and not by the library, which begins a download that was cut short from its start: they
go on where they stopped, are compared with the hub's checksum, and only then take their place in the cache. The
library does all else.
"""

from __future__ import annotations

import errno
import hashlib
import queue
import re
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from flover.errors import ModelError
from flover.hub.cache import repository_folder
from flover.hub.names import HubName

HUB_SECONDS = 5.0
"""Time for the hub to say whether it has a model; a download takes as long as it takes."""
_SHA256 = re.compile(r"[0-9a-f]{64}")
Progress = Callable[[int, int], None]
"""A function of the bytes done and in all."""


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


def ask_hub(name: HubName) -> Repository:
    """What the hub has under this name. Raises what the library raises, `TimeoutError` after `HUB_SECONDS`."""
    from huggingface_hub import HfApi  # slow to import, and only hub names need it

    info = _within(
        HUB_SECONDS,
        lambda: HfApi().model_info(
            name.repo, revision=name.revision, timeout=HUB_SECONDS, files_metadata=True, securityStatus=False
        ),
    )
    siblings = info.siblings or ()
    large = [found for found in siblings if found.lfs is not None and _SHA256.fullmatch(found.lfs.sha256)]
    return Repository(
        name,
        str(info.sha),
        tuple(found.rfilename for found in siblings),
        tuple(Blob(found.rfilename, found.lfs.sha256, found.lfs.size) for found in large if found.lfs is not None),
        {found.rfilename: found.size for found in siblings if found.size is not None},
    )


def fetch_files(found: Repository, files: Sequence[str], cache: Path | None, progress: Progress) -> Path:
    """Fetch files that are not in the cache yet; gives the directory that has them. Raises `ModelError`, or what the
    library raises."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    folder = repository_folder(found.name.repo, cache)
    blobs = folder / "blobs"
    missing = [blob for blob in found.blobs if blob.file in files and not (blobs / blob.sha256).exists()]
    if missing:
        blobs.mkdir(parents=True, exist_ok=True)
        _fetch_blobs(found, missing, folder, progress)
    return Path(
        snapshot_download(
            found.name.repo, revision=found.name.revision, cache_dir=cache, allow_patterns=list(files), max_workers=4
        )
    )


def _fetch_blobs(found: Repository, blobs: Sequence[Blob], folder: Path, progress: Progress) -> None:
    """One after another: a connection is seldom the slower for being the only one."""
    parts = {blob: folder / "blobs" / f"{blob.sha256}.incomplete" for blob in blobs}
    total = sum(blob.num_bytes for blob in blobs)
    here = sum(path.stat().st_size for path in parts.values() if path.exists())
    free = shutil.disk_usage(folder).free
    if total - here > free:
        raise ModelError(_no_space(found.name, total - here, free, folder))
    done = 0
    for blob, part in parts.items():
        before = done
        _fetch_blob(found, blob, part, lambda count, before=before: progress(before + count, total))  # type: ignore[misc]
        done += blob.num_bytes


def _fetch_blob(found: Repository, blob: Blob, part: Path, count: Callable[[int], None]) -> None:
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import WeakFileLock, build_hf_headers

    url = hf_hub_url(found.name.repo, blob.file, revision=found.commit)
    locks = part.parent.parent.parent / ".locks" / part.parent.parent.name
    locks.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(locks / f"{blob.sha256}.lock"):
        place = part.with_suffix("")
        if place.exists():  # another process has fetched it
            return
        with part.open("ab") as file:
            if file.tell() > blob.num_bytes:
                file.truncate(0)
                file.seek(0)
            counted: Any = _Counted(file, count)
            try:
                http_get(
                    url,
                    counted,
                    headers=build_hf_headers(),
                    resume_size=file.tell(),
                    expected_size=blob.num_bytes,
                )
            except OSError as error:
                if error.errno == errno.ENOSPC:
                    left = blob.num_bytes - file.tell()
                    raise ModelError(_no_space(found.name, left, 0, part.parent)) from error
                raise
        _check(found.name, blob, part)
        part.replace(place)


def _check(name: HubName, blob: Blob, part: Path) -> None:
    """Raises `ModelError`, and removes the file, if it is not the one that the hub announces."""
    with part.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != blob.sha256:
        part.unlink()
        raise ModelError(
            f"{name}: {blob.file} has arrived with the SHA-256 {digest}, but the hub announces {blob.sha256}. "
            "What has arrived was removed: try again"
        )


class _Counted:
    """A file that reports its size whenever something has been written."""

    def __init__(self, file: BinaryIO, count: Callable[[int], None]) -> None:
        self._file = file
        self._count = count
        count(file.tell())

    def write(self, data: bytes) -> int:
        written = self._file.write(data)
        self._count(self._file.tell())
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _no_space(name: HubName, needed: int, free: int, folder: Path) -> str:
    return (
        f"{name} needs {needed / 1e6:,.0f} MB more in {folder}, and {free / 1e6:,.0f} MB are free there: free some, or "
        "give another directory (--download-dir, HF_HOME)"
    )


def _within(seconds: float, ask: Callable[[], Any]) -> Any:
    """What `ask` gives or raises, within about so many seconds: looking up a name on a dead network takes longer than
    any timeout of the client that asks."""
    outcome: queue.SimpleQueue[tuple[Any, Exception | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            outcome.put((ask(), None))
        except Exception as error:
            outcome.put((None, error))

    threading.Thread(target=run, name="hub", daemon=True).start()
    try:
        answer, error = outcome.get(timeout=seconds + 1)
    except queue.Empty:
        raise TimeoutError(f"no answer in {seconds:g} seconds") from None
    if error is not None:
        raise error
    return answer
