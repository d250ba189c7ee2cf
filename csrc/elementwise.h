// Operations on each number by itself.
#pragma once

#include <cmath>

#include "norm.h"
#include "vmath.h"

namespace flover::FLOVER_ISA {

static void run(Pool&, const Angles& a) {
  for (int64_t row = 0; row < a.rows; row++)
    for (int64_t i = 0; i < a.count; i++) {
      const float angle = (float)a.positions[row] * a.frequencies[i];
      a.cos[row * a.count + i] = (float)std::cos((double)angle) * a.factor;
      a.sin[row * a.count + i] = (float)std::sin((double)angle) * a.factor;
    }
}

static void run(Pool&, const Add& a) {
  for (int64_t row = 0; row < a.rows; row++)
    for (int64_t i = 0; i < a.size; i++) a.y[row * a.size + i] = a.a[row * a.size + i] + a.b[row * a.b_stride + i];
}

static void run(Pool& pool, const SoftCap& a) {
  over_rows(pool, a.rows, a.size, [&](int64_t first, int64_t last) {
    for (int64_t i = first * a.size; i < last * a.size; i += LANES) {
      const int n = (int)least(LANES, last * a.size - i);
      store_first(a.x + i, softcap(load_first(a.x + i, n), all(a.cap)), n);
    }
  });
}

}  // namespace flover::FLOVER_ISA
