"""Proposals for one sequence: those of an n-gram index, or those of a draft model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from flover.config.speculative import Speculation
from flover.speculation.acceptance import Acceptance
from flover.speculation.ngram import NgramIndex

NGRAM_PAUSE = 8
"""Tokens until a sequence whose proposals are wrong is looked at again: looking costs time where nothing repeats."""
MODEL_PAUSE = 64
"""Likewise where a model has to compute them."""


class Drafter(Protocol):
    """Proposes tokens for one sequence, and knows how often it is right."""

    acceptance: Acceptance

    def draft(self, token_ids: Sequence[int], most: int) -> Sequence[int]:
        """Up to `most` tokens that may come after `token_ids`, which are those of the call before and more."""
        ...

    def take(self, length: int, proposed: list[int]) -> None:
        """A draft model has proposed these after the first `length` tokens."""
        ...


class NgramDrafter:
    """Proposes what came after the same tokens before."""

    __slots__ = ("_index", "acceptance")

    def __init__(self, settings: Speculation) -> None:
        self._index = NgramIndex(settings.lookup_min, settings.lookup_max)
        self.acceptance = Acceptance(NGRAM_PAUSE)

    def draft(self, token_ids: Sequence[int], most: int) -> Sequence[int]:
        """None while the sequence rests."""
        length = len(token_ids)
        if self.acceptance.rests(length):
            return ()
        self.acceptance.compare(token_ids)
        proposed = self._index.propose(token_ids, most)
        if proposed:
            self.acceptance.propose(length, proposed)
        else:
            self.acceptance.rest(length)
        return proposed

    def take(self, length: int, proposed: list[int]) -> None:
        """There is no draft model."""


class ModelDrafter:
    """Has what a draft model has proposed, and how far that has computed the sequence."""

    __slots__ = ("_length", "_proposed", "acceptance", "computed")

    def __init__(self) -> None:
        self.acceptance = Acceptance(MODEL_PAUSE)
        self.computed = 0
        """Of the first so many tokens the draft model has keys and values in the sequence's pages."""
        self._proposed: list[int] = []
        self._length = -1

    def draft(self, token_ids: Sequence[int], most: int) -> Sequence[int]:
        """What was proposed for just these tokens."""
        self.acceptance.compare(token_ids)
        return self._proposed[:most] if len(token_ids) == self._length else ()

    def take(self, length: int, proposed: list[int]) -> None:
        """It has computed all `length` tokens for it."""
        self._proposed, self._length, self.computed = proposed, length, length
        self.acceptance.propose(length, proposed)
