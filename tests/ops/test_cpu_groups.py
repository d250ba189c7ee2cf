"""Weights in the formats of quantized safetensors: the file's numbers, and products that are exact to the bit."""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt
import pytest
import torch
from flover_benchmarks.kernels.blocks import random_blocks

from flover.errors import ModelError
from flover.ops import BLOCKS, Ops, Part, WeightFormat
from flover.ops.cpu import cpu_ops, instruction_sets
from flover.ops.cpu_sizes import BYTES_PER_WEIGHT
from flover.ops.cpu_weight import PackedWeight
from flover.weight_formats import GGUF_BLOCKS
from ops.exact import INPUTS, Floats, activations, fma, quantized

ISAS = instruction_sets()
FORMATS = tuple(name for name in BLOCKS if name not in GGUF_BLOCKS)
OUTPUTS, ROWS = 70, 103
COMPANIES = ((0, ROWS), (0, 1), (51, 1), (17, 2), (3, 3), (60, 5), (8, 7), (30, 13), (5, 31), (5, 97))
"""First row and number of rows that are computed together."""


@functools.cache
def ops_of(isa: str, num_threads: int) -> Ops:
    return cpu_ops(isa, num_threads)


@functools.cache
def raw(weight_format: WeightFormat, outputs: int = OUTPUTS) -> npt.NDArray[np.uint8]:
    return random_blocks(weight_format, outputs, INPUTS, np.random.default_rng(1))


def taken_apart(
    weight_format: WeightFormat, blocks: npt.NDArray[np.uint8]
) -> tuple[npt.NDArray[np.float64], Floats, npt.NDArray[np.float64]]:
    """Numbers as they are stored [out, in], and the scales and zeros of every input, likewise."""
    block = BLOCKS[weight_format]
    each = blocks.reshape(len(blocks), -1, block.num_bytes)
    words, stored = np.ascontiguousarray(each[..., :4]).view(np.uint32), each[..., 4:]
    zeros = np.zeros_like(words)
    if weight_format.startswith("int4"):
        zeros, words = words & 255, words & 0xFFFFFF00
        numbers = np.stack([stored & 15, stored >> 4], -1).astype(np.float64)
    elif weight_format == "fp8_e4m3":
        numbers = torch.from_numpy(stored.copy()).view(torch.float8_e4m3fn).double().numpy()
    else:
        numbers = stored.view(np.int8).astype(np.float64)
    shape = len(blocks), -1
    scales = np.repeat(words.view(np.float32)[..., 0], block.inputs, axis=1)
    return numbers.reshape(shape), scales, np.repeat(zeros[..., 0].astype(np.float64), block.inputs, axis=1)


def plain(weight_format: WeightFormat, blocks: npt.NDArray[np.uint8]) -> Floats:
    numbers, scales, zeros = taken_apart(weight_format, blocks)
    return ((numbers - zeros) * scales.astype(np.float64)).astype(np.float32)


def packed(
    weight_format: WeightFormat, gated: bool = False, order: npt.NDArray[np.int32] | None = None
) -> PackedWeight:
    weight, blocks = PackedWeight((OUTPUTS, INPUTS), weight_format, gated), raw(weight_format)
    for first, last in ((33, len(blocks)), (0, 1), (1, 33)):
        weight.store_blocks(first, blocks[first:last], order)
    return weight


@pytest.mark.parametrize("weight_format", FORMATS)
def test_panels_hold_exactly_the_numbers_of_the_file(weight_format: WeightFormat) -> None:
    """In any order of rows, gated or not, in part or as an embedding, in no more bytes than in blocks."""
    wanted = plain(weight_format, raw(weight_format))
    for gated in (False, True):
        assert np.array_equal(packed(weight_format, gated).unpack(), wanted)
    part = PackedWeight((OUTPUTS, 512), weight_format, False, Part(256, INPUTS))
    part.store_blocks(0, raw(weight_format))
    assert np.array_equal(part.unpack(), wanted[:, 256:])
    ids = np.array([69, 0, 16, 15, 7, 8, 16])
    for isa in ISAS:
        assert np.array_equal(ops_of(isa, 1).embed(ids, packed(weight_format), 1.0), wanted[ids])
    large = PackedWeight((512, 2048), weight_format, False)
    assert (
        large.num_bytes == BYTES_PER_WEIGHT[weight_format] * 512 * 2048 == 512 * BLOCKS[weight_format].row_bytes(2048)
    )


def exact_linear(x: Floats, weight_format: WeightFormat) -> Floats:
    """What csrc/linear_block.h says, in numpy; of fp8, one chain over the inputs of products with the numbers."""
    numbers, scales, zeros = taken_apart(weight_format, raw(weight_format))
    y = np.zeros((len(x), OUTPUTS), dtype=np.float32)
    if weight_format == "fp8_e4m3":
        weights = plain(weight_format, raw(weight_format))
        for k in range(x.shape[1]):
            y = fma(x[:, k, None], weights[None, :, k], y)
        return y
    row_scales, q = quantized(x)
    for start in range(0, x.shape[1], 32):
        columns, mine = slice(start, start + 32), row_scales[:, start // 32, None]
        total = (q[:, columns] @ numbers[:, columns].T).astype(np.float32) * scales[:, start]
        y = fma(total, mine, y)
        if weight_format.startswith("int4"):
            offset = -(scales[:, start] * zeros[:, start].astype(np.float32))
            share = mine * q[:, columns].sum(1, keepdims=True).astype(np.float32)
            y = fma(np.broadcast_to(offset, y.shape), share, y)
    return y


@pytest.mark.parametrize("weight_format", FORMATS)
def test_products_are_exact_to_the_bit_in_any_company(weight_format: WeightFormat) -> None:
    """The arithmetic of the kernels in numpy, for every instruction set, number of threads and set of rows."""
    x = activations(ROWS)
    weight, wanted = packed(weight_format), exact_linear(x, weight_format)
    for isa in ISAS:
        for num_threads in (1, 3):
            ops = ops_of(isa, num_threads)
            for first, count in COMPANIES:
                y = ops.linear(x[first : first + count], weight, None, None)
                assert np.array_equal(y, wanted[first : first + count]), (isa, num_threads, first, count)


@pytest.mark.parametrize("weight_format", FORMATS)
def test_bias_activation_and_gate(weight_format: WeightFormat) -> None:
    x, bias = activations(5), np.random.default_rng(3).standard_normal(OUTPUTS, dtype=np.float32)
    sums, half = exact_linear(x, weight_format) + bias, OUTPUTS // 2
    for isa in ISAS:
        gated = ops_of(isa, 1).linear(x, packed(weight_format, gated=True), bias, "relu")
        assert np.array_equal(gated, np.maximum(sums[:, :half], 0) * sums[:, half:])
        assert np.array_equal(ops_of(isa, 1).linear(x, packed(weight_format), bias, None), sums)


@pytest.mark.parametrize("weight_format", [name for name in FORMATS if name != "fp8_e4m3"])
def test_inputs_in_another_order_are_gathered(weight_format: WeightFormat) -> None:
    """The weights in their own order are the same numbers; products are those of the gathered activations."""
    order = np.random.default_rng(4).permutation(INPUTS).astype(np.int32)
    x, weight = activations(9), packed(weight_format, order=order)
    wanted = np.empty_like(plain(weight_format, raw(weight_format)))
    wanted[:, order] = plain(weight_format, raw(weight_format))
    assert np.array_equal(weight.unpack(), wanted)
    for isa in ISAS:
        y = ops_of(isa, 1).linear(x, weight, None, None)
        assert np.array_equal(y, exact_linear(x[:, order], weight_format))
    with pytest.raises(ModelError, match="another order"):
        weight.store_blocks(0, raw(weight_format))
    part = PackedWeight((OUTPUTS, 512), weight_format, False, Part(256, INPUTS))
    with pytest.raises(ModelError, match="ranks cannot share its columns"):
        part.store_blocks(0, raw(weight_format), order)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("weight_format", ["int4_g128", "fp8_e4m3"])
def test_what_is_not_a_number_stays_in_its_row(weight_format: WeightFormat, poison: float) -> None:
    weight, x = packed(weight_format), activations(29)
    for isa in ISAS:
        clean, spoilt = ops_of(isa, 1).linear(x, weight, None, None), x.copy()
        spoilt[7, 300] = poison
        found = ops_of(isa, 1).linear(spoilt, weight, None, None)
        assert not np.isfinite(found[7]).any()
        assert np.array_equal(np.delete(found, 7, 0), np.delete(clean, 7, 0))


@pytest.mark.parametrize("weight_format", FORMATS)
@pytest.mark.parametrize("scale", [np.nan, np.inf, -np.inf, 1e38])
def test_numbers_that_are_not_finite_are_refused(weight_format: WeightFormat, scale: float) -> None:
    blocks = raw(weight_format).reshape(OUTPUTS, -1, BLOCKS[weight_format].num_bytes).copy()
    if weight_format == "fp8_e4m3" and np.isnan(scale):
        blocks[40, 2, 60] = 0xFF
    else:
        blocks[40, 2, :4] = np.array([scale], dtype=np.float32).view(np.uint8)
    weight = PackedWeight((OUTPUTS, INPUTS), weight_format, False)
    with pytest.raises(ModelError, match="not finite"):
        weight.store_blocks(0, blocks.reshape(OUTPUTS, -1))
