"""Prompt lookup: what came after the same last tokens before (Saxena, *Prompt Lookup Decoding*, 2023)."""

from __future__ import annotations

from collections.abc import Sequence

INDEXED_AT_ONCE = 4096
"""Tokens of a new prompt that one iteration indexes: about a millisecond."""
MOST_CANDIDATES = 8
"""Earlier places that are compared, from the newest on."""


class NgramIndex:
    """Where each n-gram of `least` tokens has been in one growing sequence. Of the places that agree with the last
    `least` tokens or more, the one that agrees with most of the last `most` is taken, among equals the newest."""

    __slots__ = ("_before", "_least", "_most", "_newest")

    def __init__(self, least: int, most: int) -> None:
        self._least, self._most = least, most
        self._newest: dict[tuple[int, ...], int] = {}
        """By n-gram, the newest position after it."""
        self._before: list[int] = []
        """By position, less `least`: the position after the same n-gram before, or -1."""

    def propose(self, token_ids: Sequence[int], count: int) -> list[int]:
        """Up to `count` tokens that may come next; none while a long prompt is not indexed to its end. `token_ids` are
        those of the call before and more."""
        least = self._least
        if count <= 0 or not self._extend(token_ids):
            return []
        candidate = self._newest.get(tuple(token_ids[-least:]), -1)
        found, longest = -1, 0
        for _ in range(MOST_CANDIDATES):
            if candidate < 0 or longest == self._most:
                break
            length = self._agreement(token_ids, candidate)
            if length > longest:
                found, longest = candidate, length
            candidate = self._before[candidate - least]
        if found < 0:
            return []
        period = len(token_ids) - found  # what repeats itself goes on
        return [token_ids[found + place % period] for place in range(count)]

    def _extend(self, token_ids: Sequence[int]) -> bool:
        """Index what is new; whether all of it is. The last n-gram has no token after it yet."""
        least, newest, before = self._least, self._newest, self._before
        first = len(before) + least
        last = min(len(token_ids), first + INDEXED_AT_ONCE)
        for position in range(first, last):
            gram = tuple(token_ids[position - least : position])
            before.append(newest.get(gram, -1))
            newest[gram] = position
        return last >= len(token_ids)

    def _agreement(self, token_ids: Sequence[int], position: int) -> int:
        """How many tokens before `position` are the last tokens, `least` of which are known to be."""
        length, most = self._least, min(self._most, position)
        while length < most and token_ids[position - length - 1] == token_ids[-length - 1]:
            length += 1
        return length
