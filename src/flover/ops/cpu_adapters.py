"""Adapters on the C++ kernels (csrc/lora.h)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from flover import _cpu
from flover.errors import InvariantError
from flover.ops import Array
from flover.ops.adapters import AdapterPart
from flover.ops.cpu_layout import address, floats, slots_of
from flover.ops.cpu_weight import NUMBERS, CpuWeight

LANES = 16
RANKS = 4
"""Rows of `down` that lie beside each other."""
FORMATS: Mapping[str, int] = {
    "float32": NUMBERS["float32"],
    "uint16": NUMBERS["bfloat16"],
    "float16": NUMBERS["float16"],
}
MATRIX = [("data", np.int64), ("format", np.int64)]
SIZES = [("rank", np.int64), ("first", np.int64), ("width", np.int64)]
ENTRY = np.dtype([("down", MATRIX), ("up", MATRIX), *SIZES, ("scale", np.float32), ("padding", np.int32)])
"""`LoraPart` of csrc/kernels.h."""


class CpuAdapterTable:
    """An array of `LoraPart`, [slots, parts], and the matrices that it points to."""

    def __init__(self, num_slots: int, num_parts: int, shape: tuple[int, int]) -> None:
        self.out, self.in_ = shape
        self.entries = np.zeros((num_slots, num_parts), dtype=ENTRY)
        self._kept = [np.empty(0, dtype=np.uint8)] * num_slots

    def put(self, slot: int, parts: Sequence[AdapterPart]) -> None:
        """Lay the matrices out as the kernel reads them."""
        if len(parts) > self.entries.shape[1]:
            raise InvariantError(f"{len(parts)} parts of an adapter for a table of {self.entries.shape[1]}")
        self.entries[slot] = 0
        laid: list[Array] = []
        for place, part in enumerate(parts):
            width, rank = part.up.shape
            if part.down.shape != (rank, self.in_) or not 0 <= part.first <= part.first + width <= self.out:
                raise InvariantError(
                    f"matrices {list(part.down.shape)} and {list(part.up.shape)} from output {part.first} on do not "
                    f"fit a weight of {[self.out, self.in_]}"
                )
            down, up = _padded(part.down, RANKS, LANES), _padded(part.up, LANES, 1)
            down = np.ascontiguousarray(down.reshape(-1, RANKS, down.shape[1] // LANES, LANES).transpose(0, 2, 1, 3))
            up = np.ascontiguousarray(up.reshape(-1, LANES, rank).transpose(0, 2, 1))
            laid += [down, up]
            formats = (FORMATS[str(one.dtype)] for one in (down, up))
            self.entries[slot, place] = *((0, one) for one in formats), rank, part.first, width, part.scale, 0
        self._keep(slot, laid)

    def _keep(self, slot: int, laid: Sequence[Array]) -> None:
        """Matrices one after another, as they are read: memory is asked for what comes next across their ends."""
        self._kept[slot] = kept = np.empty(sum(one.nbytes for one in laid), dtype=np.uint8)
        first = 0
        for index, one in enumerate(laid):
            kept[first : first + one.nbytes] = one.reshape(-1).view(np.uint8)
            self.entries[slot, index // 2]["up" if index % 2 else "down"]["data"] = address(kept) + first
            first += one.nbytes


def _padded(matrix: Array, rows: int, columns: int) -> Array:
    """With zeros, to whole numbers of so many."""
    height, width = matrix.shape
    padded = np.zeros((-(-height // rows) * rows, -(-width // columns) * columns), dtype=matrix.dtype)
    padded[:height, :width] = matrix
    return padded


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
        rows, (num_slots, num_parts) = x.shape[0], table.entries.shape
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
