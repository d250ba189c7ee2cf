"""The bytes of the host tier: slots of a page each, in a file or in memory of the host.

A slot that is read is compared with the checksum of what was written to it, so what a disk returns wrongly is never
computed on. `prefix/tier.py` decides what is copied.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from hashlib import blake2b

from flover.memory.kvcache import KVCache
from flover.memory.offload_file import OffloadFile
from flover.prefix.tier import PageCopy

CHECKSUM_BYTES = 16
_MOST_PARTS = 512
"""Of a page in one call of the system, which takes at most 1,024."""

logger = logging.getLogger(__name__)


class PageStore:
    """Copies pages between `cache` and the slots of `file`."""

    def __init__(self, cache: KVCache, file: OffloadFile, num_slots: int) -> None:
        self.num_slots = num_slots
        self.file = file
        self.checksums: dict[int, bytes] = {}
        """Of the slots that hold a page."""
        self.error: str | None = None
        """Why nothing is stored any more."""
        self._cache = cache
        self._page_bytes = cache.page_bytes

    def apply(self, copies: Iterable[PageCopy]) -> None:
        """Make the copies of a plan, in order. Raises `OSError` if one cannot be loaded."""
        for copy in copies:
            if copy.loads:
                self.load(copy.slot, copy.page)
            else:
                self.store(copy.page, copy.slot)

    def store(self, page: int, slot: int) -> None:
        """Write a page to a slot. If that fails, `error` says why, and nothing more is stored."""
        self.checksums.pop(slot, None)
        if self.error is not None:
            return
        parts = self._cache.page_parts(page)
        try:
            self._move(os.pwritev, parts, slot)
        except OSError as error:
            self._give_up(f"cannot write {self.file.name}: {error.strerror}")
        else:
            self.checksums[slot] = checksum(parts)
        finally:
            _release(parts)

    def load(self, slot: int, page: int) -> None:
        """Read a slot into a page. Raises `OSError` if it does not hold what was stored; what is in the page is void
        then."""
        parts = self._cache.page_parts(page)
        try:
            self._move(os.preadv, parts, slot)
            if slot not in self.checksums or checksum(parts) != self.checksums[slot]:
                raise OSError(f"slot {slot} of {self.file.name} does not hold what was stored there")
        except OSError as error:
            self._give_up(f"cannot read {self.file.name}: {error}")
            raise
        finally:
            _release(parts)

    @property
    def slots_written(self) -> int:
        """Slots that lie inside the file."""
        return os.fstat(self.file.descriptor).st_size // self._page_bytes

    def empty(self) -> None:
        """Nothing that was in the file before is read."""
        os.ftruncate(self.file.descriptor, 0)

    def close(self) -> None:
        """Close the file. Calling it twice is harmless."""
        self.file.close()

    def _move(self, call: object, parts: list[memoryview], slot: int) -> None:
        assert callable(call)
        offset = slot * self._page_bytes
        for first in range(0, len(parts), _MOST_PARTS):
            some = parts[first : first + _MOST_PARTS]
            wanted = sum(len(part) for part in some)
            if (done := call(self.file.descriptor, some, offset)) != wanted:
                raise OSError(None, f"{done} of {wanted} bytes at {offset}")
            offset += wanted

    def _give_up(self, error: str) -> None:
        if self.error is None:
            logger.warning("prefixes are no longer offloaded: %s", error)
            self.error = error


def checksum(parts: Iterable[memoryview]) -> bytes:
    """Of the bytes of a page."""
    digest = blake2b(digest_size=CHECKSUM_BYTES)
    for part in parts:
        digest.update(part)
    return digest.digest()


def _release(parts: list[memoryview]) -> None:
    for part in parts:
        part.release()
