"""Text that comes in pieces, wrapped at words for a terminal."""

from __future__ import annotations

import unicodedata

from rich.cells import cell_len

_ERASE_LEFT = "\x1b[{}D\x1b[K"
"""Back by so many columns, and clear to the end of the line."""


class WordWrap:
    """Turns pieces of a text into what to write, so that no word is broken at the terminal's edge.

    A word is written as it comes; when it reaches the edge it is taken back and written again on the next line. A word
    that is wider than the terminal is left to it. Control characters never reach the terminal.
    """

    def __init__(self) -> None:
        self._column = 0
        self._word = ""

    def feed(self, text: str, width: int) -> str:
        """What to write for a piece; `width` is the terminal's, in columns."""
        return "".join(self._put(_visible(char), max(2, width) - 1) for char in text if char != "\r")

    def _put(self, char: str, width: int) -> str:
        """One character; the last column stays free, so that the terminal itself never wraps a word."""
        if char == "\n":
            self._column, self._word = 0, ""
            return char
        size = cell_len(char)
        if char == " ":
            self._word = ""
            if self._column + 1 > width:
                self._column = 0
                return "\n"
        elif self._column + size > width:
            return self._to_next_line(char, size, width)
        else:
            self._word += char
        self._column += size
        return char

    def _to_next_line(self, char: str, size: int, width: int) -> str:
        word, length = self._word + char, cell_len(self._word)
        if unicodedata.east_asian_width(char) in "WF" or length + size > width:  # may be broken, or must be
            self._word, self._column = char, size
            return "\n" + char
        self._word, self._column = word, length + size
        return (_ERASE_LEFT.format(length) if length else "") + "\n" + word


def _visible(char: str) -> str:
    """The character, or a replacement for one that would command the terminal."""
    if char == "\t":
        return " "
    return "\ufffd" if unicodedata.category(char) in ("Cc", "Cs") and char != "\n" else char
