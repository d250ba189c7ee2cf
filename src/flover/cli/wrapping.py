"""Word wrap of streamed text for a terminal."""

from __future__ import annotations

import unicodedata

from rich.cells import cell_len

_ERASE_LEFT = "\x1b[{}D\x1b[K"
"""Move back by so many columns and clear to the end of the line."""


class WordWrap:
    """Converts pieces of a text to terminal output without words broken at the edge.

    A word is written as it arrives; when it reaches the edge it is erased and written again on the next line. A word
    wider than the terminal is not moved. Control characters are replaced.
    """

    def __init__(self) -> None:
        self._column = 0
        self._word = ""

    def feed(self, text: str, width: int) -> str:
        """The output for a piece; `width` is the terminal's, in columns."""
        return "".join(self._put(_visible(char), max(2, width) - 1) for char in text if char != "\r")

    def _put(self, char: str, width: int) -> str:
        """Add one character; the last column stays free, so that the terminal never wraps a word."""
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
        if unicodedata.east_asian_width(char) in "WF" or length + size > width:  # can or must be broken
            self._word, self._column = char, size
            return "\n" + char
        self._word, self._column = word, length + size
        return (_ERASE_LEFT.format(length) if length else "") + "\n" + word


def _visible(char: str) -> str:
    """The character, or a replacement for a control character."""
    if char == "\t":
        return " "
    return "\ufffd" if unicodedata.category(char) in ("Cc", "Cs") and char != "\n" else char
