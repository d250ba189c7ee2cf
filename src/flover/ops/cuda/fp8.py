"""Products of weights in FP8 with activations in FP8 (e4m3), for GPUs whose tensor cores have it: sm_89 and later.

What vLLM calls W8A8 with dynamic activations. A scale has GROUP inputs of a token, as checkpoints in blocks of 128 want
it; those with a scale for an output get the same, which is finer than their one for a token. An output is one chain
over the inputs in order, or a tree of such chains (`tree.py`), in one tile for any number of rows, so that a row's bits
do not depend on the others.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from flover.ops.cuda.epilogue import finish
from flover.ops.cuda.launch import OPTIONS
from flover.ops.cuda.quantized import BLOCK, QuantizedWeight
from flover.ops.cuda.rotated import magnitude_bits
from flover.ops.cuda.routing import EXPERT_ROWS, finish_pairs, pairs_at, pairs_of_tile
from flover.ops.cuda.tree import tree_sums

GROUP = 128
"""Inputs of a token that share a scale."""
STEP = 64
"""Inputs of an output that share a scale, and that one product takes."""
_ROWS = 64
_GROUPS_AT_ONCE = 8


@triton.jit(do_not_specialize=["rows"])
def fp8_rows_kernel(x, q, scales, rows, inputs, width, groups, GROUP: tl.constexpr, COUNT: tl.constexpr):
    """COUNT groups of one row as x = scale * q: q e4m3 in bytes [rows, width], scales [groups, rows]. What is not
    finite makes the scale not a number."""
    row = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1) * COUNT + tl.arange(0, COUNT)
    column = group[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    value = tl.load(x + row * inputs + column, column < inputs, other=0.0).to(tl.float32)
    top = tl.max(magnitude_bits(value), 1)
    finite = top < 0x7F800000
    reach = tl.where(finite, top, 0).to(tl.float32, bitcast=True)
    scale = tl.where(reach > 1e-30, tl.div_rn(reach, 448.0), 0.0)
    inverse = tl.where(reach > 1e-30, tl.div_rn(448.0, reach), 0.0)
    number = tl.where(finite[:, None], value, 0.0) * inverse[:, None]
    number = tl.minimum(tl.maximum(number, -448.0), 448.0).to(tl.float8e4nv)
    tl.store(q + row * width + column, number.to(tl.uint8, bitcast=True), column < width)
    tl.store(scales + group.to(tl.int64) * rows + row, tl.where(finite, scale, float("nan")), group < groups)


@triton.jit
def fp8_sums(a, x_scale, weight, w_scales, step, out, outputs, stride, STEP: tl.constexpr):
    """What STEP inputs give: activations `a` [rows, STEP] times the outputs `out` of a weight, and the scales."""
    place = tl.arange(0, STEP)
    unit = (step * (STEP // 32) + place // 32).to(tl.int64)
    numbers = weight + (unit * (stride * 32) + place % 32)[None, :] + (out * 32)[:, None]
    w = tl.load(numbers, (out < outputs)[:, None], other=0).to(tl.float8e4nv, bitcast=True)
    w_scale = tl.load(w_scales + step * stride + out, out < outputs, other=0.0)
    return tl.dot(a, tl.trans(w)), x_scale[:, None] * w_scale[None, :]


@triton.jit
def fp8_chain(
    x, scales, x_row, rows, weight, scales_at, out, outputs, stride, width, first, last, GATED: tl.constexpr,
    GROUP: tl.constexpr, STEP: tl.constexpr, STAGES: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_OUT: tl.constexpr,
):  # fmt: skip
    """Sums over the inputs of the steps from `first` up to `last`, in order, of the rows x_row of x, which has so many,
    times the outputs `out` of a weight; gated: and those as far behind its first half."""
    w_scales = (weight + scales_at).to(tl.pointer_type(tl.float32))
    place = tl.arange(0, STEP)
    total = tl.zeros([BLOCK_ROWS, BLOCK_OUT], tl.float32)
    up_total = tl.zeros([BLOCK_ROWS, BLOCK_OUT], tl.float32)
    for step in tl.range(first, last, num_stages=STAGES):  # said here, it is for the scales too
        a = tl.load(x + x_row[:, None] * width + (step * STEP + place)[None, :]).to(tl.float8e4nv, bitcast=True)
        x_scale = tl.load(scales + step // (GROUP // STEP) * rows + x_row)
        sums, scale = fp8_sums(a, x_scale, weight, w_scales, step, out, outputs, stride, STEP)
        total = tl.fma(sums, scale, total)
        if GATED:
            sums, scale = fp8_sums(a, x_scale, weight, w_scales, step, out + outputs, 2 * outputs, stride, STEP)
            up_total = tl.fma(sums, scale, up_total)
    return total, up_total


@triton.jit(do_not_specialize=["rows"])  # one kernel for any batch
def fp8_kernel(
    x, scales, weight, scales_at, bias, y, rows, outputs, stride, steps, width, y_stride, KIND: tl.constexpr,
    GATED: tl.constexpr, HAS_BIAS: tl.constexpr, SEGMENTS: tl.constexpr, GROUP: tl.constexpr, STEP: tl.constexpr,
    STAGES: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_OUT: tl.constexpr,
):  # fmt: skip
    """BLOCK_ROWS rows by BLOCK_OUT outputs (gated: with their gates); `outputs` counts those of y."""
    row = tl.program_id(1) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    out = tl.program_id(0) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    x_row = tl.minimum(row, rows - 1).to(tl.int64)
    what = x, scales, x_row, rows, weight, scales_at, out, outputs, stride, width
    total, up_total = tree_sums(
        fp8_chain, what, steps, steps // SEGMENTS, (GATED, GROUP, STEP, STAGES, BLOCK_ROWS, BLOCK_OUT), SEGMENTS,
        BLOCK_ROWS, BLOCK_OUT,
    )  # fmt: skip
    total = finish(total, up_total, bias, out, outputs, KIND, GATED, HAS_BIAS)
    inside = (row < rows)[:, None] & (out < outputs)[None, :]
    tl.store(y + row.to(tl.int64)[:, None] * y_stride + out[None, :], total, inside)


@triton.jit(do_not_specialize=["rows"])
def fp8_grouped_kernel(
    x, scales, matrices, scales_at, biases, order, starts, y, rows, experts, outputs, stride, steps, width,
    SHARING: tl.constexpr, KIND: tl.constexpr, GATED: tl.constexpr, HAS_BIAS: tl.constexpr, SEGMENTS: tl.constexpr,
    GROUP: tl.constexpr, STEP: tl.constexpr, STAGES: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_OUT: tl.constexpr,
):  # fmt: skip
    """BLOCK_ROWS pairs of token and expert, all of one expert, by BLOCK_OUT outputs; SHARING pairs have a row of x."""
    expert, start, count, first = pairs_of_tile(starts, tl.program_id(1), experts, BLOCK_ROWS)
    if first >= count:
        return
    pair, real = pairs_at(order, start, count, first, BLOCK_ROWS)
    out = tl.program_id(0) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    weight = tl.multiple_of(tl.load(matrices + expert).to(tl.pointer_type(tl.uint8)), 16)
    what = x, scales, pair // SHARING, rows, weight, scales_at, out, outputs, stride, width
    total, up_total = tree_sums(
        fp8_chain, what, steps, steps // SEGMENTS, (GATED, GROUP, STEP, STAGES, BLOCK_ROWS, BLOCK_OUT), SEGMENTS,
        BLOCK_ROWS, BLOCK_OUT,
    )  # fmt: skip
    finish_pairs(total, up_total, biases, expert, y, pair, real, out, outputs, KIND, GATED, HAS_BIAS)


def fp8_rows(x: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Bytes of rows in e4m3 [rows, width] and their scales [groups, rows]."""
    (rows, inputs), groups = x.shape, triton.cdiv(width, GROUP)
    q = torch.empty((rows, width), dtype=torch.uint8, device=x.device)
    scales = torch.empty((groups, rows), dtype=torch.float32, device=x.device)
    fp8_rows_kernel[(rows, triton.cdiv(groups, _GROUPS_AT_ONCE))](
        x, q, scales, rows, inputs, width, groups, GROUP, _GROUPS_AT_ONCE, num_warps=4, **OPTIONS
    )
    return q, scales


def _stages_of(weight: QuantizedWeight) -> int:
    """How far programs load ahead (Little's law, see tiles.py): 4,096 outputs are 64 programs, which ask for 34 KiB
    each; gated there are several to a multiprocessor, which share its memory."""
    return 4 if weight.gated else 9


def fp8_linear(
    x: Tensor, weight: QuantizedWeight, bias: Tensor | None, kind: str | None, y: Tensor, segments: int
) -> None:
    """x times the weight's transpose, plus the bias, activated and gated, to y [rows, outputs], whose rows may lie
    apart. A sum is a tree over so many segments."""
    rows, outputs, width = len(x), y.shape[1], BLOCK * weight.blocks
    q, scales = fp8_rows(x, width)
    block_out = 32 if weight.gated else 64
    fp8_kernel[(triton.cdiv(outputs, block_out), triton.cdiv(rows, _ROWS))](
        q, scales, weight.data, weight.sections.scales, bias, y, rows, outputs, weight.stride, width // STEP, width,
        y.stride(0),
        KIND=kind or "none",
        GATED=weight.gated,
        HAS_BIAS=bias is not None,
        SEGMENTS=segments,
        GROUP=GROUP,
        STEP=STEP,
        STAGES=_stages_of(weight),
        BLOCK_ROWS=_ROWS,
        BLOCK_OUT=block_out,
        num_warps=4,
        num_stages=_stages_of(weight),
        **OPTIONS,
    )  # fmt: skip


def fp8_experts(
    x: Tensor,
    like: QuantizedWeight,
    addresses: tuple[Tensor, Tensor | None],
    pairs: tuple[Tensor, Tensor],
    sharing: int,
    kind: str | None,
    y: Tensor,
    segments: int,
) -> None:
    """The same for pairs of token and expert, to y [pairs, outputs]; `sharing` pairs have a row of x. `addresses` are
    those of the experts' matrices, all like one of them, and biases; `pairs` their numbers in the order of experts, and
    where each expert's begin."""
    (order, starts), (matrices, biases) = pairs, addresses
    outputs, count, width = y.shape[1], len(starts) - 1, BLOCK * like.blocks
    q, scales = fp8_rows(x, width)
    block_out = 32 if like.gated else 64
    fp8_grouped_kernel[(triton.cdiv(outputs, block_out), len(order) // EXPERT_ROWS + count)](
        q, scales, matrices, like.sections.scales, biases, order, starts, y, len(x), count, outputs, like.stride,
        width // STEP, width,
        SHARING=sharing,
        KIND=kind or "none",
        GATED=like.gated,
        HAS_BIAS=biases is not None,
        SEGMENTS=segments,
        GROUP=GROUP,
        STEP=STEP,
        STAGES=_stages_of(like),
        BLOCK_ROWS=EXPERT_ROWS,
        BLOCK_OUT=block_out,
        num_warps=4,
        num_stages=_stages_of(like),
        **OPTIONS,
    )  # fmt: skip
