// Scores of keys in int8: queries get 8 bits too, with one scale for each token and head, and products are exact sums
// of integers. A byte that is widened would take as long as its four multiply-adds.
#pragma once

#include "bytes.h"

namespace flover::FLOVER_ISA {

// A head's vector in int8: calls put(dimension, number) and returns the scale, not a number if any of them is none.
template <class Put>
FLOVER_INLINE float quantize_head(const float* x, int64_t dim, Put&& put) {
  uint32_t reach_bits = 0;
  for (int64_t i = 0; i < dim; i += LANES) {
    const uint32_t bits = largest_bits(load_first(x + i, (int)least(LANES, dim - i)), zero());
    reach_bits = bits > reach_bits ? bits : reach_bits;
  }
  const bool finite = reach_bits < 0x7f800000;
  const float reach = finite ? float_of(reach_bits) : 0.0f, inverse = reach > 0.0f ? 127.0f / reach : 0.0f;
  for (int64_t start = 0; start < dim; start += LANES) {
    const int n = (int)least(LANES, dim - start);
    int32_t lanes[LANES];
    const F16 values = finite ? load_first(x + start, n) : zero();
    store_int(lanes, to_int(min(all(127.0f), max(all(-127.0f), mul(values, all(inverse))))));
    for (int i = 0; i < n; i++) put(start + i, (int8_t)lanes[i]);
  }
  return finite ? reach / 127.0f : float_of(0x7fc00000);
}

// R queries in int8.
struct ByteQueries {
  const int32_t* x;       // [dim / 4 rounded up][R]: four dimensions each
  const int32_t* starts;  // [R]: what 128 added to every key adds to a product, taken off
  const float* scales;    // [R]
};

// R queries by one panel of 16 keys, dimension d of all of them at keys + d * step: scores before the scales of the
// keys, `stride` apart. `next`: keys of the panel to come.
template <int R>
[[gnu::noinline]] static void score_bytes(ByteQueries queries, const int8_t* keys, int64_t step, const int8_t* next,
                                          int64_t dim, float* scores, int64_t stride) {
  static constexpr int32_t NOTHING[R] = {};
  I16 total[R];
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) total[r] = all_int(0);
  auto more = [&](auto quads) __attribute__((always_inline)) {
    I16 sums[R];
    auto rows = [&](auto s) __attribute__((always_inline)) { return four_rows(keys + 4 * s.value * step, step); };
    dot_steps<quads.value, 8, R>(rows, queries.x, queries.starts, sums);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) total[r] = add(total[r], sums[r]);
    keys += 4 * quads.value * step, queries.x += quads.value * R, queries.starts = NOTHING;
  };
  int64_t d = 0;
  for (; d + 16 <= dim; d += 16) {
#pragma GCC unroll 4
    for (int64_t line = 0; line < 4; line++) prefetch_near(next + d * LANES + line * 64);
    more(Number<4>{});
  }
  for (; d + 4 <= dim; d += 4) more(Number<1>{});
  if (d < dim) {
    int8_t last[4 * LANES] = {};
    for (int64_t i = d; i < dim; i++) memcpy(last + (i - d) * LANES, keys + (i - d) * step, LANES);
    keys = last, step = LANES;
    more(Number<1>{});
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) store(scores + r * stride, mul(to_float(total[r]), all(queries.scales[r])));
}

}  // namespace flover::FLOVER_ISA
