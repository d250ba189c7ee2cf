"""Where one sequence is in its reasoning, as a mask: once the budget is spent, the end marker is the only token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flover.grammar.state import Words
from flover.thinking import ThinkingBudget


class ThinkingState:
    """Column `grammar` of a row. The end of the prompt and the answer's tokens are all that it depends on."""

    __slots__ = ("_any", "_budget", "_end", "_inside", "_may_begin", "_recent", "_spent", "error")

    def __init__(
        self, budget: ThinkingBudget, vocab_size: int, prompt_ids: Sequence[int], output_ids: Sequence[int]
    ) -> None:
        self.error = ""
        self._budget = budget
        size = -(-vocab_size // 32)
        self._any: Words = np.full(size, 0xFFFFFFFF, dtype=np.uint32)
        self._end: Words = np.zeros(size, dtype=np.uint32)
        self._end[budget.end_id // 32] = np.uint32(1) << np.uint32(budget.end_id % 32)
        self._inside = _opens(prompt_ids, budget)
        self._may_begin = not self._inside
        self._recent: list[int] = []
        """Of the answer, the newest tokens that may be the start marker."""
        self._spent = 0
        for token in output_ids:
            self.add(token)

    def add(self, token: int) -> None:
        """Note one more token of the answer."""
        budget = self._budget
        if self._inside:
            self._inside = token != budget.end_id
            self._may_begin = budget.again
            self._spent += self._inside
        elif self._may_begin and (self._recent or budget.again or token not in budget.space_ids):
            self._recent = [*self._recent, token][-len(budget.start_ids) :]
            if self._recent == budget.start_ids:
                self._inside, self._recent = True, []
            elif not budget.again:
                self._may_begin = self._recent == budget.start_ids[: len(self._recent)]

    def build(self) -> None:
        """Nothing: there is no mask to make."""

    def words(self) -> Words:
        """The mask, as `GrammarState.words`."""
        return self._end if self._inside and self._spent >= self._budget.tokens else self._any


def _opens(prompt_ids: Sequence[int], budget: ThinkingBudget) -> bool:
    """Whether a prompt ends with the start marker, and perhaps whitespace."""
    last = len(prompt_ids)
    while last and prompt_ids[last - 1] in budget.space_ids:
        last -= 1
    count = len(budget.start_ids)
    return last >= count and list(prompt_ids[last - count : last]) == budget.start_ids
