"""Which replica gets a request: affinity to a prompt's beginning, and its bounds."""

import random

import pytest

from flover.service import router
from flover.service.router import PrefixRouter

SYSTEM = list(range(100))


def test_the_longest_known_beginning_wins() -> None:
    chooser = PrefixRouter(3, block=4, most_apart=5)
    assert chooser.choose(SYSTEM[:8], [0, 0, 0]) == 0
    assert chooser.choose([9] * 8, [1, 0, 0]) == 1
    assert chooser.choose(SYSTEM[:8] + [7] * 8, [6, 0, 0]) == 1, "replica 0 is too busy"
    assert chooser.choose(SYSTEM[:8] + [7] * 9, [0, 3, 0]) == 1, "it knows four blocks, replica 0 only two"
    assert chooser.choose(SYSTEM[:4] + [1] * 4, [3, 1, 0]) == 1, "both know one block: fewest open requests"
    assert chooser.choose([5] * 8, [2, 1, 1]) == 1, "nobody knows it: fewest open requests, then lowest number"


def test_a_beginning_that_differs_in_its_first_block_is_unknown() -> None:
    chooser = PrefixRouter(2, block=4)
    assert chooser.choose([0, *SYSTEM[1:]], [1, 0]) == 1
    assert chooser.choose([1, *SYSTEM[1:]], [0, 1]) == 0


def test_only_whole_blocks_count() -> None:
    chooser = PrefixRouter(2, block=4)
    assert chooser.choose(SYSTEM[:3], [1, 0]) == 1
    assert chooser.choose(SYSTEM[:3], [0, 1]) == 0


def test_the_bound_is_as_wide_as_it_says() -> None:
    chooser = PrefixRouter(2, block=4, most_apart=3)
    assert chooser.choose(SYSTEM, [0, 0]) == 0
    assert chooser.choose(SYSTEM, [3, 0]) == 0
    assert chooser.choose(SYSTEM, [4, 0]) == 1


def test_one_beginning_for_all_is_spread_within_the_bound() -> None:
    chooser, open_requests = PrefixRouter(4, most_apart=2), [0, 0, 0, 0]
    for _ in range(400):
        open_requests[chooser.choose(SYSTEM, open_requests)] += 1
        assert max(open_requests) - min(open_requests) <= 3
    assert sum(open_requests) == 400


def test_who_takes_nothing_gets_nothing() -> None:
    chooser = PrefixRouter(3, block=4)
    assert chooser.choose(SYSTEM, [0, 0, 0]) == 0
    assert chooser.choose(SYSTEM, [None, 9, 0]) == 2
    with pytest.raises(LookupError, match="none of 3"):
        chooser.choose(SYSTEM, [None, None, None])
    with pytest.raises(ValueError, match="2 numbers of open requests for 3"):
        chooser.choose(SYSTEM, [0, 0])


def test_a_cache_that_is_gone_is_forgotten() -> None:
    chooser = PrefixRouter(2, block=4)
    assert chooser.choose(SYSTEM, [1, 0]) == 1
    chooser.forget(0)
    assert chooser.choose(SYSTEM, [0, 1]) == 1, "the other one's is not"
    chooser.forget(1)
    assert chooser.choose(SYSTEM, [0, 1]) == 0


def test_text_and_bytes_are_prompts_too() -> None:
    text = "Once upon a time there was ü\ud800 " * 4
    chooser = PrefixRouter(2, block=8)
    assert chooser.choose(text, [1, 0]) == 1
    assert chooser.choose(text.encode("utf-8", "surrogatepass"), [0, 1]) == 1


def test_memory_is_bounded_and_the_latest_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router, "MOST_ENTRIES", 50)
    chooser, rng = PrefixRouter(2, block=4), random.Random(1)
    assert chooser.choose(SYSTEM[:16], [1, 0]) == 1
    for _ in range(100):
        assert chooser.choose(SYSTEM[:16], [0, 1]) == 1
        chooser.choose([rng.randrange(2**40) for _ in range(16)], [0, 0])
        assert len(chooser._known) <= 50
    for _ in range(20):
        chooser.choose([rng.randrange(2**40) for _ in range(16)], [0, 0])
    assert chooser.choose(SYSTEM[:16], [0, 1]) == 0


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="0 replicas"):
        PrefixRouter(0)
