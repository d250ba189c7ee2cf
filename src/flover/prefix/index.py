"""Which pages hold which tokens: a tree of full pages, looked up by digest and compared by content.

An entry stands for "these tokens, after this parent". It is found by the digest of (parent's digest, token ids);
on a hit parent and token ids are compared, so a collision can only cost a reuse, never mix up two prompts. The
root is a salt: requests with different salts share nothing. An entry is here as long as its page is in the pool or in
the host tier.
"""

from __future__ import annotations

from collections.abc import Callable

from flover.prefix.entry import Entry, digest_tokens, root_of
from flover.prefix.tier import HostTier


class PrefixIndex:
    """Finds the pages of a known beginning. `digest` can be replaced to force collisions in tests."""

    def __init__(
        self,
        page_size: int,
        digest: Callable[[bytes, tuple[int, ...]], bytes] = digest_tokens,
        num_slots: int = 0,
    ) -> None:
        self.tier = HostTier(num_slots)
        self._page_size = page_size
        self._digest = digest
        self._entries: dict[bytes, Entry] = {}
        self._by_page: dict[int, Entry] = {}

    def root(self, salt: str) -> Entry:
        """Where the prefixes of a salt begin. Roots are equal when their salts are."""
        return root_of(salt)

    def match(self, root: Entry, token_ids: list[int], most: int) -> list[Entry]:
        """Entries of the longest published beginning of `token_ids`, at most `most` pages."""
        found: list[Entry] = []
        parent, size = root, self._page_size
        for start in range(0, most * size, size):
            ids = tuple(token_ids[start : start + size])
            entry = self._entries.get(self._digest(parent.digest, ids))
            if entry is None or not entry.follows(parent, ids):
                break
            found.append(entry)
            parent = entry
        return found

    def publish(self, parent: Entry, token_ids: tuple[int, ...], page: int) -> Entry | None:
        """Make a computed page findable. If the same content is in the pool already, that entry is returned and `page`
        stays private; None if another content has taken the digest."""
        digest = self._digest(parent.digest, token_ids)
        entry = self._entries.get(digest)
        if entry is not None and self._is_lost(entry):
            self._remove(entry)
            entry = None
        if entry is None:
            entry = self._entries[digest] = Entry(digest, parent, token_ids)
        elif not entry.follows(parent, token_ids):
            return None
        if entry.page is None:
            entry.page = page
            self._by_page[page] = entry
        return entry

    def holds(self, page: int) -> bool:
        """Whether this page can be found."""
        return page in self._by_page

    def store(self, page: int) -> None:
        """Keep the page's contents in the host tier too, if that has a slot for them."""
        entry = self._by_page.get(page)
        if entry is not None and self.tier.num_slots and not self._is_lost(entry):
            lost = self.tier.store(entry)
            if lost is not None and lost.page is None:
                del self._entries[lost.digest]

    def evict(self, page: int) -> None:
        """The page is about to be reused: its contents are in the host tier from now on, or nowhere."""
        self.store(page)
        self.forget(page)

    def load(self, entries: list[Entry], pages: list[int]) -> None:
        """Entries of the host tier come back to these pages of the pool."""
        self.tier.load(entries, pages)
        self._by_page.update(zip(pages, entries, strict=True))

    def forget(self, page: int) -> None:
        """The page's contents are about to go."""
        entry = self._by_page.pop(page, None)
        if entry is not None:
            entry.page = None
            if entry.slot is None:
                del self._entries[entry.digest]

    def restore(self, entries: list[Entry]) -> None:
        """What the host tier holds since before the start: parents first, and what was used last first."""
        self._entries.update((entry.digest, entry) for entry in entries)
        self.tier.restore(entries)

    def clear(self) -> None:
        """Forget everything."""
        self.tier.clear()
        self._entries.clear()
        self._by_page.clear()

    def stop_offload(self) -> None:
        """The host tier cannot be written any more: what it has is forgotten, and nothing is stored."""
        for entry in self.tier.entries:
            if entry.page is None:
                del self._entries[entry.digest]
        self.tier.clear(0)

    def _is_lost(self, entry: Entry) -> bool:
        """Whether no look-up can come to it, because its parent was forgotten."""
        parent = entry.parent
        return parent is not None and parent.parent is not None and self._entries.get(parent.digest) is not parent

    def _remove(self, entry: Entry) -> None:
        self.tier.free(entry)
        if entry.page is None:
            del self._entries[entry.digest]
        else:
            self.forget(entry.page)
