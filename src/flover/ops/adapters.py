"""Adapters of low rank beside the linears of a model (LoRA: Hu et al., arXiv:2106.09685): what an implementation of the
op table that has them offers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from flover.source.numbers import StoredFloats


@dataclass(frozen=True, slots=True)
class AdapterPart:
    """What one adapter has for the outputs of a linear from `first` on: they get (scale · up) · (down · x), where the
    numbers of `up` are scaled in float32."""

    first: int
    down: StoredFloats  # [rank, in]
    up: StoredFloats  # [outputs, rank]
    scale: float = 1.0


class AdapterTable(Protocol):
    """The parts that adapters have for one linear, in slots."""

    def put(self, slot: int, parts: Sequence[AdapterPart]) -> None:
        """Fill a slot; no parts: empty it. Not while an operation computes a row of this slot."""
        ...


class AdapterOps(Protocol):
    """The operations of an implementation that computes adapters."""

    def new_table(self, num_slots: int, num_parts: int, shape: tuple[int, int]) -> AdapterTable:
        """Empty slots, with up to `num_parts` parts each, for a weight of shape [out, in]."""
        ...

    def linear(self, x: Any, weight: Any, bias: Any | None, kind: str | None, table: Any, slots: Any) -> Any:
        """`Ops.linear`, but before the activation each row gets what the adapter of its slot gives it; `slots` int32
        [T], -1: the row has no adapter. A row without one, or with one that has no part in the table, gets exactly what
        `Ops.linear` gives it."""
        ...
