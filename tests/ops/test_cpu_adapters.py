"""Linears with adapters on the CPU: what the reference says, and for each row the bits that it has alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from flover.errors import InvariantError
from flover.ops import Ops, WeightFormat, reference
from flover.ops.adapters import AdapterPart, AdapterTable
from flover.ops.cpu import cpu_ops, instruction_sets
from flover.ops.cpu_weight import JoinedWeight
from flover.source.numbers import StoredFloats, widen

ISAS = instruction_sets()
IN, OUT = 41, 88  # no whole registers
Floats = npt.NDArray[np.float32]


def drawn(seed: int, *shape: int) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def part(seed: int, first: int, width: int, rank: int) -> AdapterPart:
    return AdapterPart(first, drawn(seed, rank, IN), drawn(seed + 1, width, rank) / np.float32(rank))


PARTS = (
    [part(1, 0, 30, 3), part(3, 30, 20, 9), part(5, 50, 38, 16)],
    [part(7, 30, 20, 1)],
    [],  # nothing for this linear
    [part(9, 0, OUT, 5)],
)
SLOTS = np.array([0, 1, -1, 3, *[0] * 21, 2, 1, -1, 3, 0], dtype=np.int32)
X = drawn(11, len(SLOTS), IN)


def table_of(ops: Ops) -> AdapterTable:
    assert ops.adapters is not None
    table = ops.adapters.new_table(len(PARTS), 3, (OUT, IN))
    for slot, parts in enumerate(PARTS):
        table.put(slot, parts)
    return table


def linear(ops: Ops, weight: object, bias: Floats | None, kind: str | None, rows: slice | list[int]) -> Floats:
    assert ops.adapters is not None
    found: Floats = ops.adapters.linear(X[rows], weight, bias, kind, table_of(ops), SLOTS[rows])
    return found


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("isa", ISAS)
def test_the_reference(isa: str, gated: bool) -> None:
    bias, kind = drawn(12, OUT), "silu" if gated else None
    plain = reference.new_weight((OUT, IN), "float32", gated)
    plain.store(0, drawn(13, OUT, IN))
    kept = cpu_ops(isa, 2).new_weight((OUT, IN), "float32", gated)
    kept.store(0, drawn(13, OUT, IN))
    wanted = reference.OPS.adapters.linear(  # type: ignore[union-attr]
        torch.from_numpy(X), plain, torch.from_numpy(bias), kind, table_of(reference.OPS), torch.from_numpy(SLOTS)
    )
    got = linear(cpu_ops(isa, 2), kept, bias, kind, slice(None))
    np.testing.assert_allclose(got, wanted.numpy(), atol=1e-4)


@pytest.mark.parametrize("weight_format", ["bfloat16", "int8", "int4", "joined"])
def test_a_row_has_its_own_bits(weight_format: WeightFormat) -> None:
    """Alone, in other company, on other threads and instruction sets; without an adapter, those of the plain linear."""
    bias, expected = drawn(12, OUT), None
    for isa in ISAS:
        for threads in (1, 3):
            ops = cpu_ops(isa, threads)
            if weight_format == "joined":
                members = [ops.new_weight((OUT // 2, IN), kept, False) for kept in ("float32", "bfloat16")]
                for place, member in enumerate(members):
                    member.store(0, drawn(13 + place, OUT // 2, IN))
                weight = JoinedWeight(members)  # type: ignore[arg-type]
            else:
                weight = ops.new_weight((OUT, IN), weight_format, True)  # type: ignore[assignment]
                weight.store(0, drawn(13, OUT, IN))
            kind = None if weight_format == "joined" else "gelu"
            whole = linear(ops, weight, bias, kind, slice(None))
            expected = whole if expected is None else expected
            assert np.array_equal(whole, expected)
            for row in range(len(SLOTS)):
                assert np.array_equal(linear(ops, weight, bias, kind, [row])[0], whole[row])
            back = list(range(len(SLOTS)))[::-1]
            assert np.array_equal(linear(ops, weight, bias, kind, back), whole[back])
            bare = ops.linear(X, weight, bias, kind)
            same = (whole.view(np.int32) == bare.view(np.int32)).all(axis=1)
            assert same.tolist() == [slot in (-1, 2) for slot in SLOTS]


def halves(numbers: Floats, stored: str) -> StoredFloats:
    if stored == "bfloat16":
        return (numbers.view(np.uint32) >> 16).astype(np.uint16)
    return numbers.astype(np.float16)


@pytest.mark.parametrize("stored", ["bfloat16", "float16"])
@pytest.mark.parametrize("isa", ISAS)
def test_types_of_files(isa: str, stored: str) -> None:
    """Matrices of 16 bits: the bits of the same numbers in float32 that are scaled before, in any company."""
    ops = cpu_ops(isa, 2)
    assert ops.adapters is not None
    weight = ops.new_weight((OUT, IN), "float32", False)
    weight.store(0, drawn(13, OUT, IN))
    kept, widened = (ops.adapters.new_table(len(PARTS), 3, (OUT, IN)) for _ in range(2))
    for slot, parts in enumerate(PARTS):
        own = [AdapterPart(one.first, halves(one.down, stored), halves(one.up, stored), 0.3) for one in parts]
        kept.put(slot, own)
        scaled = [AdapterPart(one.first, widen(one.down), np.float32(0.3) * widen(one.up)) for one in own]
        widened.put(slot, scaled)
    for rows in ([0], [0, 4, 5], [3, 28, 0], list(range(len(SLOTS)))):
        found, wanted = (ops.adapters.linear(X[rows], weight, None, None, one, SLOTS[rows]) for one in (kept, widened))
        assert np.array_equal(found, wanted)


def test_what_does_not_fit_is_refused() -> None:
    ops = cpu_ops(ISAS[0], 1)
    assert ops.adapters is not None
    table = ops.adapters.new_table(1, 1, (OUT, IN))
    with pytest.raises(InvariantError, match="2 parts"):
        table.put(0, PARTS[0][:2])
    for wrong in (part(1, OUT - 19, 20, 2), AdapterPart(0, drawn(1, 2, IN + 1), drawn(2, 20, 2))):
        with pytest.raises(InvariantError, match="do not fit"):
            table.put(0, [wrong])
    weight = ops.new_weight((OUT, IN), "float32", False)
    with pytest.raises(InvariantError, match="slots"):
        ops.adapters.linear(X, weight, None, None, table, SLOTS[1:])
