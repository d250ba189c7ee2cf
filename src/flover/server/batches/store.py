"""The files and batches of a server: one directory, bounded in bytes and in number.

`files/ID` is a file's content, `files/ID.json` says what it is; `batches/ID.json` is a batch. A document is replaced as
a whole, so a crash leaves the old one or the new one. A content without a document is that of an unfinished batch, or
of an upload that was cut short, which the next start removes.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import shutil
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, TypeVar

import msgspec

from flover.errors import ConfigError
from flover.server.batches.objects import (
    BATCH_ID,
    FILE_ID,
    Batch,
    FileObject,
    Purpose,
    StoredBatch,
    StoredFile,
    new_file_id,
)
from flover.server.batches.shares import no_room
from flover.server.errors import HttpError
from flover.temporary import TemporaryDirectory, remove_leftovers

MAX_FILES = 1000
MAX_BATCHES = 1000
"""Beyond these one that has ended makes room for a new batch; a file is refused."""
MAX_UNFINISHED = 64
"""Batches that are not finished, of all clients."""
EXPIRY_SECONDS = 30 * 24 * 3600
"""How long files and ended batches are kept."""
COPY_BYTES = 2**20

logger = logging.getLogger(__name__)
T = TypeVar("T", StoredFile, StoredBatch)
R = TypeVar("R")


class Store:
    """What is kept in `directory`; in a temporary one, made for the first file and removed by `close`, if that is None.
    Its methods run in its one thread (`in_thread`), so that a slow disk holds no other work up."""

    def __init__(self, directory: str | None, max_bytes: int, clock: Callable[[], float]) -> None:
        """`clock` is the time of day. Raises `ConfigError` if the directory cannot be used."""
        self._temporary: TemporaryDirectory | None = None
        self._max_bytes = max_bytes
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._root: Path | None = None
        self._used: Counter[str] = Counter()
        """Bytes of contents, by owner."""
        self.files: dict[str, StoredFile] = {}
        self.batches: dict[str, StoredBatch] = {}
        if directory is None:
            remove_leftovers()
        else:
            try:
                self._open(Path(directory))
            except OSError as error:
                raise ConfigError(f"--batch-dir {directory} cannot be used: {error.strerror}") from None

    async def in_thread(self, work: Callable[[], R]) -> R:
        """Run `work` in the store's thread, in order. Work that has begun goes on if the caller is cancelled."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def now(self) -> int:
        """The time of day, in seconds."""
        return int(self._clock())

    def path(self, file_id: str) -> Path:
        """Where a file's content is."""
        return self._files / file_id

    # Files

    def add_file(self, owner: str, name: str, purpose: Purpose, content: BinaryIO, expiry: int) -> FileObject:
        """Keep a copy of `content` for `expiry` seconds. Without room raises a 413, 429 or 503 as `HttpError`."""
        try:
            if self._root is None:
                self._temporary = TemporaryDirectory("batches")
                self._open(self._temporary.path)
        except OSError as error:
            raise _unwritten(error) from None
        self.remove_expired()
        if reason := no_room("files", owner, Counter(one.owner for one in self.files.values()), MAX_FILES):
            raise HttpError(429, f"{reason}: delete some", code="insufficient_storage")
        size = content.seek(0, os.SEEK_END)
        content.seek(0)
        self._need_room(owner, size)
        file_id = new_file_id()
        try:
            with self.path(file_id).open("xb") as kept:
                shutil.copyfileobj(content, kept, COPY_BYTES)
            file = self.name_file(owner, file_id, name, purpose, expiry)
        except OSError as error:
            self.remove_file(file_id)
            raise _unwritten(error) from None
        self._used[owner] += size
        return file

    def name_file(
        self, owner: str, file_id: str, name: str, purpose: Purpose, expiry: int = EXPIRY_SECONDS
    ) -> FileObject:
        """Make a file of a content that is there."""
        now = self.now()
        size = self.path(file_id).stat().st_size
        file = FileObject(
            id=file_id, bytes=size, created_at=now, expires_at=now + expiry, filename=name, purpose=purpose
        )
        stored = StoredFile(owner, file)
        _write(self._files / f"{file_id}.json", msgspec.json.encode(stored))
        self.files[file_id] = stored
        return file

    def files_of(self, owner: str) -> list[FileObject]:
        """The files of a key."""
        self.remove_expired()
        return [one.file for one in self.files.values() if one.owner == owner]

    def delete_file(self, file_id: str) -> None:
        """Remove a file. Raises a 409 as `HttpError` while a batch reads it."""
        if self.in_use(file_id):
            raise HttpError(409, "the file is that of an unfinished batch: cancel the batch first", code="file_in_use")
        self.remove_file(file_id)

    def remove_file(self, file_id: str) -> None:
        """Forget a file and its content."""
        if (stored := self.files.pop(file_id, None)) is not None:
            self._used[stored.owner] -= self.size(file_id)
        for path in (self._files / f"{file_id}.json", self.path(file_id)):
            path.unlink(missing_ok=True)

    def append(self, owner: str, file_id: str, data: bytes) -> None:
        """Add to a content. Raises a 413 as `HttpError` if there is no room, `OSError` if it cannot be written."""
        self._need_room(owner, len(data))
        with self.path(file_id).open("ab", buffering=0) as file:
            file.write(data)
        self._used[owner] += len(data)

    def size(self, file_id: str) -> int:
        """Bytes of a content; 0 if there is none."""
        try:
            return self.path(file_id).stat().st_size
        except FileNotFoundError:
            return 0

    def _need_room(self, owner: str, size: int) -> None:
        if reason := no_room("bytes", owner, self._used, self._max_bytes, size, flag="--max-stored-bytes"):
            raise HttpError(413, f"{reason}: delete files", code="insufficient_storage")

    # Batches

    def batches_of(self, owner: str) -> list[Batch]:
        """The batches of a key."""
        self.remove_expired()
        return [one.batch for one in self.batches.values() if one.owner == owner]

    def add_batch(self, stored: StoredBatch) -> None:
        """Keep a new batch. Raises a 429 as `HttpError`."""
        unfinished = Counter(one.owner for one in self._unfinished())
        if reason := no_room("unfinished batches", stored.owner, unfinished, MAX_UNFINISHED):
            raise HttpError(429, reason, code="rate_limit_exceeded")
        self._make_room_for_batch()
        self.save(stored)

    def save(self, stored: StoredBatch) -> None:
        """Write a batch as it is now."""
        _write(self._batches / f"{stored.batch.id}.json", msgspec.json.encode(stored))
        self.batches[stored.batch.id] = stored

    def in_use(self, file_id: str) -> bool:
        """Whether an unfinished batch reads this file."""
        return any(one.batch.input_file_id == file_id for one in self._unfinished())

    def remove_expired(self) -> None:
        """Forget files and batches whose time is over."""
        now = self.now()
        for file in [one.file for one in self.files.values() if one.file.expires_at <= now]:
            if not self.in_use(file.id):
                self.remove_file(file.id)
        for stored in list(self.batches.values()):
            if stored.batch.ended and stored.batch.created_at + EXPIRY_SECONDS <= now:
                self._remove_batch(stored)

    def close(self) -> None:
        """Let another server use the directory; remove a temporary one."""
        self._thread.shutdown()
        if self._root is not None:
            os.close(self._lock)
        if self._temporary is not None:
            self._temporary.close()

    def _open(self, root: Path) -> None:
        """Take a directory and read what it has. Raises `OSError` or `ConfigError`."""
        self._files, self._batches = root / "files", root / "batches"
        for folder in (root, self._files, self._batches):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise ConfigError(f"--batch-dir {root} is in use by another server") from None
        self._root = root
        self.files = _read_all(self._files, StoredFile)
        self.batches = _read_all(self._batches, StoredBatch)
        self._remove_unfinished()
        for stored in self.files.values():
            self._used[stored.owner] += self.size(stored.file.id)
        for batch in self._unfinished():
            self._used[batch.owner] += self.size(batch.output_id) + self.size(batch.error_id)

    def _make_room_for_batch(self) -> None:
        """If there are too many, forget the oldest that has ended, of the key that has most of these."""
        self.remove_expired()
        while len(self.batches) >= MAX_BATCHES:
            ended = [one for one in self.batches.values() if one.batch.ended]
            (owner, _), *_ = Counter(one.owner for one in ended).most_common(1)
            self._remove_batch(min((one for one in ended if one.owner == owner), key=lambda one: one.batch.created_at))

    def _remove_batch(self, stored: StoredBatch) -> None:
        self.batches.pop(stored.batch.id)
        (self._batches / f"{stored.batch.id}.json").unlink(missing_ok=True)

    def _unfinished(self) -> list[StoredBatch]:
        return [one for one in self.batches.values() if not one.batch.ended]

    def _remove_unfinished(self) -> None:
        """Remove contents that no file and no unfinished batch has."""
        known = set(self.files).union(*((one.output_id, one.error_id) for one in self._unfinished()))
        for path in self._files.iterdir():
            if path.name.removesuffix(".json") not in known and FILE_ID.fullmatch(path.name.split(".")[0]):
                path.unlink()


def _read_all(folder: Path, kind: type[T]) -> dict[str, T]:
    """The documents of a folder, by id. One that cannot be read is left alone, and said."""
    found: dict[str, T] = {}
    for path in folder.glob("*.json"):
        try:
            read = msgspec.json.decode(path.read_bytes(), type=kind)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            logger.warning("%s cannot be read and is left out: %s", path, error)
            continue
        name = read.file.id if isinstance(read, StoredFile) else read.batch.id
        if path.stem == name and (FILE_ID.fullmatch(name) or BATCH_ID.fullmatch(name)):
            found[name] = read
    return found


def _write(path: Path, data: bytes) -> None:
    """Replace a file as a whole."""
    part = path.with_suffix(".part")
    part.write_bytes(data)
    part.replace(path)


def _unwritten(error: OSError) -> HttpError:
    return HttpError(503, f"the file cannot be written: {error.strerror}", code="insufficient_storage")
