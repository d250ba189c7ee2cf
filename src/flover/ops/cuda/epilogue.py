"""What comes behind the sums of a product, on float32 registers."""

from __future__ import annotations

import triton
import triton.language as tl

from flover.ops.cuda.activation import activate, gate_by


@triton.jit
def finish(total, up_total, bias, out, outputs, KIND: tl.constexpr, GATED: tl.constexpr, HAS_BIAS: tl.constexpr):
    """Bias, activation and gate behind sums [rows, outputs]; `up_total` are those of the outputs behind the gates."""
    if HAS_BIAS:
        total += tl.load(bias + out, out < outputs, other=0.0).to(tl.float32)[None, :]
    if GATED:
        if HAS_BIAS:
            up_total += tl.load(bias + outputs + out, out < outputs, other=0.0).to(tl.float32)[None, :]
        total = gate_by(total, up_total, KIND)
    else:
        total = activate(total, KIND)
    return total
