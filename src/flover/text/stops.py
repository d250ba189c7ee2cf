"""Stop strings, found while the text arrives: pure, incremental, knows nothing of tokens.

The stop string that is complete first wins; of several that are complete with the same character, the longest. So
the result does not depend on how the text is cut into pieces.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress


class StopTable:
    """Stop strings and Knuth, Morris and Pratt's failure function of each: made once, shared by all sequences of a
    request. Costs a step and eight bytes for each character."""

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
    """Lets text through up to the first stop string and holds back whatever may still become one.

    `matched` is the stop string that was found, None before. With `include` the stop string itself is let through,
    and nothing but hidden text has to be held back. Text that is fed as hidden, such as that of special tokens, takes
    part in the search and is not let through, unless it belongs to an included stop string. Cost: one step per
    character and stop string.
    """

    def __init__(self, table: StopTable, *, include: bool = False) -> None:
        self.matched: str | None = None
        self._table = table
        self._lens = [0] * len(table.strings)
        """Of each stop string, how much of it the text so far ends with."""
        self._include = include
        self._held = ""
        self._shown = bytearray()
        """Of each character held back, whether it may be let through."""

    def feed(self, text: str, *, armed: bool = True, hidden: bool = False) -> str:
        """Take more text and return what may be shown. After a match nothing more is shown.

        While `armed` is False (min_tokens), stop strings that become complete do not count; one that began then and
        is completed later does, as in vLLM.
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
        """The text is over: return what was held back."""
        held = "".join(compress(self._held, self._shown))
        self._held = ""
        return held

    def _step(self, char: str) -> str | None:
        """Take one character; the longest stop string that is complete with it."""
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
        """Characters at the end of the text that may still grow into a stop string."""
        strings = zip(self._table.strings, self._table.borders, self._lens, strict=True)
        return max(borders[length] if length == len(string) else length for string, borders, length in strings)
