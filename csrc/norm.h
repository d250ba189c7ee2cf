// Norms of rows. Sums run over lanes (element i belongs to lane i mod 16), then over the lanes in a fixed tree.
#pragma once

#include "kernels.h"
#include "rows.h"
#include "simd.h"

namespace flover::FLOVER_ISA {

FLOVER_INLINE float inverse_root(float x) {
  float root;
#if defined(FLOVER_AVX512) || defined(FLOVER_AVX2)
  root = _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(x)));
#else
  root = __builtin_sqrtf(x);
#endif
  return 1.0f / root;
}

static void rms_row(const float* x, const float* weight, int64_t size, float eps, float* y) {
  F16 squares = zero();
  for (int64_t i = 0; i < size; i += LANES) {
    const F16 part = load_first(x + i, (int)least(LANES, size - i));
    squares = fma(part, part, squares);
  }
  const F16 factor = all(inverse_root(sum(squares) / (float)size + eps));
  for (int64_t i = 0; i < size; i += LANES) {
    const int n = (int)least(LANES, size - i);
    store_first(y + i, mul(mul(load_first(x + i, n), factor), load_first(weight + i, n)), n);
  }
}

static void layer_row(const float* x, const float* weight, const float* bias, int64_t size, float eps, float* y) {
  F16 total = zero(), squares = zero();
  for (int64_t i = 0; i < size; i += LANES) total = add(total, load_first(x + i, (int)least(LANES, size - i)));
  const F16 mean = all(sum(total) / (float)size);
  for (int64_t i = 0; i < size; i += LANES) {
    const int n = (int)least(LANES, size - i);
    const F16 part = keep_first(sub(load_first(x + i, n), mean), n, 0.0f);
    squares = fma(part, part, squares);
  }
  const F16 factor = all(inverse_root(sum(squares) / (float)size + eps));
  for (int64_t i = 0; i < size; i += LANES) {
    const int n = (int)least(LANES, size - i);
    const F16 scaled = mul(sub(load_first(x + i, n), mean), factor);
    store_first(y + i, fma(scaled, load_first(weight + i, n), load_first(bias + i, n)), n);
  }
}

static void run(Pool& pool, const Norm& a) {
  over_rows(pool, a.rows, a.size, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; row++) {
      const float* x = a.x + row * a.size;
      if (a.residual) {
        const float* residual = a.residual + row * a.size;
        float* total = a.total + row * a.size;
        for (int64_t i = 0; i < a.size; i++) total[i] = x[i] + residual[i];
        x = total;
      }
      if (a.bias)
        layer_row(x, a.weight, a.bias, a.size, a.eps, a.normed + row * a.size);
      else
        rms_row(x, a.weight, a.size, a.eps, a.normed + row * a.size);
    }
  });
}

static void run(Pool& pool, const HeadNorm& a) {
  const int64_t queries = a.query_parts * a.query_size, keys = a.key_parts * a.key_size;
  over_rows(pool, a.rows, queries + keys, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; row++) {
      float* x = a.x + row * a.stride;
      for (int64_t at = 0; at < queries; at += a.query_size)
        rms_row(x + at, a.query_weight, a.query_size, a.eps, x + at);
      for (int64_t at = queries; at < queries + keys; at += a.key_size)
        rms_row(x + at, a.key_weight, a.key_size, a.eps, x + at);
    }
  });
}

}  // namespace flover::FLOVER_ISA
