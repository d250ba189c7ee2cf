"""Activations and gates on float32 registers."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def sigmoid(x):
    """1 / (1 + exp(-x))."""
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def tanh(x):
    """By one exponential; the absolute error is that of float32."""
    return 1.0 - 2.0 / (tl.exp(2.0 * x) + 1.0)


@triton.jit
def activate(x, KIND: tl.constexpr):
    """The named function of the op table; "none": x."""
    if KIND == "silu":
        x = x * sigmoid(x)
    elif KIND == "gelu":
        x = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    elif KIND == "gelu_tanh":
        x = 0.5 * x * (1.0 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)))
    elif KIND == "relu":
        x = tl.maximum(x, 0.0)
    elif KIND == "relu2":
        x = tl.maximum(x, 0.0) * tl.maximum(x, 0.0)
    elif KIND == "quick_gelu":
        x = x * sigmoid(1.702 * x)
    else:
        tl.static_assert(KIND == "none", "unknown activation")
    return x


@triton.jit
def gate_by(gate, up, KIND: tl.constexpr):
    """KIND(gate) * up, or gpt-oss's swiglu_oai."""
    if KIND == "swiglu_oai":
        y = (tl.minimum(tl.maximum(up, -7.0), 7.0) + 1.0) * activate(tl.minimum(gate, 7.0), "quick_gelu")
    else:
        y = activate(gate, KIND) * up
    return y
