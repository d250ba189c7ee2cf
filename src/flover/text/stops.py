"""Incremental search for stop strings in generated text.

The stop string that is completed first wins; of several completed by the same character, the longest. So
the result does not depend on how the text is split into pieces.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress


class StopTable:
    """Stop strings and the failure function of each (Knuth, Morris, Pratt), shared by all sequences of a request.
    Eight bytes per character."""

    __slots__ = ("borders", "strings")

    def __init__(self, strings: Sequence[str]) -> None:
        self.strings = tuple(dict.fromkeys(strings))
        self.borders = tuple(_borders(string) for string in self.strings)


def _borders(string: str) -> list[int]:
    """For each prefix length, the length of the longest proper prefix that is also a suffix of that prefix."""
    borders = [0] * (len(string) + 1)
    length = 0
    for end in range(2, len(string) + 1):
        while length and string[length] != string[end - 1]:
            length = borders[length]
        length += string[length] == string[end - 1]
        borders[end] = length
    return borders


class StopMatcher:
    """Passes text on up to the first stop string and holds back text that may still become one.

    `matched` is the stop string that was found, else None. With `include` the stop string itself is passed on, and
    nothing but hidden text is held back. Hidden text, such as that of special tokens, is searched but not passed on,
    unless it belongs to an included stop string. Cost: one step per character and stop string.
    """

    def __init__(self, table: StopTable, *, include: bool = False) -> None:
        self.matched: str | None = None
        self._table = table
        self._lens = [0] * len(table.strings)
        """For each stop string, the length of its longest prefix that the text so far ends with."""
        self._include = include
        self._held = ""
        self._shown = bytearray()
        """For each character held back, whether it may be passed on."""

    def feed(self, text: str, *, armed: bool = True, hidden: bool = False) -> str:
        """Take more text and return the text to pass on: none after a match.

        While `armed` is False (min_tokens), completed stop strings are ignored; one that starts then and is completed
        later counts, as in vLLM.
        """
        if self.matched is not None:
            return ""
        if not self._lens:
            return "" if hidden else text
        buffer, shown = self._held + text, self._shown + bytes([not hidden]) * len(text)
        for position, char in enumerate(text, start=len(self._held)):
            complete = self._step(char)
            if complete is not None and armed:
                self.matched, self._held = complete, ""
                end, start = position + 1, max(0, position + 1 - len(complete))
                before = "".join(compress(buffer[:start], shown))
                return before + buffer[start:end] if self._include else before
        open_len = min(self._open_len(), len(buffer))
        if self._include and 0 not in shown[len(buffer) - open_len :]:
            open_len = 0
        split = len(buffer) - open_len
        self._held, self._shown = buffer[split:], shown[split:]
        return "".join(compress(buffer[:split], shown)) if 0 in shown else buffer[:split]

    def finish(self) -> str:
        """Return the text held back, at the end of the text."""
        held = "".join(compress(self._held, self._shown))
        self._held = ""
        return held

    def _step(self, char: str) -> str | None:
        """Take one character and return the longest stop string that it completes."""
        found: str | None = None
        for index, (string, borders) in enumerate(zip(self._table.strings, self._table.borders, strict=True)):
            length = self._lens[index]
            if length == len(string):
                length = borders[length]
            while length and string[length] != char:
                length = borders[length]
            length += string[length] == char
            self._lens[index] = length
            if length == len(string) and (found is None or length > len(found)):
                found = string
        return found

    def _open_len(self) -> int:
        """Number of characters at the end of the text that may be the start of a stop string."""
        strings = zip(self._table.strings, self._table.borders, self._lens, strict=True)
        return max(borders[length] if length == len(string) else length for string, borders, length in strings)
