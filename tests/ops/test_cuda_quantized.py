"""Quantized matrices on a GPU: the numbers of the CPU's kernels, which are compared with the formats' definitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from flover_benchmarks.kernels.blocks import random_blocks
from support.gpu import DEVICE, on_device
from torch import Tensor

from flover.errors import ConfigError, InvariantError, ModelError
from flover.ops import BLOCKS, ONE_SCALE, Experts, Ops, Part, Routing, Weight, WeightFormat
from flover.ops.cpu import instruction_sets
from flover.ops.cuda.quantized import QUANTIZED, QuantizedWeight
from flover.ops.cuda.table import cuda_ops
from ops.bridge import torch_ops

pytestmark = pytest.mark.gpu
OPS = cuda_ops(DEVICE)
CPU = torch_ops(instruction_sets()[0], 1)
Rows = npt.NDArray[Any]


def rows_of(weight_format: WeightFormat, outputs: int, inputs: int, seed: int = 0) -> Rows:
    """Numbers, or blocks of a file, of every row of a matrix; numbers with a few large inputs."""
    generator = np.random.default_rng(seed)
    if weight_format in BLOCKS:
        return random_blocks(weight_format, outputs, inputs, generator)
    rows = generator.standard_normal((outputs, inputs), dtype=np.float32)
    rows[:, ::37] *= 9
    return rows


def filled(weight: Any, rows: Rows, **order: Any) -> Any:
    """The weight with these rows, which come in two pieces, the last ones first."""
    store = weight.store if rows.dtype == np.float32 else weight.store_blocks
    for first, end in ((len(rows) // 3, len(rows)), (0, len(rows) // 3)):
        store(first, rows[first:end], **order)
    return weight


def weights_of(weight_format: WeightFormat, outputs: int, inputs: int, *, gated: bool = False) -> tuple[Any, Any]:
    """The same matrix on the GPU and on the CPU."""
    rows = rows_of(weight_format, outputs, inputs)
    both = [ops.new_weight((outputs, inputs), weight_format, gated) for ops in (OPS, CPU)]
    return filled(both[0], rows), filled(both[1], rows)


def activations(rows: int, inputs: int) -> Tensor:
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, inputs, generator=generator) * torch.randn(inputs, generator=generator).exp()
    x[rows // 2, :32] = 0
    return x


def gpu(op: Callable[..., Tensor], *args: Any) -> Tensor:
    """What an operation of the GPU gives for tensors of the host."""
    return op(*on_device(args)).cpu()


def assert_near(found: Tensor, wanted: Tensor, tolerance: float) -> None:
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() <= tolerance * wanted.abs().max()


def inputs_of(weight_format: WeightFormat) -> int:
    """No whole number of blocks, of tiles and of rotations where the format allows it."""
    return BLOCKS[weight_format].inputs * (1 if BLOCKS[weight_format].inputs > 64 else 3) if weight_format in BLOCKS \
        else 72  # fmt: skip


@pytest.mark.parametrize("weight_format", QUANTIZED)
def test_numbers_and_products_are_those_of_the_cpu(weight_format: WeightFormat) -> None:
    """A looked-up row to the bit, products but for rounding: sums of integers are exact on both."""
    inputs, outputs = inputs_of(weight_format), 38
    on_gpu, on_cpu = weights_of(weight_format, outputs, inputs)
    ids = torch.tensor([37, 0, 15, 16, 31, 5])
    assert torch.equal(gpu(OPS.embed, ids, on_gpu, 2.0), CPU.embed(ids, on_cpu, 2.0))
    x, bias = activations(5, inputs), torch.randn(outputs, generator=torch.Generator().manual_seed(1))
    assert_near(gpu(OPS.linear, x, on_gpu, bias, None), CPU.linear(x, on_cpu, bias, None), 2e-6)
    assert gpu(OPS.linear, x[:0], on_gpu, bias, None).shape == (0, outputs)
    on_gpu, on_cpu = weights_of(weight_format, outputs, inputs, gated=True)
    assert_near(gpu(OPS.linear, x, on_gpu, bias, "silu"), CPU.linear(x, on_cpu, bias, "silu"), 2e-6)
    assert on_gpu.num_bytes <= 1.1 * on_cpu.num_bytes * 48 / 38


@pytest.mark.parametrize("weight_format", QUANTIZED)
def test_products_are_the_same_bits_in_any_batch(weight_format: WeightFormat) -> None:
    """One row, up to two and up to four have their numbers in words, more are tensor cores', few or many at once."""
    weight, _ = weights_of(weight_format, 40, 256, gated=weight_format != "q8_0")
    x = activations(70, 256)
    together = gpu(OPS.linear, x, weight, None, "silu")
    for first, end in ((0, 1), (1, 3), (34, 38), (3, 9), (40, 70)):
        assert torch.equal(gpu(OPS.linear, x[first:end], weight, None, "silu"), together[first:end])


def test_rows_that_are_next_to_nothing_stay_finite() -> None:
    """What 127 is divided by may be so small that the quotient is no number."""
    weight, _ = weights_of("int4", 20, 256)
    for rows in (1, 3, 20):
        x = activations(20, 256)[:rows] * 1e-40
        assert gpu(OPS.linear, x, weight, None, None).abs().max() < 1e-36


def test_activations_of_16_bits_and_rows_that_are_no_numbers() -> None:
    """A row that is not finite has no finite output, whatever the others are."""
    for weight_format in ("int8", "q4_k"):
        ops = cuda_ops(DEVICE, activations=torch.bfloat16)
        weight = filled(ops.new_weight((20, 256), weight_format, False), rows_of(weight_format, 20, 256))
        x = activations(4, 256).bfloat16()
        x[2, 100], x[3, 7] = torch.inf, torch.nan
        y, wide = gpu(ops.linear, x, weight, None, None), gpu(OPS.linear, x.float(), weight, None, None)
        assert y.dtype == gpu(ops.embed, torch.tensor([0]), weight, 1.0).dtype == torch.bfloat16
        assert torch.equal(y[:2], wide[:2].bfloat16())
        assert y[2:].isnan().all()


def test_inputs_in_another_order() -> None:
    order = np.random.default_rng(4).permutation(128).astype(np.int32)
    rows = rows_of("int4_g32", 20, 128)
    weights = [filled(ops.new_weight((20, 128), "int4_g32", False), rows, order=order) for ops in (OPS, CPU)]
    x = activations(3, 128)
    assert_near(gpu(OPS.linear, x, weights[0], None, None), CPU.linear(x, weights[1], None, None), 2e-6)
    with pytest.raises(ModelError, match="another order"):
        weights[0].store_blocks(0, rows[:3], order[::-1].copy())


def test_joined_matrices_give_the_outputs_of_their_members() -> None:
    formats: tuple[WeightFormat, ...] = ("q4_k", "q6_k", "float32")
    sizes, x = (20, 7, 5), activations(6, 256)
    rows = [rows_of(one, size, 256) for one, size in zip(formats, sizes, strict=True)]
    members = [OPS.new_weight((size, 256), one, False) for one, size in zip(formats, sizes, strict=True)]
    assert OPS.join is not None
    joined = OPS.join(members)
    joined.store_blocks(0, rows[0]), joined.store_blocks(20, rows[1]), joined.store(27, rows[2])
    bias = torch.randn(32, generator=torch.Generator().manual_seed(2))
    y = gpu(OPS.linear, x, joined, bias, "silu")
    own = [gpu(OPS.linear, x, one, part, "silu") for one, part in zip(members, bias.split(sizes), strict=True)]
    assert torch.equal(y, torch.cat(own, 1))
    with pytest.raises(InvariantError, match="rows 15 to 25"):
        joined.store_blocks(15, rows[0][:10])


@pytest.mark.parametrize(
    ("weight_format", "ordered"),
    [*((one, False) for one in ("int8", "int4", "mxfp4", "q6_k", "fp8_e4m3")), ("int4_g32", True)],
)
def test_experts_are_those_of_the_cpu(weight_format: WeightFormat, ordered: bool) -> None:
    """Ordered: all experts but the last have their inputs in an order of their own."""
    hidden, inner, count = (256, 256, 3) if weight_format == "q6_k" else (64, 64, 3)

    def experts_on(ops: Ops) -> Experts:
        def matrices(outputs: int, inputs: int, gated: bool) -> list[Weight]:
            found = []
            for i in range(count):
                order = np.random.default_rng(i + gated).permutation(inputs).astype(np.int32)
                weight = ops.new_weight((outputs, inputs), weight_format, gated)
                own = {"order": order} if ordered and i < count - 1 else {}
                found.append(filled(weight, rows_of(weight_format, outputs, inputs, i), **own))
            return found

        biases = [[torch.full((size,), 0.1 * i) for i in range(count)] for size in (2 * inner, hidden)]
        arrays = [[one.to(DEVICE) if ops is OPS else one.numpy() for one in each] for each in biases]
        return Experts(matrices(2 * inner, hidden, True), matrices(hidden, inner, False), *arrays)

    x, scores = activations(19, hidden), torch.randn(19, count, generator=torch.Generator().manual_seed(3))
    on_gpu, on_cpu = experts_on(OPS), experts_on(CPU)
    found = gpu(OPS.experts, x, scores, on_gpu, Routing(2, True), "silu")
    # What the first matrix gives is rounded to 8 bits before the second: a number in the middle may go either way.
    assert_near(found, CPU.experts(x, scores, on_cpu, Routing(2, True), "silu"), 1e-3)
    for first, end in ((5, 6), (6, 11)):  # tiles of one row, of four, of sixteen
        own = gpu(OPS.experts, x[first:end], scores[first:end], on_gpu, Routing(2, True), "silu")
        assert torch.equal(own, found[first:end])


WRONG: dict[str, Callable[[], object]] = {
    "numbers for blocks": lambda: OPS.new_weight((16, 256), "q4_k", False).store(0, np.zeros((1, 256), np.float32)),
    "more numbers than 2^33": lambda: OPS.new_weight((2**17, 2**16), "int4", False),
    "no number": lambda: OPS.new_weight((16, 32), "int4", False).store(0, np.full((1, 32), np.nan, np.float32)),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_refused(name: str) -> None:
    with pytest.raises((ConfigError, InvariantError, ModelError)):
        WRONG[name]()


def test_every_quantized_format_is_kept() -> None:
    assert QUANTIZED.keys() == ONE_SCALE | BLOCKS.keys()
    part = OPS.new_weight((20, 64), "q4_0", False, Part(32, 128))
    assert isinstance(part, QuantizedWeight)
    rows = rows_of("q4_0", 20, 128)
    whole = filled(CPU.new_weight((20, 128), "q4_0", False), rows)
    ids = torch.arange(20)
    assert torch.equal(gpu(OPS.embed, ids, filled(part, rows), 1.0), CPU.embed(ids, whole, 1.0)[:, 32:96])
