"""Streamed text on a terminal: words are whole, nothing is lost, and nothing of it commands the terminal."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from flover.cli.wrapping import WordWrap


def screen(written: str, width: int) -> list[str]:
    """The lines that a terminal of so many columns shows; it never has to wrap or to go back over its edge itself."""
    lines = [""]
    for part in re.findall(r"\x1b\[\d+D\x1b\[K|\n|[^\x1b\n]", written):
        if part == "\n":
            lines.append("")
        elif part.startswith("\x1b"):
            back = int(re.findall(r"\d+", part)[0])
            assert back <= len(lines[-1])
            lines[-1] = lines[-1][: len(lines[-1]) - back]
        else:
            lines[-1] += part
            assert len(lines[-1]) < width
    return lines


def written(pieces: list[str], width: int) -> str:
    wrap = WordWrap()
    return "".join(wrap.feed(piece, width) for piece in pieces)


@given(
    words=st.lists(st.text("abc", min_size=1, max_size=9), max_size=40),
    width=st.integers(12, 40),
    cuts=st.lists(st.integers(1, 7), min_size=1, max_size=5),
)
def test_words_are_whole_and_in_order(words: list[str], width: int, cuts: list[int]) -> None:
    text = " ".join(words)
    pieces, place, turn = [], 0, 0
    while place < len(text):
        pieces.append(text[place : place + cuts[turn % len(cuts)]])
        place, turn = place + cuts[turn % len(cuts)], turn + 1
    lines = screen(written(pieces, width), width)
    assert " ".join(lines).split() == words


@given(st.text(), st.integers(1, 40))
def test_no_piece_of_a_text_commands_the_terminal(text: str, width: int) -> None:
    rest = re.sub(r"\x1b\[\d+D\x1b\[K", "", written([text], width))
    assert not [char for char in rest if (ord(char) < 32 and char != "\n") or 127 <= ord(char) < 160]


def test_a_word_wider_than_the_terminal_is_broken_and_wide_characters_count_twice() -> None:
    assert screen(written(["x" * 25], 11), 11) == ["x" * 10, "x" * 10, "x" * 5]
    assert written(["漢字漢字漢字"], 9) == "漢字漢字\n漢字"
    assert written(["ab\x1b[2J\x9b1m\r\n"], 80) == "ab\ufffd[2J\ufffd1m\n"
