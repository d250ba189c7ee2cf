"""Matrices in formats of their own that are used as one: queries, keys and values."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from flover.errors import InvariantError
from flover.ops import Weight


class Joinable(Weight, Protocol):
    """A matrix that can be joined with others, unless it is gated."""

    @property
    def gated(self) -> bool: ...


M = TypeVar("M", bound=Joinable)


class JoinedWeight(Generic[M]):
    """Matrices of the same inputs whose outputs lie one after another, the first ones at `starts`. Not gated."""

    __slots__ = ("members", "shape", "starts")

    def __init__(self, members: Sequence[M]) -> None:
        sizes = {member.shape[1] for member in members}
        if len(sizes) != 1 or any(member.gated for member in members):
            raise InvariantError("joined weights have the same inputs and no gate")
        self.members = tuple(members)
        *starts, end = accumulate((member.shape[0] for member in members), initial=0)
        self.starts = tuple(starts)
        self.shape = (end, sizes.pop())

    @property
    def num_bytes(self) -> int:
        return sum(member.num_bytes for member in self.members)

    def store(self, first: int, rows: npt.NDArray[np.float32]) -> None:
        """Rows of one member."""
        member, start = self._member(first, len(rows))
        member.store(first - start, rows)

    def store_blocks(self, first: int, rows: npt.NDArray[np.uint8], order: npt.NDArray[np.int32] | None = None) -> None:
        """Rows of one member, as a file has them."""
        member, start = self._member(first, len(rows))
        member.store_blocks(first - start, rows, order)

    def _member(self, first: int, count: int) -> tuple[M, int]:
        for member, start in zip(self.members, self.starts, strict=True):
            if start <= first and first + count <= start + member.shape[0]:
                return member, start
        raise InvariantError(f"rows {first} to {first + count} are not those of one of the joined weights")
