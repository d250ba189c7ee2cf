"""Weights in the block formats of GGUF: the file's numbers, and products that are exact to the bit."""

from __future__ import annotations

import functools
from collections.abc import Callable

import gguf
import numpy as np
import numpy.typing as npt
import pytest
from flover_benchmarks.kernels.blocks import HALVES, random_blocks
from support.thread_ranks import on_ranks

from flover.errors import InvariantError, ModelError
from flover.ops import BLOCKS, Group, HostArray, Ops, Part, Reduction, WeightFormat
from flover.ops.cpu import cpu_ops
from flover.ops.cpu_sizes import BYTES_PER_WEIGHT
from flover.ops.cpu_weight import JoinedWeight, PackedWeight
from flover.weight_formats import GGUF_BLOCKS
from ops.bridge import OWN_ISAS
from ops.exact import INPUTS, Floats, activations, fma, quantized

ISAS = OWN_ISAS
THREADS = (1, 3)
OUTPUTS, ROWS = 70, 103
AT_ONCE = {"q2_k": 16, "q3_k": 16, "q6_k": 16}
"""Inputs that share a scale, where it is not 32."""


@functools.cache
def ops_of(isa: str, num_threads: int) -> Ops:
    return cpu_ops(isa, num_threads)


@functools.cache
def raw(weight_format: WeightFormat, outputs: int = OUTPUTS, inputs: int = INPUTS) -> npt.NDArray[np.uint8]:
    return random_blocks(weight_format, outputs, inputs, np.random.default_rng(1))


def plain(weight_format: WeightFormat, blocks: npt.NDArray[np.uint8]) -> Floats:
    return gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[weight_format.upper()])


def packed(
    weight_format: WeightFormat, blocks: npt.NDArray[np.uint8], gated: bool = False, part: Part | None = None
) -> PackedWeight:
    block = BLOCKS[weight_format]
    width = blocks.shape[1] // block.num_bytes * block.inputs
    weight = PackedWeight((len(blocks), width), weight_format, gated, part)
    for first, last in ((33, len(blocks)), (0, 1), (1, 33)):
        weight.store_blocks(first, blocks[first:last])
    return weight


@pytest.mark.parametrize("weight_format", GGUF_BLOCKS)
def test_panels_hold_exactly_the_numbers_of_the_file(weight_format: WeightFormat) -> None:
    """In any order of rows, gated or not, in no more than 1.1 times the bytes."""
    blocks = raw(weight_format)
    for gated in (False, True):
        weight = packed(weight_format, blocks, gated)
        assert np.array_equal(weight.unpack().view(np.int32), plain(weight_format, blocks).view(np.int32))
    large = PackedWeight((512, 2048), weight_format, False)
    assert large.num_bytes == BYTES_PER_WEIGHT[weight_format] * 512 * 2048
    assert large.num_bytes <= 1.05 * 512 * BLOCKS[weight_format].row_bytes(2048)


@pytest.mark.parametrize("weight_format", GGUF_BLOCKS)
def test_a_part_keeps_its_columns(weight_format: WeightFormat) -> None:
    blocks, start = raw(weight_format), 256
    part = PackedWeight((OUTPUTS, 512), weight_format, False, Part(start, INPUTS))
    part.store_blocks(0, blocks)
    assert np.array_equal(part.unpack(), plain(weight_format, blocks)[:, start:])


@pytest.mark.parametrize("weight_format", GGUF_BLOCKS)
@pytest.mark.parametrize("isa", ISAS)
def test_the_embedding_is_a_row_of_the_table(weight_format: WeightFormat, isa: str) -> None:
    ids = np.array([69, 0, 16, 15, 7, 8, 16])
    y = ops_of(isa, 1).embed(ids, packed(weight_format, raw(weight_format)), 1.0)
    assert np.array_equal(y, plain(weight_format, raw(weight_format))[ids])


ONES: dict[WeightFormat, tuple[tuple[int, int, int], ...]] = {
    "q8_0": ((2, 34, 0x01),),
    "q4_0": ((2, 18, 0x99),),
    "q4_1": ((4, 20, 0x11),),
    "q5_0": ((2, 6, 0xFF), (6, 22, 0x11)),
    "q5_1": ((4, 8, 0), (8, 24, 0x11)),
    "q2_k": ((16, 80, 0x55),),
    "q3_k": ((0, 32, 0xFF), (32, 96, 0x55)),
    "q4_k": ((16, 144, 0x11),),
    "q5_k": ((16, 48, 0), (48, 176, 0x11)),
    "q6_k": ((0, 128, 0x11), (128, 192, 0xAA)),
    "iq4_nl": ((2, 18, 0x88),),
    "iq4_xs": ((8, 136, 0x88),),
    "mxfp4": ((1, 17, 0x11),),
}
"""Bytes of a block (from, to, value) that make each of its weights its scale, plus the offset."""
OFFSETS: dict[WeightFormat, int] = {"q4_1": 2, "q5_1": 2, "q4_k": 2, "q5_k": 2, "q2_k": 82}
"""Where the offset's float16 number is."""


def taken_apart(
    weight_format: WeightFormat, blocks: npt.NDArray[np.uint8]
) -> tuple[npt.NDArray[np.int64], Floats, Floats]:
    """Integers [out, in], and the scales and offsets [out, in / shared]: gguf's dequantization of the same blocks
    without offset, with ones for integers, and with zeros."""
    shared, block = AT_ONCE.get(weight_format, 32), BLOCKS[weight_format]

    def changed(*ranges: tuple[int, int, int]) -> Floats:
        copy = blocks.reshape(len(blocks), -1, block.num_bytes).copy()
        for first, last, value in ranges:
            copy[..., first:last] = value
        return plain(weight_format, copy.reshape(blocks.shape))

    place = OFFSETS.get(weight_format)
    without = () if place is None else ((place, place + 2, 0),)
    scales = changed(*ONES[weight_format], *without)
    integers = np.rint(np.divide(changed(*without), scales, out=np.zeros_like(scales), where=scales != 0))
    zeros = [(first, last, 0) for first, last, _ in ONES[weight_format]]
    offsets = np.zeros_like(scales) if place is None else changed(*zeros)
    return integers.astype(np.int64), scales[:, ::shared], offsets[:, ::shared]


def exact_linear(x: Floats, weight_format: WeightFormat, blocks: npt.NDArray[np.uint8]) -> Floats:
    """What csrc/linear_block.h says, in numpy."""
    shared = AT_ONCE.get(weight_format, 32)
    integers, scales, offsets = taken_apart(weight_format, blocks)
    row_scales, q = quantized(x)
    y = np.zeros((len(x), len(blocks)), dtype=np.float32)
    for start in range(0, x.shape[1], 32):
        total, mine = np.zeros_like(y), row_scales[:, start // 32, None]
        for first in range(start, start + 32, shared):
            columns, part = slice(first, first + shared), first // shared
            products = (q[:, columns] @ integers[:, columns].T).astype(np.float32)
            total = fma(products, scales[:, part], total) if first > start else products * scales[:, part]
        y = fma(total, mine, y)
        for first in range(start, start + 32, shared) if weight_format in OFFSETS else ():
            share = mine * q[:, first : first + shared].sum(1, keepdims=True).astype(np.float32)
            y = fma(np.broadcast_to(offsets[:, first // shared], y.shape), share, y)
    return y


@pytest.mark.parametrize("weight_format", GGUF_BLOCKS)
def test_products_are_exact_to_the_bit_in_any_company(weight_format: WeightFormat) -> None:
    """The arithmetic of the kernels in numpy, for every instruction set, number of threads and set of rows."""
    blocks, x = raw(weight_format), activations(ROWS)
    weight, wanted = packed(weight_format, blocks), exact_linear(x, weight_format, blocks)
    for isa in ISAS:
        for num_threads in THREADS:
            ops = ops_of(isa, num_threads)
            for first, count in ((0, ROWS), (0, 1), (51, 1), (17, 2), (3, 3), (60, 5), (8, 7), (30, 13), (5, 97)):
                y = ops.linear(x[first : first + count], weight, None, None)
                assert np.array_equal(y, wanted[first : first + count]), (isa, num_threads, first, count)


@pytest.mark.parametrize("weight_format", GGUF_BLOCKS)
def test_products_are_near_those_of_the_numbers(weight_format: WeightFormat) -> None:
    """Half a step of each block of activations, at most."""
    blocks, x = raw(weight_format), np.random.default_rng(6).standard_normal((13, INPUTS), dtype=np.float32)
    numbers = plain(weight_format, blocks).astype(np.float64)
    y = ops_of(ISAS[0], 1).linear(x, packed(weight_format, blocks), None, None)
    steps = np.repeat(np.abs(x).reshape(13, -1, 32).max(2) / 127, 32, axis=1)
    wanted = x.astype(np.float64) @ numbers.T
    assert (np.abs(y - wanted) <= 0.51 * steps @ np.abs(numbers).T + 1e-4 * np.abs(x) @ np.abs(numbers).T).all()
    rms = np.sqrt(np.mean((y - wanted) ** 2) / np.mean(wanted**2))
    assert rms < 0.01  # even rounding of normal numbers gives about 0.006


@pytest.mark.parametrize("weight_format", GGUF_BLOCKS)
def test_bias_activation_and_gate(weight_format: WeightFormat) -> None:
    """As for every other format: on top of the same sums."""
    blocks, x = raw(weight_format), activations(5)
    bias = np.random.default_rng(3).standard_normal(OUTPUTS, dtype=np.float32)
    sums = exact_linear(x, weight_format, blocks) + bias
    half = OUTPUTS // 2
    for isa in ISAS:
        gated = ops_of(isa, 1).linear(x, packed(weight_format, blocks, gated=True), bias, "relu")
        assert np.array_equal(gated, np.maximum(sums[:, :half], 0) * sums[:, half:])
        assert np.array_equal(ops_of(isa, 1).linear(x, packed(weight_format, blocks), bias, None), sums)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("weight_format", ["q8_0", "q4_k"])
def test_what_is_not_a_number_stays_in_its_row(weight_format: WeightFormat, poison: float) -> None:
    weight, x = packed(weight_format, raw(weight_format)), activations(29)
    for isa in ISAS:
        clean, spoilt = ops_of(isa, 1).linear(x, weight, None, None), x.copy()
        spoilt[7, 300] = poison
        found = ops_of(isa, 1).linear(spoilt, weight, None, None)
        assert np.isnan(found[7]).all()
        assert np.array_equal(np.delete(found, 7, 0), np.delete(clean, 7, 0))


def test_parts_ask_for_no_scale_and_add_up() -> None:
    blocks, x, cuts = raw("q4_0"), activations(9), (0, 256, 352, INPUTS)

    def compute(group: Group) -> Floats:
        first, last = cuts[group.rank : group.rank + 2]
        part = PackedWeight((OUTPUTS, last - first), "q4_0", False, Part(first, INPUTS))
        part.store_blocks(0, blocks)
        reduce = group.all_reduce

        def only_sums(reduction: Reduction, mine: HostArray) -> None:
            assert reduction == "sum"
            reduce(reduction, mine)

        group.all_reduce = only_sums  # type: ignore[method-assign]
        found: Floats = cpu_ops(ISAS[0], 1, group).linear(np.ascontiguousarray(x[:, first:last]), part, None, None)
        return found

    whole = ops_of(ISAS[0], 1).linear(x, packed("q4_0", blocks), None, None)
    for total in on_ranks(3, compute):
        np.testing.assert_allclose(total, whole, rtol=0, atol=1e-5 * np.abs(whole).max())


def test_joined_weights_give_the_outputs_of_their_members() -> None:
    formats: tuple[WeightFormat, ...] = ("q4_k", "q6_k", "float32")
    numbers = np.random.default_rng(4).standard_normal((20, INPUTS), dtype=np.float32)
    ops = ops_of(ISAS[0], 1)
    assert ops.join is not None
    joined = ops.join(
        [PackedWeight((size, INPUTS), name, False) for size, name in zip((70, 33, 20), formats, strict=True)]
    )
    assert isinstance(joined, JoinedWeight)
    joined.store_blocks(70, raw("q6_k", 33))
    joined.store_blocks(0, raw("q4_k"))
    joined.store(103, numbers)
    x, bias = activations(7), np.random.default_rng(5).standard_normal(123, dtype=np.float32)
    y = ops.linear(x, joined, bias, "silu")  # type: ignore[arg-type]
    for member, start in zip(joined.members, (0, 70, 103), strict=True):
        end = start + member.shape[0]
        assert np.array_equal(y[:, start:end], ops.linear(x, member, bias[start:end].copy(), "silu"))
    assert joined.shape == joined.unpack().shape == (123, INPUTS)
    assert joined.num_bytes == sum(member.num_bytes for member in joined.members)
    with pytest.raises(InvariantError, match="rows 60 to 80"):
        joined.store_blocks(60, raw("q4_k")[:20])


WRONG: dict[str, Callable[[], object]] = {
    "inputs": lambda: PackedWeight((16, 96), "q4_k", False),
    "cut": lambda: PackedWeight((16, 256), "q4_k", False, Part(128, 768)),
    "store": lambda: PackedWeight((16, 256), "q4_k", False).store(0, np.zeros((16, 256), dtype=np.float32)),
    "store_blocks": lambda: PackedWeight((16, 256), "int8", False).store_blocks(0, raw("q8_0", 16, 256)),
    "width": lambda: PackedWeight((16, 256), "q4_0", False).store_blocks(0, raw("q4_0", 16, 288)),
    "type": lambda: PackedWeight((16, 256), "q4_0", False).store_blocks(0, raw("q4_0", 16, 256).view(np.int8)),
    "joined inputs": lambda: JoinedWeight([PackedWeight((16, size), "q4_0", False) for size in (32, 64)]),
    "joined gate": lambda: JoinedWeight([PackedWeight((16, 32), "q4_0", True)]),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_refused(name: str) -> None:
    with pytest.raises(InvariantError):
        WRONG[name]()


@pytest.mark.parametrize("weight_format", GGUF_BLOCKS)
def test_scales_that_are_not_finite_are_refused(weight_format: WeightFormat) -> None:
    blocks = raw(weight_format).reshape(OUTPUTS, -1, BLOCKS[weight_format].num_bytes).copy()
    for place in HALVES.get(weight_format, (0,)):
        spoilt = blocks.copy()
        spoilt[40, 2, place : place + 2] = np.array([0xFF, 0x7C])  # float16: not a number; MXFP4: 2^127
        if weight_format == "mxfp4":
            spoilt[40, 2, 1] = blocks[40, 2, 1]
        weight = PackedWeight((OUTPUTS, INPUTS), weight_format, False)
        with pytest.raises(ModelError, match="not finite"):
            weight.store_blocks(0, spoilt.reshape(OUTPUTS, -1))
