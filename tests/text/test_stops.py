"""The stop matcher says, piece by piece, what `find` says of the whole text."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flover.text.stops import StopMatcher, StopTable

SMALL = "ab"
STOPS = st.lists(st.text(SMALL, min_size=1, max_size=5), min_size=1, max_size=4)


def cut_naively(text: str, stops: list[str], include: bool, unarmed_len: int = 0) -> tuple[str, str | None]:
    """First complete stop string, the longest of those: by looking at every beginning of the text."""
    for end in range(unarmed_len + 1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            stop = max(complete, key=len)
            return text[: end if include else end - len(stop)], stop
    return text, None


@st.composite
def pieces(draw: st.DrawFn) -> list[str]:
    return draw(st.lists(st.text("abc", max_size=6), max_size=10))


@settings(max_examples=1500, deadline=None)
@given(pieces=pieces(), stops=STOPS, include=st.booleans(), num_unarmed=st.integers(0, 4))
def test_pieces_give_what_the_whole_text_gives(
    pieces: list[str], stops: list[str], include: bool, num_unarmed: int
) -> None:
    matcher = StopMatcher(StopTable(stops), include=include)
    shown = [matcher.feed(piece, armed=i >= num_unarmed) for i, piece in enumerate(pieces)]
    shown.append(matcher.finish())
    unarmed_len = len("".join(pieces[:num_unarmed]))
    assert ("".join(shown), matcher.matched) == cut_naively("".join(pieces), stops, include, unarmed_len)


@settings(max_examples=500, deadline=None)
@given(pieces=pieces(), more=st.text("abc", max_size=8), stops=STOPS)
def test_what_is_shown_can_never_become_part_of_a_stop_string(pieces: list[str], more: str, stops: list[str]) -> None:
    matcher = StopMatcher(StopTable(stops))
    shown = "".join(matcher.feed(piece) for piece in pieces)
    whole, _ = cut_naively("".join(pieces) + more, stops, include=False)
    assert whole.startswith(shown)


@settings(max_examples=500, deadline=None)
@given(pieces=pieces(), stops=STOPS)
def test_no_more_is_held_back_than_may_become_a_stop_string(pieces: list[str], stops: list[str]) -> None:
    matcher = StopMatcher(StopTable(stops))
    shown = "".join(matcher.feed(piece) for piece in pieces)
    if matcher.matched is None:
        held = "".join(pieces)[len(shown) :]
        assert not held or any(stop.startswith(held) and stop != held for stop in stops)


@pytest.mark.parametrize(
    ("stops", "text", "expected"),
    [
        (["bc", "abcd"], "xabcd", ("xa", "bc")),  # complete first
        (["bc", "abc"], "xabcd", ("x", "abc")),  # complete together: the longest
        (["aab"], "aaab", ("a", "aab")),
        (["\n\n"], "one\n\ntwo\n\n", ("one", "\n\n")),
        (["🦊"], "a🦊b", ("a", "🦊")),
        (["zz"], "abz", ("abz", None)),
    ],
)
def test_examples(stops: list[str], text: str, expected: tuple[str, str | None]) -> None:
    for size in (1, 2, 100):
        matcher = StopMatcher(StopTable(stops))
        shown = "".join(matcher.feed(text[i : i + size]) for i in range(0, len(text), size)) + matcher.finish()
        assert (shown, matcher.matched) == expected


def test_nothing_is_shown_after_a_match() -> None:
    matcher = StopMatcher(StopTable(["b"]))
    assert matcher.feed("abc") == "a"
    assert matcher.feed("abc") == ""
    assert matcher.finish() == ""


def test_a_stop_string_begun_before_min_tokens_counts_if_it_is_completed_after() -> None:
    matcher = StopMatcher(StopTable(["ab"]))
    assert matcher.feed("aba", armed=False) == "ab"
    assert matcher.feed("b") == ""
    assert matcher.matched == "ab"


def test_long_stop_strings_cost_linear_time() -> None:
    matcher = StopMatcher(StopTable(["a" * 50_000 + "b"]))
    started = time.process_time()
    for _ in range(1000):
        matcher.feed("a" * 100)
    assert time.process_time() - started < 5
