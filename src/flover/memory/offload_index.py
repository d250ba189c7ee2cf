"""What the slots of a kept file hold, written beside it when the engine stops and read at the next start.

The file is untrusted: it is bounded in size, decoded by types, and each page that it names is compared with its
checksum when it is loaded. Digests are computed again, and salts are there as digests alone.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from flover.memory.offload import CHECKSUM_BYTES, PageStore
from flover.prefix.entry import DIGEST_BYTES, Entry, digest_tokens

FORMAT = 1
_BYTES_PER_TOKEN, _BYTES_PER_ENTRY, _BYTES = 5, 64, 256


class SavedEntry(msgspec.Struct, frozen=True, array_like=True):
    """A page: its parent's place in the list, or its root's digest; its tokens, slot and checksum."""

    parent: int | bytes
    token_ids: list[int]
    slot: int
    checksum: bytes


class SavedIndex(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file: parents before what follows them, what was used last first."""

    format: int
    fingerprint: bytes
    page_size: int
    entries: list[SavedEntry]


def write_index(store: PageStore, fingerprint: bytes, page_size: int, entries: list[Entry]) -> None:
    """Write what `entries` of the tier, the one used last first, have in their slots. Those whose beginning is not in
    the tier are left out. Raises `OSError`."""
    places: dict[Entry, int] = {}
    saved: list[SavedEntry] = []
    for entry in entries:
        chain = [entry]
        while chain[-1].parent is not None and chain[-1].parent.parent is not None and chain[-1].parent not in places:
            chain.append(chain[-1].parent)
        if not all(one.slot in store.checksums for one in chain):
            continue
        for one in reversed(chain):
            if one not in places:
                assert one.parent is not None and one.slot is not None, "it is a page, in a slot"
                parent = places.get(one.parent, one.parent.digest)
                places[one] = len(saved)
                saved.append(SavedEntry(parent, list(one.token_ids), one.slot, store.checksums[one.slot]))
    path = store.file.index
    assert path is not None, "what is kept has a path"
    index = SavedIndex(format=FORMAT, fingerprint=fingerprint, page_size=page_size, entries=saved)
    _replace(path, msgspec.msgpack.encode(index))


def read_index(store: PageStore, fingerprint: bytes, page_size: int, vocab_size: int) -> list[Entry]:
    """The entries of the file of the run before, which is removed: it is true as long as no slot is written. The
    store gets their checksums. Raises `ValueError`, which says why, if there are none, and `OSError`."""
    path = store.file.index
    assert path is not None, "what is kept has a path"
    data = _take(path, _BYTES + store.num_slots * (_BYTES_PER_ENTRY + page_size * _BYTES_PER_TOKEN))
    try:
        index = msgspec.msgpack.decode(data, type=SavedIndex)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if (index.format, index.fingerprint, index.page_size) != (FORMAT, fingerprint, page_size):
        raise ValueError(f"{path} is of another model, other settings or another version of Flover")
    entries: list[Entry] = []
    slots: set[int] = set()
    room = min(store.num_slots, store.slots_written)
    for one in index.entries:
        sound = 0 <= one.slot < room and one.slot not in slots and len(one.checksum) == CHECKSUM_BYTES
        ids_sound = len(one.token_ids) == page_size and all(0 <= token < vocab_size for token in one.token_ids)
        parent = _parent(one.parent, entries)
        if not (sound and ids_sound) or parent is None:
            raise ValueError(f"{path} is damaged: entry {len(entries)} is not a page of this tier")
        ids = tuple(one.token_ids)
        entries.append(Entry(digest_tokens(parent.digest, ids), parent, ids, slot=one.slot))
        slots.add(one.slot)
    if len({entry.digest for entry in entries}) < len(entries):
        raise ValueError(f"{path} is damaged: it has a page twice")
    store.checksums = {one.slot: one.checksum for one in index.entries}
    return entries


def _parent(saved: int | bytes, entries: list[Entry]) -> Entry | None:
    if isinstance(saved, bytes):
        return Entry(saved, None, ()) if len(saved) == DIGEST_BYTES else None
    return entries[saved] if 0 <= saved < len(entries) else None


def _take(path: Path, most: int) -> bytes:
    """Read and remove a file of this user. Raises `ValueError` if it is larger than `most` bytes."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        path.unlink()
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"{path} is damaged: it has more than {most} bytes")
    return data


def _replace(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
