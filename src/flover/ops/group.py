"""The ranks that compute one model together."""

from __future__ import annotations

from typing import Any, Literal, Protocol

Array = Any  # an implementation's own, see the op table

Reduction = Literal["sum", "max"]


class Group(Protocol):
    """The ranks that compute one model together (tensor parallel), seen from one of them."""

    @property
    def rank(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def local_size(self) -> int:
        """Ranks on this machine, which share its cores and memory."""
        ...

    def all_reduce(self, reduction: Reduction, x: Array) -> None:
        """Put the sum or the maximum over all ranks of each number into `x`; every rank gets the same bits."""
        ...

    def gather(self, x: Array) -> list[Array] | None:
        """Every rank's `x`, all of one shape, in the order of ranks, on rank 0; None on the others."""
        ...

    def least(self, value: int) -> int:
        """The smallest of all ranks' values."""
        ...


class Alone:
    """A single rank: nothing to do."""

    rank, size, local_size = 0, 1, 1

    def all_reduce(self, reduction: Reduction, x: Array) -> None:
        """Of one rank: nothing to do."""

    def gather(self, x: Array) -> list[Array] | None:
        """The only one."""
        return [x]

    def least(self, value: int) -> int:
        """The only one."""
        return value
