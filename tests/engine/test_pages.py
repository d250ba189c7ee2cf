"""The pool of pages against a model made of dictionaries, and the prefix index under forced collisions."""

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule
from simulation.invariants import check_pool

from flover.engine.pages import PagePool
from flover.errors import InvariantError
from flover.prefix.entry import Entry
from flover.prefix.index import PrefixIndex

SIZE = 2


def weak_digest(parent: bytes, token_ids: tuple[int, ...]) -> bytes:
    """Four bits: collisions all the time."""
    return bytes([(sum(parent) + sum(token_ids) * 7) % 16])


class PoolMachine(RuleBasedStateMachine):
    """Owners take, share, publish and release pages; the model remembers what each page holds."""

    owners = Bundle("owners")

    def __init__(self) -> None:
        super().__init__()
        self.prefix = PrefixIndex(SIZE, weak_digest)
        self.pool = PagePool(9, self.prefix)
        self.live: dict[int, list[int]] = {}
        self.content: dict[int, tuple[int, ...]] = {}
        self.names = 0

    @rule(target=owners, salt=st.sampled_from("ab"), tokens=st.lists(st.integers(0, 2), min_size=2, max_size=8))
    def enter(self, salt: str, tokens: list[int]) -> int:
        tokens = tokens[: len(tokens) // SIZE * SIZE]
        whole = (ord(salt), *tokens)
        chain = self.prefix.match(self.prefix.root(salt), tokens, len(tokens) // SIZE)
        pages = [entry.page for entry in chain]
        for number, page in enumerate(pages):
            assert self.content[page] == whole[: 1 + (number + 1) * SIZE], "a hit on another content or salt"
        self.pool.share(pages)
        wanted = len(tokens) // SIZE - len(pages)
        self.names += 1
        if wanted > self.pool.available:
            self.pool.release(pages, keep=True)
            self.live[self.names] = []
            return self.names
        pages += self.pool.take(wanted)
        parent: Entry | None = chain[-1] if chain else self.prefix.root(salt)
        for number in range(len(chain), len(pages)):
            self.content[pages[number]] = whole[: 1 + (number + 1) * SIZE]
            if parent is not None:
                ids = tuple(tokens[number * SIZE : (number + 1) * SIZE])
                parent = self.prefix.publish(parent, ids, pages[number])
        self.live[self.names] = pages
        return self.names

    @rule(owner=consumes(owners), keep=st.booleans())
    def leave(self, owner: int, keep: bool) -> None:
        self.pool.release(self.live.pop(owner), keep=keep)

    @rule()
    def drop(self) -> None:
        self.pool.drop_cached()

    @invariant()
    def agrees(self) -> None:
        owned = Counter(page for pages in self.live.values() for page in pages)
        check_pool(self.pool, owned)
        assert self.pool.used == len(owned)
        assert self.pool.used + self.pool.available == self.pool.total == 8


PoolMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestPool = PoolMachine.TestCase


def test_more_than_available_is_loud() -> None:
    pool = PagePool(3, PrefixIndex(SIZE))
    with pytest.raises(InvariantError, match="3 pages wanted, 2 available"):
        pool.take(3)


def test_double_release_is_loud() -> None:
    pool = PagePool(3, PrefixIndex(SIZE))
    pages = pool.take(1)
    pool.release(pages, keep=False)
    with pytest.raises(InvariantError, match="released more often"):
        pool.release(pages, keep=False)


def test_a_lost_page_is_found() -> None:
    pool = PagePool(4, PrefixIndex(SIZE))
    pool.take(1)
    with pytest.raises(InvariantError, match="owners of pages"):
        check_pool(pool, {})


def test_the_prefix_unused_for_longest_goes_first_and_its_end_before_its_beginning() -> None:
    prefix = PrefixIndex(SIZE)
    pool = PagePool(5, prefix)
    old, new = pool.take(2), pool.take(2)
    for first, pages in ((0, old), (10, new)):
        parent = prefix.root("")
        for number, page in enumerate(pages):
            published = prefix.publish(parent, (first + 2 * number, first + 2 * number + 1), page)
            assert published is not None
            parent = published
    pool.release(old, keep=True)
    pool.release(new, keep=True)
    assert pool.take(1) == [old[1]]
    assert prefix.match(prefix.root(""), [0, 1, 2, 3], 2)[-1].page == old[0]
