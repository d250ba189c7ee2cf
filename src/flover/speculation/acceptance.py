"""How often the proposals for one sequence were right, and when to look at it again."""

from __future__ import annotations

from collections.abc import Sequence

REMEMBERED = 0.9
"""Weight of an observation that is one iteration older."""


class Acceptance:
    """Proposals are compared with what comes, whether a device has verified them or not: so a sequence that is not
    speculated for is found out when it begins to be foreseeable."""

    __slots__ = ("_length", "_longest_pause", "_pause", "_proposed", "_right", "_tried", "_wake")

    def __init__(self, longest_pause: int) -> None:
        """`longest_pause` is the most tokens until a sequence whose proposals are wrong is looked at again."""
        self._longest_pause = longest_pause
        self._proposed: Sequence[int] = ()
        self._length = 0
        """Tokens before the first of the newest proposals."""
        self._right, self._tried = 1.0, 2.0
        self._pause = self._wake = 0

    @property
    def chance(self) -> float:
        """How likely a proposal is right whose predecessors are; near 1/2 at first."""
        return self._right / self._tried

    def rests(self, length: int) -> bool:
        """Whether a sequence of so many tokens is not worth a look yet."""
        return length < self._wake

    def propose(self, length: int, token_ids: Sequence[int]) -> None:
        """These were proposed after `length` tokens."""
        self._proposed, self._length = token_ids, length

    def compare(self, token_ids: Sequence[int]) -> None:
        """Learn from what has come in place of the newest proposals; all tokens of the sequence are given."""
        if not self._proposed or len(token_ids) <= self._length:
            return
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
            self.rest(len(token_ids))
        self._proposed = ()

    def rest(self, length: int) -> None:
        """Nothing is to be expected for a while."""
        self._wake = length + self._pause
        self._pause = min(max(2 * self._pause, 1), self._longest_pause)
