"""What must hold between pages, rows and sequences after every iteration, whatever came in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from flover.engine.pages import PagePool
from flover.engine.roster import Roster, row_of
from flover.engine.rows import RowTable
from flover.errors import InvariantError
from flover.prefix.index import PrefixIndex


def check_roster(roster: Roster) -> None:
    """Raise `InvariantError` if pages, rows and sequences do not agree."""
    holders = [sequence.pages for sequence in roster.running] + [pages for _, pages in roster._held]
    check_pool(roster.pool, Counter(page for pages in holders for page in pages))
    check_tier(roster.prefix)
    check_rows(roster.rows, {sequence.number: row_of(sequence) for sequence in roster.running})
    for sequence in roster.waiting:
        if sequence.row is not None or sequence.pages:
            raise InvariantError(f"sequence {sequence.number} waits but holds a row or pages")
    for sequence in roster.running:
        if not 0 <= sequence.computed < len(sequence.token_ids) <= sequence.max_len:
            raise InvariantError(f"sequence {sequence.number} has computed {sequence.computed} tokens")
        if roster.pages_for(sequence.position) > len(sequence.pages):
            raise InvariantError(f"sequence {sequence.number} has fewer pages than computed tokens")
    everyone = Counter(sequence.request.client for sequence in (*roster.running, *roster.waiting))
    running = Counter(sequence.request.client for sequence in roster.running)
    counted = {name: (client.sequences, client.rows) for name, client in roster.shares._clients.items()}
    if counted != {name: (count, running[name]) for name, count in everyone.items()}:
        raise InvariantError(f"shares count {counted} sequences and rows, here are {everyone} and {running}")


def check_pool(pool: PagePool, owned: Mapping[int, int]) -> None:
    """`owned` counts, for each page, the sequences that hold it: the pool must agree, and lose no page."""
    actual = {page: count for page, count in enumerate(pool._owners) if count}
    if actual != owned:
        wrong = {page for page in actual.keys() | owned.keys() if actual.get(page) != owned.get(page)}
        raise InvariantError(f"owners of pages {sorted(wrong)} differ from the sequences that hold them")
    numbers = [*pool._free, *pool._cached, *actual]
    if sorted(numbers) != list(range(1, len(pool._owners))):
        raise InvariantError("free, cached and owned pages are not a partition of the pool")


def check_tier(prefix: PrefixIndex) -> None:
    """Index, pages and slots agree: each entry is where it says, and is in the pool or in the host tier."""
    tier = prefix.tier
    if sorted([*tier._free, *tier._held]) != list(range(tier.num_slots)):
        raise InvariantError("free and held slots are not a partition of the host tier")
    wrong = [slot for slot, entry in tier._held.items() if entry.slot != slot]
    wrong += [page for page, entry in prefix._by_page.items() if entry.page != page]
    wrong += [entry for entry in prefix._entries.values() if entry.page is None and entry.slot is None]
    lost = {*tier._held.values(), *prefix._by_page.values()} - set(prefix._entries.values())
    if wrong or lost:
        raise InvariantError(f"entries of prefixes are not where they say: {wrong}, {lost}")


def check_rows(table: RowTable, running: Mapping[int, int]) -> None:
    """`running` maps sequence number to row: both views must agree."""
    rows = {number: row for row, number in enumerate(table._numbers) if number is not None}
    if rows != running:
        raise InvariantError(f"row table {rows} disagrees with the sequences' rows {running}")
