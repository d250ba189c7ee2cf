"""Which pages hold which tokens: a tree of full pages, looked up by digest and compared by content.

An entry stands for "these tokens, after this parent". It is found by the digest of (parent's digest, token ids);
on a hit parent and token ids are compared, so a collision can only cost a reuse, never mix up two prompts. The
root is a salt: requests with different salts share nothing.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b

ROOT = -1


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """A published page, or the root of a salt: page `ROOT`, without a parent."""

    digest: bytes
    parent: Entry | None
    token_ids: tuple[int, ...]
    page: int


def digest_tokens(parent: bytes, token_ids: tuple[int, ...]) -> bytes:
    """Digest of a page's tokens after its parent's."""
    return blake2b(parent + array("q", token_ids).tobytes(), digest_size=16).digest()


class PrefixIndex:
    """Finds the pages of a known beginning. `digest` can be replaced to force collisions in tests."""

    def __init__(self, page_size: int, digest: Callable[[bytes, tuple[int, ...]], bytes] = digest_tokens) -> None:
        self._page_size = page_size
        self._digest = digest
        self._entries: dict[bytes, Entry] = {}
        self._by_page: dict[int, Entry] = {}

    def root(self, salt: str) -> Entry:
        """Where the prefixes of a salt begin. Roots are equal when their salts are."""
        return Entry(blake2b(salt.encode(), digest_size=16).digest(), None, (), ROOT)

    def match(self, root: Entry, token_ids: list[int], most: int) -> list[Entry]:
        """Entries of the longest published beginning of `token_ids`, at most `most` pages."""
        found: list[Entry] = []
        parent, size = root, self._page_size
        for start in range(0, most * size, size):
            ids = tuple(token_ids[start : start + size])
            entry = self._entries.get(self._digest(parent.digest, ids))
            if entry is None or not _follows(entry, parent, ids):
                break
            found.append(entry)
            parent = entry
        return found

    def publish(self, parent: Entry, token_ids: tuple[int, ...], page: int) -> Entry | None:
        """Make a computed page findable. If the same content is there already, that entry is returned and `page`
        stays private; None if another content has taken the digest."""
        digest = self._digest(parent.digest, token_ids)
        entry = self._entries.get(digest)
        if entry is not None:
            return entry if _follows(entry, parent, token_ids) else None
        entry = Entry(digest, parent, token_ids, page)
        self._entries[digest] = entry
        self._by_page[page] = entry
        return entry

    def holds(self, page: int) -> bool:
        """Whether this page can be found."""
        return page in self._by_page

    def forget(self, page: int) -> None:
        """The page's contents are about to go."""
        entry = self._by_page.pop(page, None)
        if entry is not None:
            del self._entries[entry.digest]

    def clear(self) -> None:
        self._entries.clear()
        self._by_page.clear()


def _follows(entry: Entry, parent: Entry, token_ids: tuple[int, ...]) -> bool:
    """Whether `entry` stands for exactly these tokens after exactly this parent."""
    found = entry.parent
    same_root = found is not None and found.page == parent.page == ROOT and found.digest == parent.digest
    return (found is parent or same_root) and entry.token_ids == token_ids
