"""The kernels of ops/cuda under Triton's interpreter, on tensors of the CPU; with --on-gpu on a GPU."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from support.gpu import CPU, DEVICE, on_device
from torch import Tensor

from flover.errors import InvariantError
from flover.ops import Ops, Pages, SampleParams, reference
from flover.ops.cpu import instruction_sets
from flover.ops.cpu_layout import page_shapes
from flover.ops.cuda.device import new_pages
from flover.ops.cuda.table import cuda_ops
from flover.ops.order import argmax, logsumexp
from flover.ops.sampling import sample
from ops.bridge import torch_ops
from ops.int8_pages import int8_pages, stored_in_int8
from ops.spec import SPECS, attend, pages_of, weight_of

pytestmark = pytest.mark.gpu
OPS = cuda_ops(DEVICE)
INVARIANT = cuda_ops(DEVICE, batch_invariant=True)


def assert_near(results: Sequence[Tensor], expected: Sequence[Tensor], tolerance: float) -> None:
    for got, want in zip(results, expected, strict=True):
        assert got.shape == want.shape
        error = (got.cpu().double() - want.double()).abs().max().item()
        assert error <= tolerance * want.double().abs().max().item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", SPECS)
def test_equals_the_reference(name: str, dtype: torch.dtype) -> None:
    spec = SPECS[name]
    inputs = spec.make(torch.Generator().manual_seed(3), dtype)
    expected = spec.run(reference.OPS, inputs)
    for ops in (OPS, INVARIANT) if name == "linear" else (OPS,):
        assert_near(spec.run(ops, on_device(inputs)), expected, spec.tolerance[dtype])


@pytest.mark.parametrize("ops", [OPS, INVARIANT], ids=["fastest", "invariant"])
def test_linear_of_many_rows_and_of_none(ops: Ops) -> None:
    """Sizes that fill no tile, and more rows than one; float16; a router in float32."""
    generator = torch.Generator().manual_seed(1)
    x, plain = torch.randn(300, 72, generator=generator), torch.randn(70, 72, generator=generator) / 8
    bias = torch.randn(70, generator=generator)
    for dtype, weight_format, tolerance in (
        (torch.float32, "float32", 1e-5),
        (torch.float16, "float16", 4e-3),
        (torch.float16, "float32", 1e-5),
    ):
        for gated, kind, offset in ((True, "silu", bias), (True, "swiglu_oai", None), (False, None, None)):
            weights = [weight_of(one, plain, gated, weight_format) for one in (ops, reference.OPS)]
            given = x.to(dtype)
            on_gpu = ops.linear(given.to(DEVICE), weights[0], on_device(offset), kind)
            wide = reference.linear(given.float(), weight_of(reference.OPS, plain, gated), offset, kind)
            assert_near([on_gpu], [wide], tolerance)
            none = ops.linear(given[:0].to(DEVICE), weights[0], on_device(offset), kind)
            assert none.shape == (0, on_gpu.shape[1])


def test_products_are_the_same_bits_in_any_batch() -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(130, 200, generator=generator).to(DEVICE)
    weight = weight_of(INVARIANT, torch.randn(96, 200, generator=generator), gated=True)
    together = INVARIANT.linear(x, weight, None, "silu")
    for first, end in ((0, 1), (5, 69), (100, 130)):
        assert torch.equal(INVARIANT.linear(x[first:end], weight, None, "silu"), together[first:end])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_attention_over_pages_in_int8(dtype: torch.dtype) -> None:
    """What the reference computes of the numbers that these pages hold; with float16 of small values."""
    spec = SPECS["attention"]
    inputs = {**spec.make(torch.Generator().manual_seed(3), torch.float32), "windows": (None, 5)}
    scale = 1e-4 if dtype == torch.float16 else 1.0
    held = {name: stored_in_int8(inputs[name] * one) for name, one in (("key_pages", 1.0), ("value_pages", scale))}
    queries = inputs["queries"].to(dtype)
    expected = spec.run(reference.OPS, {**inputs, **held, "queries": queries.float()})
    pages = int8_pages(*(held[name].to(DEVICE) for name in ("key_pages", "value_pages")))
    found = attend(OPS, on_device({**inputs, "queries": queries}), pages)
    assert_near(found, expected, spec.tolerance.get(dtype, 5e-3))


def test_pages_in_int8_hold_what_the_cpu_writes() -> None:
    """To the bit: rows of zeros, small and large numbers, and some that are none."""
    heads, kv_heads, page_size, dim = 3, 2, 5, 12
    qkv = torch.randn(9, heads + 2 * kv_heads, dim, generator=torch.Generator().manual_seed(5))
    qkv[1, heads:] = 0
    qkv[2] *= 1e-20
    qkv[3] *= 1e20
    qkv[4, heads, 3], qkv[5, -1, 0], qkv[6, heads + 1, 11] = torch.nan, torch.inf, -torch.inf
    qkv[7, heads] = torch.tensor([127, 0.5, 1.5, -2.5, 126.5, -126.5, 1, 2, 3, 4, 5, -6.0])
    angles = 10 * torch.rand((9, 4), generator=torch.Generator().manual_seed(6))
    slots = torch.tensor([14, 3, 2, 11, 0, 7, 8, 9, 13])
    shape, cpu_shapes = (3, kv_heads, page_size, dim), page_shapes(3, page_size, kv_heads, dim)
    on_gpu = new_pages(shape, shape, page_size, "int8", DEVICE)
    scales = [torch.zeros(3, kv_heads, page_size) for _ in range(2)]
    on_cpu = Pages(*(torch.zeros(one, dtype=torch.int8) for one in cpu_shapes), page_size, "int8", *scales)
    given = heads, angles.cos(), angles.sin(), False
    queries = OPS.rotary_write(qkv.to(DEVICE), *on_device(given), on_gpu, slots.to(DEVICE))
    expected = torch_ops(instruction_sets()[0], 1).rotary_write(qkv.clone(), *given, on_cpu, slots)
    found = on_device((queries, on_gpu.keys, on_gpu.values, on_gpu.key_scales, on_gpu.value_scales), CPU)
    wanted = expected, on_cpu.keys.transpose(2, 3), on_cpu.values, *scales
    for one, other in zip(found, wanted, strict=True):
        assert np.array_equal(one.numpy(), other.numpy(), equal_nan=True)


class OneSequence:
    """Keys, values and queries of one sequence of `length` tokens, float32, with pages of any size among others'. With
    `int8` a GPU's pages are, and keys and values are numbers that they hold."""

    def __init__(self, length: int, heads: int, kv_heads: int, dim: int, *, int8: bool = False) -> None:
        generator = torch.Generator().manual_seed(length)
        self.heads, self.length, self.int8 = heads, length, int8
        self.queries = torch.randn(length, heads, dim, generator=generator)
        self.keys = torch.randn(length, kv_heads, dim, generator=generator)
        self.values = torch.randn(length, kv_heads, dim, generator=generator)
        if int8:
            self.keys, self.values = stored_in_int8(self.keys), stored_in_int8(self.values)

    def attend(
        self, ops: Ops, spans: Sequence[tuple[int, int]], window: int | None, page_size: int, sinks: Tensor | None
    ) -> list[Tensor]:
        """Results of the tokens first to end of each span, every span a row of its own in one batch."""
        device = CPU if ops is reference.OPS else DEVICE
        num_pages = -(-self.length // page_size)
        order = torch.randperm(num_pages, generator=torch.Generator().manual_seed(page_size)) + 1
        stored = torch.full((2, num_pages + 1, page_size, *self.keys.shape[1:]), torch.nan)
        for position in range(self.length):
            stored[:, order[position // page_size], position % page_size] = torch.stack(
                (self.keys[position], self.values[position])
            )
        if self.int8 and ops is not reference.OPS:
            pages = int8_pages(stored[0].to(device), stored[1].to(device))
        else:
            pages = pages_of(ops, stored[0].to(device), stored[1].to(device))
        query_lens, context_lens = [end - first for first, end in spans], [end for _, end in spans]
        starts = torch.tensor([0, *query_lens]).cumsum(0).int()
        lens = torch.tensor(context_lens, dtype=torch.int32)
        table, starts, lens = on_device((order.int().repeat(len(spans), 1), starts, lens), device)
        plan = ops.plan_attention(table, starts, lens, query_lens, context_lens, pages, frozenset({window}))
        queries = torch.cat([self.queries[first:end] for first, end in spans]).to(device)
        for layer in (-queries, queries):
            y = ops.attention(layer, pages, plan, 0.2, window, 0.0, None, on_device(sinks, device))
        return list(torch.split(y.cpu(), query_lens))


@pytest.mark.parametrize(("dim", "heads", "kv_heads"), [(64, 4, 1), (80, 3, 1), (96, 2, 2), (128, 5, 1), (256, 2, 1)])
def test_attention_of_any_head_size(dim: int, heads: int, kv_heads: int) -> None:
    """Chunks, an empty one, single tokens, contexts of several parts."""
    sequence = OneSequence(300, heads, kv_heads, dim)
    spans = [(290, 300), (5, 5), (299, 300), (0, 7), (30, 31)]
    for window in (None, 33):
        results = sequence.attend(OPS, spans, window, 16, None)
        naive = sequence.attend(reference.OPS, [span for span in spans if span[0] < span[1]], window, 16, None)
        assert_near([result for result in results if len(result)], naive, 1e-5)


@pytest.mark.parametrize(
    ("window", "int8", "dim"),
    [(None, False, 48), (300, False, 48), (300, True, 48), (None, True, 144)],
    ids=["float32", "float32-window", "int8-window", "int8"],
)
def test_attention_is_the_same_bits_in_any_batch_and_chunk(window: int | None, int8: bool, dim: int) -> None:
    """A token alone, among others, in chunks that begin anywhere, with pages of any size."""
    sequence, sinks = OneSequence(601, 3, 1, dim, int8=int8), torch.tensor([0.3, -1.0, 2.0])
    positions = (0, 63, 255, 256, 299, 511, 512, 554, 600)  # from 554 on a window of 300 begins at 255
    expected = {
        position: sequence.attend(OPS, [(position, position + 1)], window, 16, sinks)[0] for position in positions
    }
    single = [(position, position + 1) for position in positions]
    assert_near(list(expected.values()), sequence.attend(reference.OPS, single, window, 16, sinks), 1e-5)
    crowds = [
        (single, 3),
        ([(0, 5), (60, 64), (250, 258), (299, 300), (297, 300), (510, 514), (600, 601)], 16),
        ([(594, 601), (253, 257)], 64),
    ]
    compared = 0
    for spans, page_size in crowds:
        for (first, end), result in zip(spans, sequence.attend(OPS, spans, window, page_size, sinks), strict=True):
            for position in set(positions) & set(range(first, end)):
                assert torch.equal(result[position - first], expected[position][0]), (position, first, end)
                compared += 1
    assert compared >= 18


def test_300_rows() -> None:
    sequence = OneSequence(330, 1, 1, 16)
    spans = [(position, position + 1) for position in range(30, 330)]
    results = sequence.attend(OPS, spans, 12, 4, None)
    assert_near(results, sequence.attend(reference.OPS, spans, 12, 4, None), 1e-5)


def logits_of(rows: int, width: int) -> Tensor:
    """With ties, zeros of both signs and excluded tokens."""
    logits = (4 * torch.randn(rows, width, generator=torch.Generator().manual_seed(width))).round(decimals=1)
    logits[0, : width // 2] = 1.5
    logits[1, ::3] = -torch.inf
    logits[2, 5:] = 0.0
    logits[2, 7] = -0.0
    return logits


def test_order_and_sum_of_logits() -> None:
    logits = logits_of(5, 5000)
    logits[3, 4321] = torch.nan
    logits[4] = -torch.inf
    best, ids = on_device(OPS.argmax(logits.to(DEVICE)), CPU)  # type: ignore[arg-type]
    expected, expected_ids = argmax(logits.numpy())
    assert np.array_equal(best.numpy(), expected, equal_nan=True) and ids.tolist() == expected_ids.tolist()
    sums = OPS.logsumexp(logits[:3].to(DEVICE))  # type: ignore[arg-type]
    np.testing.assert_allclose(sums.cpu().numpy(), logsumexp(logits[:3].numpy()), rtol=1e-6)


@pytest.mark.parametrize("width", [37, 5000])
def test_draws_what_the_reference_draws(width: int) -> None:
    """Each row with limits of its own, several draws; ties at every border."""
    limits = [
        (0, 1.0, 0.0),
        (1, 1.0, 0.0),
        (3, 1.0, 0.0),
        (0, 0.7, 0.0),
        (20, 0.6, 0.0),
        (0, 0.95, 0.05),
        (30, 1e-9, 0),
    ]
    draws = [1e-12, 0.2, 0.77, 1 - 1e-12]
    cases = [(row, *limit, draw) for row in range(3) for limit in limits for draw in draws]
    cases = cases[:: 2 if width == 37 else 7]
    logits = logits_of(3, width)[[case[0] for case in cases]]
    columns = (
        np.full(len(cases), 0.8, dtype=np.float32),
        np.array([case[3] for case in cases]),
        np.array([case[1] for case in cases], dtype=np.int64),
        np.array([case[2] for case in cases]),
        np.array([case[4] for case in cases]),
    )
    best, _ = argmax(logits.numpy())
    expected = sample(logits.numpy(), best, SampleParams(*columns))
    given = on_device((logits, torch.from_numpy(best), *map(torch.from_numpy, columns)))
    assert OPS.sample(*given[:2], SampleParams(*given[2:])).tolist() == expected.tolist()


def test_refuses_what_does_not_fit() -> None:
    with pytest.raises(InvariantError, match="8 columns, the weight 9 inputs"):
        OPS.linear(torch.zeros(1, 8), OPS.new_weight((4, 9), "float32", False), None, None)
