// Exponential, tanh, erf and the activations, lane by lane: polynomials in fused multiply-adds, so that every
// instruction set computes the same bits. What is not a number stays not a number.
#pragma once

#include "simd.h"

namespace flover::FLOVER_ISA {

// e^x to 2 units in the last place; below -87.3 the smallest normal numbers, above 88.3 about 2e38. Range reduction by
// ln 2 in two parts and a polynomial of degree 6 (S. Moshier, Cephes, expf).
FLOVER_INLINE F16 exponential(F16 x) {
  x = max(all(-87.33654f), min(all(88.37626f), x));
  const F16 n = round(mul(x, all(1.44269504088896341f)));
  F16 r = fma(n, all(-0.693359375f), x);
  r = fma(n, all(2.12194440e-4f), r);
  F16 p = all(1.9875691500e-4f);
  p = fma(p, r, all(1.3981999507e-3f));
  p = fma(p, r, all(8.3334519073e-3f));
  p = fma(p, r, all(4.1665795894e-2f));
  p = fma(p, r, all(1.6666665459e-1f));
  p = fma(p, r, all(5.0000001201e-1f));
  p = add(fma(p, mul(r, r), r), all(1.0f));
  return mul(p, as_float(shift_left(add(to_int(n), all_int(127)), 23)));
}

FLOVER_INLINE F16 silu(F16 x) { return div(x, add(all(1.0f), exponential(sub(zero(), x)))); }

// tanh x = 1 - 2 / (e^2x + 1)
FLOVER_INLINE F16 tanh(F16 x) { return sub(all(1.0f), div(all(2.0f), add(exponential(add(x, x)), all(1.0f)))); }

// cap * tanh(x / cap)
FLOVER_INLINE F16 softcap(F16 x, F16 cap) { return mul(cap, tanh(div(x, cap))); }

FLOVER_INLINE F16 gelu_tanh(F16 x) {
  const F16 cube = mul(mul(x, x), x);
  const F16 inner = mul(all(0.7978845608028654f), fma(cube, all(0.044715f), x));
  return mul(mul(all(0.5f), x), add(all(1.0f), tanh(inner)));
}

// Rational minimax approximation on [-4, 4], beyond which erf is 1 in float32 (coefficients as in Eigen).
FLOVER_INLINE F16 erf(F16 x) {
  x = max(all(-4.0f), min(all(4.0f), x));
  const F16 s = mul(x, x);
  F16 p = all(-2.72614225801306e-10f);
  p = fma(p, s, all(2.77068142495902e-08f));
  p = fma(p, s, all(-2.10102402082508e-06f));
  p = fma(p, s, all(-5.69250639462346e-05f));
  p = fma(p, s, all(-7.34990630326855e-04f));
  p = fma(p, s, all(-2.95459980854025e-03f));
  p = fma(p, s, all(-1.60960333262415e-02f));
  F16 q = all(-1.45660718464996e-05f);
  q = fma(q, s, all(-2.13374055278905e-04f));
  q = fma(q, s, all(-1.68282697438203e-03f));
  q = fma(q, s, all(-7.37332916720468e-03f));
  q = fma(q, s, all(-1.42647390514189e-02f));
  return div(mul(x, p), q);
}

FLOVER_INLINE F16 gelu(F16 x) { return mul(mul(all(0.5f), x), add(all(1.0f), erf(mul(x, all(0.70710678118654752f))))); }

FLOVER_INLINE F16 relu(F16 x) { return max(zero(), x); }

FLOVER_INLINE F16 relu2(F16 x) { return mul(relu(x), relu(x)); }

FLOVER_INLINE F16 quick_gelu(F16 x) { return div(x, add(all(1.0f), exponential(mul(all(-1.702f), x)))); }

// gpt-oss: (up + 1) * gate * sigmoid(1.702 gate), both bounded by 7.
FLOVER_INLINE F16 swiglu_oai(F16 gate, F16 up) {
  return mul(add(max(all(-7.0f), min(all(7.0f), up)), all(1.0f)), quick_gelu(min(all(7.0f), gate)));
}

FLOVER_INLINE F16 activate(F16 x, Activation kind) {
  switch (kind) {
    case Activation::silu: return silu(x);
    case Activation::gelu: return gelu(x);
    case Activation::gelu_tanh: return gelu_tanh(x);
    case Activation::relu: return relu(x);
    case Activation::relu2: return relu2(x);
    case Activation::quick_gelu: return quick_gelu(x);
    case Activation::swiglu_oai:  // of two numbers: gated weights alone have it
    case Activation::none: return x;
  }
  return x;
}

}  // namespace flover::FLOVER_ISA
