"""The host tier: which slots behind the pool hold which pages, and the copies that a plan has to make for that.

It has slot numbers only; `memory/offload.py` has the bytes. Copies are listed in the order of the decisions, and a
device makes them in that order, so a slot or a page may be used again in the same plan.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

import msgspec

from flover.prefix.entry import Entry


class PageCopy(msgspec.Struct, frozen=True, array_like=True):
    """Page `page` of the pool is stored in slot `slot` of the host tier, or loaded from there."""

    page: int
    slot: int
    loads: bool


class HostTier:
    """Slots and the entries that they hold; the one unused for longest is the first to go."""

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self.stored = 0
        """Pages stored and loaded so far."""
        self.loaded = 0
        self._free = list(range(num_slots - 1, -1, -1))
        self._held: OrderedDict[int, Entry] = OrderedDict()
        self._pinned: set[int] = set()
        self._copies: list[PageCopy] = []

    @property
    def used(self) -> int:
        """Slots that hold a page."""
        return len(self._held)

    @property
    def entries(self) -> list[Entry]:
        """What it holds, the one unused for longest first."""
        return list(self._held.values())

    def pin(self, entries: Iterable[Entry]) -> None:
        """The slots of these stay, until the next call."""
        self._pinned = {entry.slot for entry in entries if entry.slot is not None}

    def store(self, entry: Entry) -> Entry | None:
        """The entry's page is about to go: keep its contents in a slot, if there is one. Returns the entry that lost
        that slot."""
        lost = None
        if entry.slot is not None:
            self._held.move_to_end(entry.slot)
            return None
        if not self._free:
            slot = next((slot for slot in self._held if slot not in self._pinned), None)
            if slot is None:
                return None
            lost = self._held[slot]
            self.free(lost)
        entry.slot = self._free.pop()
        self._held[entry.slot] = entry
        assert entry.page is not None, "what is stored is in the pool"
        self._copies.append(PageCopy(entry.page, entry.slot, loads=False))
        self.stored += 1
        return lost

    def load(self, entries: list[Entry], pages: list[int]) -> None:
        """Entries that are in slots alone come back to these pages of the pool; their slots keep them."""
        for entry, page in zip(entries, pages, strict=True):
            assert entry.slot is not None, "what is loaded is in a slot"
            entry.page = page
            self._copies.append(PageCopy(page, entry.slot, loads=True))
        for entry in reversed(entries):  # as in the pool, the end of a prefix goes before its beginning
            assert entry.slot is not None, "and stays there"
            self._held.move_to_end(entry.slot)
        self.loaded += len(entries)

    def restore(self, entries: list[Entry]) -> None:
        """Slots that hold pages since before the start; the first of them was used last."""
        self._held.update((entry.slot, entry) for entry in reversed(entries) if entry.slot is not None)
        self._free = [slot for slot in reversed(range(self.num_slots)) if slot not in self._held]

    def free(self, entry: Entry) -> None:
        """The entry's slot holds nothing any more, if it has one."""
        if entry.slot is not None:
            del self._held[entry.slot]
            self._free.append(entry.slot)
            entry.slot = None

    def take_copies(self) -> list[PageCopy]:
        """What was decided since the last call."""
        copies, self._copies = self._copies, []
        return copies

    def clear(self, num_slots: int | None = None) -> None:
        """Forget everything, copies that were not taken included; with `num_slots` it has so many from now on."""
        for entry in self._held.values():
            entry.slot = None
        self.num_slots = self.num_slots if num_slots is None else num_slots
        self._free = list(range(self.num_slots - 1, -1, -1))
        self._held.clear()
        self._copies = []
