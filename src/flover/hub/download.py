"""Fetches models from a hub into the cache of `huggingface_hub`, whose environment variables hold (HF_TOKEN, HF_HOME,
HF_ENDPOINT, HF_HUB_OFFLINE).

Large files are fetched here and not by the library, which begins a download that was cut short from its start: they
go on where they stopped, are compared with the hub's checksum, and only then take their place in the cache. The
library does all else.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import queue
import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from flover.errors import ModelError
from flover.hub.cache import repository_folder
from flover.hub.listing import MAX_LISTING_BYTES, Blob, Repository, read_listing
from flover.hub.names import HubName

HUB_SECONDS = 5.0
"""Time for the hub to say whether it has a model; a download takes as long as it takes."""
PIECE_BYTES = 2**16
SMALL_FILE_BYTES = 256 * 2**20
"""Of a file whose size the hub does not say."""
SPARE_BYTES = 2**20
Progress = Callable[[int, int], None]
"""A function of the bytes done and in all."""


def ask_hub(name: HubName) -> Repository:
    """What the hub has under this name. Raises what the library raises, `TimeoutError` after `HUB_SECONDS`, and
    `ModelError` for an answer that is none."""
    return read_listing(name, _within(HUB_SECONDS, lambda: _listing(name)))


def _listing(name: HubName) -> bytes:
    from huggingface_hub import constants  # slow to import, and only hub names need it
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    revision = "" if name.revision is None else f"/revision/{name.revision}"
    url = f"{constants.ENDPOINT}/api/models/{name.repo}{revision}"
    raw = bytearray()
    with get_session().stream(
        "GET", url, params={"blobs": True}, headers=build_hf_headers(), timeout=HUB_SECONDS
    ) as response:
        hf_raise_for_status(response)
        for piece in response.iter_bytes(PIECE_BYTES):
            raw += piece
            if len(raw) > MAX_LISTING_BYTES:
                raise ModelError(f"the hub's answer about {name} is longer than {MAX_LISTING_BYTES} bytes")
    return bytes(raw)


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
    large = {blob.file for blob in found.blobs}
    most = sum(found.sizes.get(file, SMALL_FILE_BYTES) for file in files if file not in large)
    return Path(
        snapshot_download(
            found.name.repo,
            revision=found.name.revision,
            cache_dir=cache,
            allow_patterns=[glob.escape(file) for file in files],
            max_workers=4,
            tqdm_class=_bounded(most),
        )
    )


def _bounded(most: int) -> Any:
    """What the library tells of the bytes that have arrived; it writes as many as are sent. Raises `OSError` for more
    than `most`."""
    from huggingface_hub.utils import tqdm

    class Bounded(tqdm):
        received = 0

        def update(self, n: float | None = 1) -> bool | None:
            self.received += int(n or 0)
            if self.received > most + SPARE_BYTES:
                raise OSError(f"the hub sends more than the {most} bytes that it announced")
            return super().update(n)  # type: ignore[no-any-return]

    return Bounded


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
            counted: Any = _Counted(file, count, blob)
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
    """A file that reports its size whenever something has been written, and takes no more than its blob has."""

    def __init__(self, file: BinaryIO, count: Callable[[int], None], blob: Blob) -> None:
        self._file = file
        self._count = count
        self._blob = blob
        count(file.tell())

    def write(self, data: bytes) -> int:
        if self._file.tell() + len(data) > self._blob.num_bytes:
            self._file.truncate(0)
            raise OSError(f"{self._blob.file} is longer than the {self._blob.num_bytes} bytes that the hub announces")
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
