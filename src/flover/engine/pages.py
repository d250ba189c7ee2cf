"""The pool of pages of keys and values: the owners of each page, as numbers only.

A page is *free* (nothing in it matters), *owned* (by one or more sequences), or *cached* (no owner, but it holds a
prefix that may be wanted again; the one unused for longest is the first to go). Page 0 is the null page, which has no
owner.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from flover.engine.plan import NULL_PAGE
from flover.errors import InvariantError
from flover.prefix.entry import Entry
from flover.prefix.index import PrefixIndex


class PagePool:
    """Counts owners of pages; evicts cached pages when free ones run out."""

    def __init__(self, num_pages: int, prefix: PrefixIndex) -> None:
        self._prefix = prefix
        self._owners = [0] * num_pages
        self._free = list(range(num_pages - 1, NULL_PAGE, -1))
        self._cached: OrderedDict[int, None] = OrderedDict()

    @property
    def total(self) -> int:
        """Pages that sequences can use (the null page is not one of them)."""
        return len(self._owners) - 1

    @property
    def available(self) -> int:
        """Pages that `take` can hand out now."""
        return len(self._free) + len(self._cached)

    @property
    def used(self) -> int:
        return self.total - self.available

    @property
    def cached(self) -> int:
        return len(self._cached)

    @property
    def free_pages(self) -> list[int]:
        """Pages whose contents are not read again."""
        return sorted(self._free)

    def take(self, count: int) -> list[int]:
        """Hand out pages to one new owner. The caller has looked at `available`."""
        if count > self.available:
            raise InvariantError(f"{count} pages wanted, {self.available} available")
        while len(self._free) < count:
            page, _ = self._cached.popitem(last=False)
            self._prefix.evict(page)
            self._free.append(page)
        pages = [self._free.pop() for _ in range(count)]
        for page in pages:
            self._owners[page] = 1
        return pages

    def take_after(self, chain: list[Entry], count: int) -> list[int]:
        """The pages of a known prefix, of which the caller has shared those that are in the pool, and new ones: `count`
        are taken in all, the first of them for the entries that come from the host tier."""
        missing = [entry for entry in chain if entry.page is None]
        self._prefix.tier.pin(missing)
        taken = self.take(count)
        self._prefix.load(missing, taken[: len(missing)])
        return [entry.page for entry in chain if entry.page is not None] + taken[len(missing) :]

    def store_cached(self) -> None:
        """Keep cached pages in the host tier too, as far as it has slots: those unused for longest go first there."""
        for page in self._cached:
            self._prefix.store(page)

    def share(self, pages: Iterable[int]) -> None:
        """One more owner for pages that hold a known prefix."""
        for page in pages:
            if self._owners[page] == 0 and page not in self._cached:
                raise InvariantError(f"page {page} is free and cannot be shared")
            self._cached.pop(page, None)
            self._owners[page] += 1

    def release(self, pages: Iterable[int], *, keep: bool) -> None:
        """One owner less. Pages without an owner stay cached if they hold a published prefix and `keep` is set."""
        # The end of a prefix is of use only with its beginning, so it is the first to be evicted.
        for page in reversed(list(pages)):
            if self._owners[page] <= 0:
                raise InvariantError(f"page {page} was released more often than it was taken")
            self._owners[page] -= 1
            if self._owners[page] == 0 and keep and self._prefix.holds(page):
                self._cached[page] = None
            elif self._owners[page] == 0:
                self._prefix.forget(page)
                self._free.append(page)

    def drop_cached(self) -> None:
        """Forget every prefix: what is in unused pages is void."""
        self._prefix.clear()
        self._free.extend(self._cached)
        self._cached.clear()
