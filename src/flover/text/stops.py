"""Stop strings, found while the text arrives: pure, incremental, knows nothing of tokens.

The stop string that is complete first wins; of several that are complete with the same character, the longest. So
the result does not depend on how the text is cut into pieces.
"""

from __future__ import annotations

from collections.abc import Sequence


class _Pattern:
    """Knuth, Morris and Pratt's automaton of one string: how much of it the text seen so far ends with."""

    def __init__(self, string: str) -> None:
        self.string = string
        self.matched_len = 0
        self._borders = _borders(string)

    def step(self, char: str) -> bool:
        """Take one character; True if the string is complete with it."""
        length = self.matched_len
        if length == len(self.string):
            length = self._borders[length]
        while length and self.string[length] != char:
            length = self._borders[length]
        self.matched_len = length + (self.string[length] == char)
        return self.matched_len == len(self.string)

    @property
    def open_len(self) -> int:
        """Characters at the end of the text that may still grow into the string."""
        complete = self.matched_len == len(self.string)
        return self._borders[self.matched_len] if complete else self.matched_len


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
    and nothing has to be held back. Cost: one step per character and stop string.
    """

    def __init__(self, stops: Sequence[str], *, include: bool = False) -> None:
        self.matched: str | None = None
        self._patterns = [_Pattern(stop) for stop in stops]
        self._include = include
        self._held = ""

    def feed(self, text: str, *, armed: bool = True) -> str:
        """Take more text and return what may be shown. After a match nothing more is shown.

        While `armed` is False (min_tokens), stop strings that become complete do not count; one that began then and
        is completed later does, as in vLLM.
        """
        if self.matched is not None:
            return ""
        if not self._patterns:
            return text
        buffer = self._held + text
        for position, char in enumerate(text, start=len(self._held)):
            complete = [pattern.string for pattern in self._patterns if pattern.step(char)]
            if complete and armed:
                self.matched, self._held = max(complete, key=len), ""
                end = position + 1
                return buffer[: end if self._include else end - len(self.matched)]
        held_len = 0 if self._include else max(pattern.open_len for pattern in self._patterns)
        split = len(buffer) - held_len
        self._held = buffer[split:]
        return buffer[:split]

    def finish(self) -> str:
        """The text is over: return what was held back."""
        held, self._held = self._held, ""
        return held
