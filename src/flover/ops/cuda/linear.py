"""Products with weights, with bias, activation and gate behind them.

Large products are torch's (cuBLAS), whose order of summation depends on the number of rows. `product` is a Triton
kernel with one tile for all numbers of rows: each output is one chain over the inputs in order. It takes the few rows
of a generate step where there is something to do behind the product, so that no launch is spent on that, and everything
where results have to be the same in any batch.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional as F

from flover.errors import InvariantError
from flover.ops.cuda.activation import activate, gate_by
from flover.ops.cuda.epilogue import finish
from flover.ops.cuda.launch import OPTIONS, power_of_two
from flover.ops.cuda.matrices import JoinedMatrix, Matrix
from flover.ops.cuda.quantize import Rows, floats_of
from flover.ops.cuda.quantized import QuantizedWeight
from flover.ops.cuda.quantized_linear import linear_then, quantized_linear
from flover.ops.cuda.tree import tree_sums
from flover.ops.cuda.weight import CudaWeight
from flover.ops.joined import JoinedWeight

FEW_ROWS = 64
"""Rows up to which reading the weights takes longer than multiplying: one tile of the kernel."""
_BLOCK_OUT = 32
"""Outputs of a program: few, so that matrices of 4096 outputs are read by all multiprocessors. Gated, a program has two
of each, and a matrix more programs; else it loads more turns of its loop ahead."""
_EPILOGUE_BLOCK = 1024


@triton.jit
def chain(
    x, x_row, real, weight, out, outputs, inputs, begin, end, GATED: tl.constexpr, BLOCK_ROWS: tl.constexpr,
    BLOCK_OUT: tl.constexpr, BLOCK_IN: tl.constexpr,
):  # fmt: skip
    """Sums over the inputs from `begin` to `end`, in order, of the rows x_row of x times the rows `out` of a weight;
    gated: and those as far behind its first half. Rows that are not `real` are not read. Outputs that are not there are
    computed from the last one."""
    column = tl.arange(0, BLOCK_IN)
    x_place = x_row[:, None] * inputs
    w_place = tl.minimum(out, outputs - 1)[:, None] * inputs
    half = outputs.to(tl.int64) * inputs
    total = tl.zeros([BLOCK_ROWS, BLOCK_OUT], tl.float32)
    up_total = tl.zeros([BLOCK_ROWS, BLOCK_OUT], tl.float32)
    for first in range(begin, end, BLOCK_IN):
        place = (first + column)[None, :]
        a = tl.load(x + x_place + place, real[:, None] & (place < end), other=0.0)
        w = tl.load(weight + w_place + place, place < end, other=0.0)
        total = tl.dot(a, tl.trans(w), total, input_precision="ieee")
        if GATED:
            w = tl.load(weight + half + w_place + place, place < end, other=0.0)
            up_total = tl.dot(a, tl.trans(w), up_total, input_precision="ieee")
    return total, up_total


@triton.jit(do_not_specialize=["rows"])  # one kernel for any batch
def product_kernel(
    x,
    weight,
    bias,
    y,
    rows,
    outputs,
    inputs,
    length,
    KIND: tl.constexpr,
    GATED: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    SEGMENTS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    BLOCK_IN: tl.constexpr,
):
    """BLOCK_ROWS rows by BLOCK_OUT outputs (gated: with their gates); `outputs` counts those of y."""
    row = tl.program_id(1).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    out = tl.program_id(0).to(tl.int64) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    x_row = tl.minimum(row, rows - 1)
    what = x, x_row, row < rows, weight, out, outputs, inputs
    total, up_total = tree_sums(
        chain, what, inputs, length, (GATED, BLOCK_ROWS, BLOCK_OUT, BLOCK_IN), SEGMENTS, BLOCK_ROWS, BLOCK_OUT
    )
    total = finish(total, up_total, bias, out, outputs, KIND, GATED, HAS_BIAS)
    inside = (row < rows)[:, None] & (out < outputs)[None, :]
    tl.store(y + row[:, None] * outputs + out[None, :], total, inside)


def product(
    x: Tensor,
    weight: CudaWeight,
    bias: Tensor | None,
    kind: str | None,
    segments: int = 1,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """The linear of the op table in one launch and one order, as x or of type `dtype`."""
    (rows, inputs), outputs = x.shape, weight.shape[0] // (2 if weight.gated else 1)
    y = torch.empty((rows, outputs), dtype=dtype or x.dtype, device=x.device)
    product_kernel[(triton.cdiv(outputs, _BLOCK_OUT), triton.cdiv(rows, FEW_ROWS))](
        x,
        weight.data,
        bias,
        y,
        rows,
        outputs,
        inputs,
        inputs // segments,
        KIND=kind or "none",
        GATED=weight.gated,
        HAS_BIAS=bias is not None,
        SEGMENTS=segments,
        BLOCK_ROWS=FEW_ROWS,
        BLOCK_OUT=_BLOCK_OUT,
        BLOCK_IN=64 if x.element_size() == 2 else 32,
        num_warps=4,
        num_stages=3 if weight.gated else 6,
        **OPTIONS,
    )
    return y


@triton.jit
def epilogue_kernel(
    x, bias, y, outputs, KIND: tl.constexpr, GATED: tl.constexpr, HAS_BIAS: tl.constexpr, BLOCK: tl.constexpr
):
    """One row of a product: bias, activation, gate. y may be x where there is no gate."""
    row = tl.program_id(0).to(tl.int64)
    out = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = out < outputs
    x += row * outputs * (2 if GATED else 1)
    value = tl.load(x + out, inside, other=0.0).to(tl.float32)
    if HAS_BIAS:
        value += tl.load(bias + out, inside, other=0.0).to(tl.float32)
    if GATED:
        up = tl.load(x + outputs + out, inside, other=0.0).to(tl.float32)
        if HAS_BIAS:
            up += tl.load(bias + outputs + out, inside, other=0.0).to(tl.float32)
        value = gate_by(value, up, KIND)
    else:
        value = activate(value, KIND)
    tl.store(y + row * outputs + out, value, inside)


def linear(
    x: Rows,
    weight: Matrix | JoinedMatrix,
    bias: Tensor | None,
    kind: str | None,
    batch_invariant: bool,
    then: QuantizedWeight | None = None,
) -> Rows:
    """x times the weight's transpose, plus the bias, activated and gated; for a product with `then` if there is one."""
    if x.shape[1] != weight.shape[1]:
        raise InvariantError(f"x has {x.shape[1]} columns, the weight {weight.shape[1]} inputs")
    if isinstance(weight, JoinedWeight):
        return _joined(x, weight, bias, kind, batch_invariant)
    if isinstance(weight, QuantizedWeight):
        if then is not None and (made := linear_then(x, weight, bias, kind, then)) is not None:
            return made
        outputs = weight.shape[0] // (2 if weight.gated else 1)
        y = torch.empty((x.shape[0], outputs), dtype=x.dtype, device=weight.data.device)
        quantized_linear(x, weight, bias, kind, y, weight.segments if batch_invariant else 1)
        return y
    return _plain(floats_of(x), weight, bias, kind, batch_invariant)


def share_of_rank(x: Rows, weight: Matrix) -> Tensor:
    """x times the columns of a weight that this rank has, float32: a subtree of the sum over all inputs."""
    if isinstance(weight, CudaWeight):
        return product(floats_of(x).to(weight.data.dtype), weight, None, None, weight.segments, torch.float32)
    y = torch.empty((x.shape[0], weight.shape[0]), dtype=torch.float32, device=weight.data.device)
    quantized_linear(x, weight, None, None, y, weight.segments)
    return y


def _joined(x: Rows, weight: JoinedMatrix, bias: Tensor | None, kind: str | None, batch_invariant: bool) -> Tensor:
    floats = floats_of(x)
    y = torch.empty((x.shape[0], weight.shape[0]), dtype=x.dtype, device=floats.device)
    for member, start in zip(weight.members, weight.starts, strict=True):
        end = start + member.shape[0]
        own = None if bias is None else bias[start:end]
        if isinstance(member, QuantizedWeight):
            quantized_linear(x, member, own, kind, y[:, start:end])
        else:
            y[:, start:end] = _plain(floats, member, own, kind, batch_invariant)
    return y


def _plain(x: Tensor, weight: CudaWeight, bias: Tensor | None, kind: str | None, batch_invariant: bool) -> Tensor:
    if x.dtype != weight.data.dtype:  # a router in float32 among 16-bit weights
        x = x.to(weight.data.dtype)
    behind = bias is not None or kind is not None or weight.gated
    if len(x) and (batch_invariant or (behind and len(x) <= FEW_ROWS)):
        return product(x, weight, bias, kind, weight.segments if batch_invariant else 1)
    raw = F.linear(x, weight.data)
    if not behind or not len(x):
        return raw if not weight.gated else raw[:, : raw.shape[1] // 2]
    outputs = raw.shape[1] // (2 if weight.gated else 1)
    y = torch.empty((len(x), outputs), dtype=x.dtype, device=x.device) if weight.gated else raw
    block = min(_EPILOGUE_BLOCK, power_of_two(outputs, 16))
    epilogue_kernel[(len(x), triton.cdiv(outputs, block))](
        raw, bias, y, outputs, kind or "none", weight.gated, bias is not None, block, num_warps=4, **OPTIONS
    )
    return y
