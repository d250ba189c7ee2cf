"""Bugs to plant into the host tier. Added to the others on import."""

from __future__ import annotations

from collections.abc import Iterable

from flover.prefix.entry import Entry
from flover.prefix.tier import HostTier, PageCopy

from .plants import Patch, plant


@plant("a page is stored after it was reused", "L3", "L7", flavour="calm")
def _store_late(patch: Patch) -> None:
    original = HostTier.take_copies
    late: list[PageCopy] = []

    def take_copies(self: HostTier) -> list[PageCopy]:
        copies = original(self)
        due, late[:] = list(late), [copy for copy in copies if not copy.loads]
        return due + [copy for copy in copies if copy.loads]

    patch.setattr(HostTier, "take_copies", take_copies)


@plant("a slot that was lost can still be found", "L7", "L3", flavour="calm")
def _keep_lost(patch: Patch) -> None:
    original = HostTier.store

    def store(self: HostTier, entry: Entry) -> Entry | None:
        oldest = next(iter(self._held.items()), None)
        lost = original(self, entry)
        if lost is not None and oldest is not None:
            lost.slot = oldest[0]
        return None

    patch.setattr(HostTier, "store", store)


@plant("loads come back in another order", "L7", flavour="calm")
def _shuffled(patch: Patch) -> None:
    original = HostTier.load

    def load(self: HostTier, entries: Iterable[Entry], pages: list[int]) -> None:
        original(self, list(entries), pages)
        if len(pages) > 1:
            *_, a, b = self._copies
            self._copies[-2:] = [PageCopy(a.page, b.slot, loads=True), PageCopy(b.page, a.slot, loads=True)]

    patch.setattr(HostTier, "load", load)
