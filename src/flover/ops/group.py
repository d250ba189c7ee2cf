"""The ranks that compute one model together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

Array = Any  # an implementation's own, see the op table

Reduction = Literal["sum", "max"]


class Group(Protocol):
    """The ranks that compute one model together (tensor parallel), seen from one of them.

    Every rank calls the same collectives in the same order, captured ones included.
    """

    @property
    def rank(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def local_size(self) -> int:
        """Ranks on this machine, which share its cores and memory."""
        ...

    def all_reduce(self, reduction: Reduction, x: Array) -> None:
        """Put the sum (`tree_sum`) or the maximum over all ranks of each number into `x`; every rank gets the same
        bits."""
        ...

    def gather(self, x: Array, widths: Sequence[int]) -> Array | None:
        """On rank 0 the first widths[r] columns of every rank's `x` [S, n], in the order of ranks, side by side; None
        on the others."""
        ...

    def least(self, value: int) -> int:
        """The smallest of all ranks' values."""
        ...

    def formed(self) -> None:
        """Every rank has loaded and warmed up: from now on a rank that does not answer is treated as failed after the
        timeout of collectives, and not after that of forming the group."""
        ...


def tree_sum(parts: Sequence[Array]) -> Array:
    """The sum of one part or more as a binary tree over neighbours, ((0 + 1) + (2 + 3)) + …: where each part is such a
    sum itself, over as many terms (a power of two) as the others, it is the tree over all terms."""
    level = list(parts)
    while len(level) > 1:
        pairs = [one + other for one, other in zip(level[::2], level[1::2], strict=False)]
        level = pairs + level[2 * len(pairs) :]
    return level[0]


class Alone:
    """A single rank: nothing to do."""

    rank, size, local_size = 0, 1, 1

    def all_reduce(self, reduction: Reduction, x: Array) -> None:
        """Of one rank: nothing to do."""

    def gather(self, x: Array, widths: Sequence[int]) -> Array | None:
        """Those of the only one."""
        return x[:, : widths[0]]

    def least(self, value: int) -> int:
        """The only one."""
        return value

    def formed(self) -> None:
        """Of one rank: nothing to do."""
