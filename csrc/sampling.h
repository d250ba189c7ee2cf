// The largest logit of rows, and samples of their distributions.
#pragma once

#include <cmath>

#include "choose.h"
#include "norm.h"
#include "vmath.h"

namespace flover::FLOVER_ISA {

// A token less than e^-70 times as likely as the likeliest counts as impossible.
constexpr float LEAST_EXPONENT = -70.0f;

static void argmax_row(float* x, const uint32_t* mask, int64_t size, float* value, int64_t* id) {
  const float never = -__builtin_inff();
  F16 top = all(never), allowed = top, check = zero();
  for (int64_t i = 0; i < size; i += LANES) {
    const int n = (int)least(LANES, size - i);
    F16 part = keep_first(load_first(x + i, n), n, never);
    top = max(part, top);
    check = add(check, not_a_number(part));
    if (!mask) continue;
    const uint32_t bits = mask[i / 32] >> i % 32 & 0xffff;
    if (bits != 0xffff) store_first(x + i, part = keep_bits(part, bits, never), n);
    allowed = max(part, allowed);
  }
  *value = largest(top);
  if (mask) {
    if (sum(check) != 0.0f) *value = __builtin_nanf("");
    if (*value - *value == 0.0f) *value = largest(allowed);
    if (*value - *value != 0.0f) return void(*id = -1);
  }
  if (sum(check) != 0.0f) {
    for (int64_t i = 0; i < size; i++)
      if (x[i] != x[i]) return void((*value = x[i], *id = i));
  }
  for (int64_t i = 0; i < size; i++)
    if (x[i] == *value) return void(*id = i);
}

static void run(Pool& pool, const ArgMax& a) {
  over_rows(pool, a.rows, a.size, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; row++)
      argmax_row(a.logits + row * a.size, a.masks ? a.masks + row * ((a.size + 31) / 32) : nullptr, a.size,
                 a.values + row, a.ids + row);
  });
}

static void run(Pool& pool, const LogSumExp& a) {
  over_rows(pool, a.rows, a.size, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; row++) {
      const float* x = a.logits + row * a.size;
      F16 top = all(-__builtin_inff()), total = zero();
      for (int64_t i = 0; i < a.size; i += LANES) {
        const int n = (int)least(LANES, a.size - i);
        top = max(keep_first(load_first(x + i, n), n, -__builtin_inff()), top);
      }
      const float most = largest(top);
      for (int64_t i = 0; i < a.size; i += LANES) {
        const int n = (int)least(LANES, a.size - i);
        total = add(total, keep_first(exponential(sub(load_first(x + i, n), all(most))), n, 0.0f));
      }
      a.y[row] = (double)most + std::log((double)sum(total));
    }
  });
}

static void run(Pool& pool, const Sample& a) {
  auto body = [&](int64_t row, int worker) {
    const float* logits = a.logits + row * a.size;
    auto* weights = static_cast<float*>(pool.own_scratch(worker, (size_t)round_up(a.size, LANES) * sizeof(float)));
    const F16 best = all(a.best[row]), temperature = all(a.temperature[row]), least_weight = all((float)a.min_p[row]);
    for (int64_t i = 0; i < a.size; i += LANES) {
      const F16 scaled = div(sub(load_first(logits + i, (int)least(LANES, a.size - i)), best), temperature);
      F16 weight = exponential(scaled);
      weight = zero_below(weight, scaled, all(LEAST_EXPONENT));
      store(weights + i, zero_below(weight, weight, least_weight));
    }
    a.ids[row] = choose({logits, weights, a.size, a.top_k[row], a.top_p[row], a.uniform[row]});
  };
  parallel(pool, a.rows, body);
}

}  // namespace flover::FLOVER_ISA
