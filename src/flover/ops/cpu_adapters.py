"""Adapters on the C++ kernels (csrc/lora.h)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from flover import _cpu
from flover.errors import InvariantError
from flover.ops import Array
from flover.ops.adapters import AdapterPart
from flover.ops.cpu_layout import address, floats, slots_of
from flover.ops.cpu_weight import CpuWeight

LANES = 16


class CpuAdapterTable:
    """An array of `LoraPart` (csrc/kernels.h), [slots, parts], and the matrices that it points to."""

    def __init__(self, num_slots: int, num_parts: int, shape: tuple[int, int]) -> None:
        self.out, self.in_ = shape
        self.entries = np.zeros((num_slots, num_parts, 5), dtype=np.int64)
        self._kept: list[list[Array]] = [[] for _ in range(num_slots)]

    def put(self, slot: int, parts: Sequence[AdapterPart]) -> None:
        """Lay the matrices out as the kernel reads them."""
        if len(parts) > self.entries.shape[1]:
            raise InvariantError(f"{len(parts)} parts of an adapter for a table of {self.entries.shape[1]}")
        self.entries[slot] = 0
        kept: list[Array] = []
        for place, part in enumerate(parts):
            width, rank = part.up.shape
            if part.down.shape != (rank, self.in_) or not 0 <= part.first <= part.first + width <= self.out:
                raise InvariantError(
                    f"matrices {list(part.down.shape)} and {list(part.up.shape)} from output {part.first} on do not "
                    f"fit a weight of {[self.out, self.in_]}"
                )
            down = np.zeros((rank, -(-self.in_ // LANES) * LANES), dtype=np.float32)
            down[:, : self.in_] = part.down
            padded = np.zeros((-(-width // LANES) * LANES, rank), dtype=np.float32)
            padded[:width] = part.up
            up = np.ascontiguousarray(padded.reshape(-1, LANES, rank).transpose(0, 2, 1))
            kept += [down, up]
            self.entries[slot, place] = address(down), address(up), rank, part.first, width
        self._kept[slot] = kept


class CpuAdapters:
    """The operations with adapters. `run`, `new` and `constant` as in `ExpertOps`; `linear` computes the linear, with
    the addresses of an array that is added to its outputs and of which rows it is added to."""

    def __init__(
        self,
        run: Callable[[_cpu.Op], None],
        new: Callable[..., Array],
        constant: Callable[[Array], Array],
        linear: Callable[[Array, CpuWeight, Array | None, str | None, tuple[int, int]], Array],
    ) -> None:
        self._run = run
        self._new = new
        self._constant = constant
        self._linear = linear

    def new_table(self, num_slots: int, num_parts: int, shape: tuple[int, int]) -> CpuAdapterTable:
        """Empty slots."""
        return CpuAdapterTable(num_slots, num_parts, shape)

    def linear(
        self, x: Array, weight: CpuWeight, bias: Array | None, kind: str | None, table: CpuAdapterTable, slots: Array
    ) -> Array:
        """The linear, with what the adapters give added before the activation."""
        rows, (num_slots, num_parts, _) = x.shape[0], table.entries.shape
        if weight.shape != (table.out, table.in_) or x.shape[1] != table.in_ or slots.shape != (rows,):
            raise InvariantError(
                f"x {list(x.shape)} with {list(slots.shape)} slots, a weight of {list(weight.shape)} and adapters for "
                f"one of {[table.out, table.in_]}"
            )
        added, adds = self._new(rows, table.out), self._new(rows, 1).view(np.int32)
        self._run(
            _cpu.Lora(
                table=address(self._constant(table.entries)),
                slots=num_slots,
                parts=num_parts,
                inputs=table.in_,
                outputs=table.out,
                adapters=slots_of(slots),
                x=floats(x),
                rows=rows,
                y=floats(added),
                adds=address(adds),
            )
        )
        return self._linear(x, weight, bias, kind, (floats(added), address(adds)))
