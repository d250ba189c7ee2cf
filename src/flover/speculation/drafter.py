"""Proposals for one sequence, and how often they were right."""

from __future__ import annotations

from collections.abc import Sequence

from flover.config.speculative import Speculation
from flover.speculation.ngram import NgramIndex

REMEMBERED = 0.9
"""Weight of an observation that is one iteration older."""
LONGEST_PAUSE = 8
"""Tokens until a sequence whose proposals are wrong is looked at again: looking costs time where nothing repeats."""


class Drafter:
    """What it proposes is compared with what comes, whether a device has verified it or not: so a sequence that is not
    speculated for is found out when it begins to repeat."""

    __slots__ = ("_index", "_length", "_pause", "_proposed", "_right", "_tried", "_wake")

    def __init__(self, settings: Speculation) -> None:
        self._index = NgramIndex(settings.lookup_min, settings.lookup_max)
        self._proposed: list[int] = []
        self._length = 0
        """Tokens before the first of the newest proposals."""
        self._right, self._tried = 1.0, 2.0
        self._pause = self._wake = 0

    @property
    def acceptance(self) -> float:
        """How likely a proposal is right whose predecessors are; near 1/2 at first."""
        return self._right / self._tried

    def rests(self, length: int) -> bool:
        """Whether a sequence of so many tokens is not worth a look yet."""
        return length < self._wake

    def draft(self, token_ids: Sequence[int], most: int) -> list[int]:
        """Up to `most` tokens that may come after `token_ids`, which are those of the call before and more."""
        length = len(token_ids)
        if self.rests(length):
            return []
        if self._proposed and length > self._length:
            self._learn(token_ids)
        proposed = self._index.propose(token_ids, most)
        if not proposed:
            self._rest(length)
        self._proposed, self._length = proposed, length
        return proposed

    def _learn(self, token_ids: Sequence[int]) -> None:
        """Compare the newest proposals with what has come in their place."""
        came = token_ids[self._length : self._length + len(self._proposed)]
        right = 0
        while right < len(came) and came[right] == self._proposed[right]:
            right += 1
        wrong = right < len(came)
        self._right = REMEMBERED * self._right + right
        self._tried = REMEMBERED * self._tried + right + wrong
        if right:
            self._pause = 0
        elif wrong:
            self._rest(len(token_ids))

    def _rest(self, length: int) -> None:
        self._wake = length + self._pause
        self._pause = min(max(2 * self._pause, 1), LONGEST_PAUSE)
