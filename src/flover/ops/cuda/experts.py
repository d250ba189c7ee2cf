"""Mixtures of experts as grouped products: tokens are sorted by expert on the device, which the host never asks about.

A tile takes tokens of one expert, and of floats always the same number, so what a token gets is one chain over the
inputs whatever other tokens the expert has; sums of integers are exact in tiles of any size. Where the order of sums is
that of any number of ranks, it is a tree of them (`tree.py`), and ranks add what each expert gives before it is
weighted.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import cast

import torch
import triton
import triton.language as tl
from torch import Tensor

from flover.errors import InvariantError
from flover.ops import Experts, Group, Routing, Weight
from flover.ops.cuda.few_rows import words_chain
from flover.ops.cuda.fp8 import fp8_experts
from flover.ops.cuda.launch import OPTIONS, WORD_ROWS, power_of_two
from flover.ops.cuda.linear import chain
from flover.ops.cuda.matrices import Matrix
from flover.ops.cuda.quantize import Rows, activations_of, activations_of_all, floats_of
from flover.ops.cuda.quantized import QuantizedWeight
from flover.ops.cuda.quantized_linear import pieces_of, quantized_chain
from flover.ops.cuda.routing import EXPERT_ROWS, finish_pairs, pairs_at, pairs_of_tile, route_kernel
from flover.ops.cuda.tiles import MOST_REGISTERS, rows_of_an_expert, tile_of
from flover.ops.cuda.tree import tree_sums


@triton.jit
def grouped_kernel(
    x, matrices, biases, order, starts, y, experts, outputs, inputs, length,
    SHARING: tl.constexpr, KIND: tl.constexpr, GATED: tl.constexpr, HAS_BIAS: tl.constexpr, SEGMENTS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_OUT: tl.constexpr, BLOCK_IN: tl.constexpr,
):  # fmt: skip
    """BLOCK_ROWS pairs of token and expert, all of one expert, by BLOCK_OUT outputs; SHARING pairs have a row of x."""
    expert, start, count, first = pairs_of_tile(starts, tl.program_id(1), experts, BLOCK_ROWS)
    if first >= count:
        return
    pair, real = pairs_at(order, start, count, first, BLOCK_ROWS)
    out = tl.program_id(0).to(tl.int64) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    kind: tl.constexpr = tl.pointer_type(x.dtype.element_ty)
    weight = tl.multiple_of(tl.load(matrices + expert).to(kind), 16)
    what = x, pair // SHARING, real, weight, out, outputs, inputs
    total, up_total = tree_sums(
        chain, what, inputs, length, (GATED, BLOCK_ROWS, BLOCK_OUT, BLOCK_IN), SEGMENTS, BLOCK_ROWS, BLOCK_OUT
    )
    finish_pairs(total, up_total, biases, expert, y, pair, real, out, outputs, KIND, GATED, HAS_BIAS)


@triton.jit(do_not_specialize=["rows"])  # one kernel for any batch
def quantized_grouped_kernel(
    x, scales, shares, matrices, at, biases, order, starts, y, rows, experts, outputs, stride, units, inputs,
    FORMAT: tl.constexpr, RECIPE: tl.constexpr, NUM_PIECES: tl.constexpr, PIECES: tl.constexpr, SHARING: tl.constexpr,
    KIND: tl.constexpr, GATED: tl.constexpr, HAS_BIAS: tl.constexpr, UNITS: tl.constexpr, STAGES: tl.constexpr,
    SEGMENTS: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_OUT: tl.constexpr,
):  # fmt: skip
    """The same with quantized matrices; x has so many rows, in integers."""
    expert, start, count, first = pairs_of_tile(starts, tl.program_id(1), experts, BLOCK_ROWS)
    if first >= count:
        return
    pair, real = pairs_at(order, start, count, first, BLOCK_ROWS)
    out = tl.program_id(0) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    weight = tl.multiple_of(tl.load(matrices + expert).to(tl.pointer_type(tl.uint8)), 16)
    what = x, scales, shares, pair // SHARING, rows, weight, at, out, outputs, stride, units, inputs
    total, up_total = tree_sums(
        words_chain if BLOCK_ROWS <= WORD_ROWS else quantized_chain, what, units, units // SEGMENTS,
        (FORMAT, RECIPE, NUM_PIECES, PIECES, GATED, UNITS, STAGES, BLOCK_ROWS, BLOCK_OUT), SEGMENTS, BLOCK_ROWS,
        BLOCK_OUT,
    )  # fmt: skip
    finish_pairs(total, up_total, biases, expert, y, pair, real, out, outputs, KIND, GATED, HAS_BIAS)


@triton.jit
def order_kernel(x, ids, orders, y, size, SHARING: tl.constexpr, BLOCK: tl.constexpr):
    """The row of one pair of token and expert, its inputs in the order in which that expert has them."""
    pair = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < size
    source = tl.load(orders + tl.load(ids + pair).to(tl.int64) * size + column, inside, other=0)
    tl.store(y + pair * size + column, tl.load(x + pair // SHARING * size + source, inside, other=0.0), inside)


@triton.jit
def weighted_sum_kernel(
    x, ids, biases, weights, y, size, HAS_BIAS: tl.constexpr, CHOSEN: tl.constexpr, BLOCK: tl.constexpr
):
    """What the experts of one token gave it, and their biases (addresses), times their weights, added in the order of
    their scores."""
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < size
    total = tl.zeros([BLOCK], tl.float32)
    for place in tl.static_range(CHOSEN):
        pair = token * CHOSEN + place
        value = tl.load(x + pair * size + column, inside, other=0.0).to(tl.float32)
        if HAS_BIAS:
            bias = tl.load(biases + tl.load(ids + pair)).to(tl.pointer_type(tl.float32))
            value += tl.load(bias + column, inside, other=0.0)
        total = tl.fma(value, tl.broadcast_to(tl.load(weights + pair), [BLOCK]), total)
    tl.store(y + token * size + column, total, inside)


@dataclass(frozen=True, slots=True)
class _Matrices:
    """Addresses of the experts' matrices and of their float32 biases, int64 [E]."""

    matrices: Tensor
    biases: Tensor | None
    like: Matrix  # one of them: shape, format and gate are the same for all
    orders: Tensor | None  # int32 [E, inputs], where any has its inputs in another order; `like` has none
    kept: tuple[Tensor, ...]  # what the addresses lead to


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Pairs of token and expert, in the order of tokens: the expert of each; then their numbers sorted by expert, and
    where those of each expert start."""

    tokens: int
    ids: Tensor
    order: Tensor
    starts: Tensor


class ExpertOps:
    """The experts of a model, whose addresses are copied to the device when they are first used."""

    def __init__(self, group: Group, batch_invariant: bool) -> None:
        """`batch_invariant`: the sums over inputs that ranks share are in one order for any number of them."""
        self._group, self._batch_invariant = group, batch_invariant
        self._known: dict[int, tuple[Experts, _Matrices, _Matrices]] = {}

    def __call__(self, x: Rows, scores: Tensor, experts: Experts, routing: Routing, kind: str) -> Tensor:
        """Choose, multiply by the matrices of the chosen experts, and add up what they give."""
        (rows, count), chosen = scores.shape, routing.top_k
        if not 1 <= chosen <= count == len(experts.up) == len(experts.down):
            raise InvariantError(
                f"{chosen} of {count} experts, with {len(experts.up)} and {len(experts.down)} matrices"
            )
        y = torch.empty_like(floats_of(x))
        if not rows:
            return y
        up, down = self._matrices_of(experts)
        ids = torch.empty((rows, chosen), dtype=torch.int32, device=y.device)
        weights = torch.empty((rows, chosen), dtype=torch.float32, device=y.device)
        block = power_of_two(count, 2)
        route_kernel[(rows,)](scores, ids, weights, count, chosen, routing.normalized, block, num_warps=1, **OPTIONS)
        flat = ids.flatten()
        order = torch.argsort(flat, stable=True)
        edges = torch.arange(count + 1, dtype=torch.int32, device=y.device)
        pairs = _Pairs(rows, flat, order, torch.searchsorted(flat[order], edges, out_int32=True))
        inner: Rows = _grouped(x, up, pairs, chosen, kind)
        if down.like.part is not None and isinstance(down.like, QuantizedWeight):
            inner = activations_of_all(inner, down.like, self._group)
        shared, in_one_order = down.like.part is not None, self._batch_invariant
        outer = _grouped(inner, down, pairs, 1, None, down.like.segments if in_one_order else None)
        if shared and in_one_order:
            self._group.all_reduce("sum", outer)
        grid, biases = (rows, triton.cdiv(y.shape[1], 1024)), down.biases if in_one_order else None
        weighted_sum_kernel[grid](
            outer, flat, biases, weights, y, y.shape[1], biases is not None, chosen, 1024, num_warps=4, **OPTIONS
        )
        if shared and not in_one_order:
            self._group.all_reduce("sum", y)
        return y

    def _matrices_of(self, experts: Experts) -> tuple[_Matrices, _Matrices]:
        found = self._known.get(id(experts))
        if found is None:
            # Added once: by rank 0, or to the sum of all ranks.
            last_bias = experts.down_bias if self._group.rank == 0 or self._batch_invariant else ()
            both = _addresses(experts.up, experts.up_bias), _addresses(experts.down, last_bias)
            found = self._known[id(experts)] = (experts, *both)
        return found[1:]


def _addresses(weights: Sequence[Weight], biases: Sequence[Tensor]) -> _Matrices:
    matrices = [cast(Matrix, weight) for weight in weights]
    first = matrices[0]
    kinds = [matrix.format if isinstance(matrix, QuantizedWeight) else matrix.data.dtype for matrix in matrices]
    alike = {(matrix.shape, kind, matrix.gated) for matrix, kind in zip(matrices, kinds, strict=True)}
    if len(alike) > 1:
        raise InvariantError(f"experts of shapes and formats {alike}")
    orders = _orders(matrices)
    if orders is not None and isinstance(first, QuantizedWeight):
        first = copy(first)
        first.order = None
    wide = tuple(bias.float().contiguous() for bias in biases)

    def table(tensors: Sequence[Tensor]) -> Tensor:
        return torch.tensor([tensor.data_ptr() for tensor in tensors], dtype=torch.int64).to(first.data.device)

    return _Matrices(table([matrix.data for matrix in matrices]), table(wide) if wide else None, first, orders, wide)


def _orders(matrices: Sequence[Matrix]) -> Tensor | None:
    """Of every matrix the order of its inputs; None if all have theirs as they come."""
    own = [matrix.order if isinstance(matrix, QuantizedWeight) else None for matrix in matrices]
    device, inputs = matrices[0].data.device, matrices[0].shape[1]
    plain = torch.arange(inputs, dtype=torch.int32, device=device)
    return None if all(one is None for one in own) else torch.stack([plain if one is None else one for one in own])


def _in_order(x: Tensor, orders: Tensor, ids: Tensor, sharing: int) -> Tensor:
    """[pairs, inputs]: the row of each pair as its expert has the inputs."""
    pairs, size = len(ids), x.shape[1]
    y = torch.empty((pairs, size), dtype=x.dtype, device=x.device)
    order_kernel[(pairs, triton.cdiv(size, 1024))](x, ids, orders, y, size, sharing, 1024, num_warps=4, **OPTIONS)
    return y


def _grouped(
    x: Rows,
    experts: _Matrices,
    of: _Pairs,
    sharing: int,
    kind: str | None,
    segments: int | None = None,
) -> Tensor:
    """[pairs, outputs] of every pair of token and expert, in the order of tokens. With `segments` a tree over so many
    of this rank's inputs, in float32, without the bias."""
    if experts.orders is not None:
        x, sharing = _in_order(floats_of(x), experts.orders, of.ids, sharing), 1
    pairs, count, like = len(of.order), len(of.starts) - 1, experts.like
    outputs = like.shape[0] // (2 if like.gated else 1)
    dtype, biases = (x.dtype, experts.biases) if segments is None else (torch.float32, None)
    y, segments = torch.empty((pairs, outputs), dtype=dtype, device=of.order.device), segments or 1
    if isinstance(like, QuantizedWeight) and like.fp8_activations:
        fp8_experts(floats_of(x), like, (experts.matrices, biases), (of.order, of.starts), sharing, kind, y, segments)
        return y
    if isinstance(like, QuantizedWeight):
        _grouped_quantized(x, (experts.matrices, biases), like, of, sharing, kind, y, segments)
        return y
    x = floats_of(x)
    block_out = 64 if like.gated else 128
    grouped_kernel[(triton.cdiv(outputs, block_out), pairs // EXPERT_ROWS + count)](
        x,
        experts.matrices,
        biases,
        of.order,
        of.starts,
        y,
        count,
        outputs,
        like.shape[1],
        like.shape[1] // segments,
        SHARING=sharing,
        KIND=kind or "none",
        GATED=like.gated,
        HAS_BIAS=biases is not None,
        SEGMENTS=segments,
        BLOCK_ROWS=EXPERT_ROWS,
        BLOCK_OUT=block_out,
        BLOCK_IN=64 if x.element_size() == 2 else 32,
        num_warps=4,
        num_stages=3,
        **OPTIONS,
    )
    return y


def _grouped_quantized(
    x: Rows,
    addresses: tuple[Tensor, Tensor | None],
    like: QuantizedWeight,
    of: _Pairs,
    sharing: int,
    kind: str | None,
    y: Tensor,
    segments: int,
) -> None:
    (matrices, biases), form = addresses, like.kind
    own = activations_of(x, like)
    tile = tile_of(like, rows_of_an_expert(of.tokens), own.recipe, segments=segments)
    (pairs, outputs), count = y.shape, len(of.starts) - 1
    quantized_grouped_kernel[(triton.cdiv(outputs, tile.outputs), pairs // tile.rows + count)](
        own.q, own.scales, own.shares, matrices, tuple(like.sections), biases, of.order,
        of.starts, y, x.shape[0], count, outputs, like.stride, like.blocks // form.together, like.shape[1],
        FORMAT=form,
        RECIPE=own.recipe,
        **pieces_of(own),
        SHARING=sharing,
        KIND=kind or "none",
        GATED=like.gated,
        HAS_BIAS=biases is not None,
        UNITS=tile.units,
        STAGES=tile.stages,
        SEGMENTS=segments,
        BLOCK_ROWS=tile.rows,
        BLOCK_OUT=tile.outputs,
        num_warps=tile.warps,
        maxnreg=MOST_REGISTERS,
        num_stages=tile.stages,
        **OPTIONS,
    )  # fmt: skip
