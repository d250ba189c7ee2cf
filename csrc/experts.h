// Mixtures of experts: which experts a token has, and the sum of what they give (their linears are in linears.h). A
// row's experts' results are added in the order in which it chose them: nothing depends on the other rows.
#pragma once

#include "rows.h"
#include "vmath.h"

namespace flover::FLOVER_ISA {

// What is not a number comes last.
FLOVER_INLINE float rank_of(float score) { return score == score ? score : -__builtin_inff(); }

// The best experts, in the order of falling scores and, where these are equal, rising indices.
static void choose_experts(const float* scores, int64_t experts, int64_t chosen, int32_t* ids) {
  for (int64_t e = 0; e < experts; e++) {
    const float rank = rank_of(scores[e]);
    int64_t place = least(e, chosen);
    while (place > 0 && rank > rank_of(scores[ids[place - 1]])) place--;
    if (place == chosen) continue;
    for (int64_t i = least(e, chosen - 1); i > place; i--) ids[i] = ids[i - 1];
    ids[place] = (int32_t)e;
  }
}

// e^(x - top) of n numbers, in place unless y is null; returns their sum, lane by lane and then through a fixed tree.
FLOVER_INLINE float exponentials(const float* x, int64_t n, float top, float* y) {
  F16 total = zero();
  for (int64_t i = 0; i < n; i += LANES) {
    const int valid = (int)least(LANES, n - i);
    const F16 power = keep_first(exponential(sub(load_first(x + i, valid), all(top))), valid, 0.0f);
    total = add(total, power);
    if (y) store_first(y + i, power, valid);
  }
  return sum(total);
}

static void run(Pool& pool, const Route& a) {
  over_rows(pool, a.rows, a.experts * a.chosen, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; row++) {
      const float* scores = a.scores + row * a.experts;
      int32_t* ids = a.ids + row * a.chosen;
      float* weights = a.weights + row * a.chosen;
      choose_experts(scores, a.experts, a.chosen, ids);
      for (int64_t i = 0; i < a.chosen; i++) weights[i] = scores[ids[i]];
      const float top = weights[0], of_all = a.normalized ? 0.0f : exponentials(scores, a.experts, top, nullptr);
      const float of_chosen = exponentials(weights, a.chosen, top, weights);
      for (int64_t i = 0; i < a.chosen; i++) weights[i] /= a.normalized ? of_chosen : of_all;
    }
  });
}

static void run(Pool& pool, const ExpertSum& a) {
  over_rows(pool, a.rows, a.chosen * a.size, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; row++) {
      const float* x = a.x + row * a.chosen * a.size;
      const float* weights = a.weights + row * a.chosen;
      const int32_t* ids = a.ids + row * a.chosen;
      for (int64_t i = 0; i < a.size; i += LANES) {
        const int valid = (int)least(LANES, a.size - i);
        auto given = [&](int64_t c) {
          const F16 value = load_first(x + c * a.size + i, valid);
          return a.bias ? add(value, load_first(a.bias + ids[c] * a.size + i, valid)) : value;
        };
        F16 total = mul(given(0), all(weights[0]));
        for (int64_t c = 1; c < a.chosen; c++) total = fma(given(c), all(weights[c]), total);
        store_first(a.y + row * a.size + i, total, valid);
      }
    }
  });
}

static void run(Pool& pool, const AddGated& a) {
  over_rows(pool, a.rows, a.size, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; row++) {
      const F16 share = div(all(1.0f), add(all(1.0f), exponential(all(-a.gate[row]))));
      for (int64_t i = row * a.size; i < (row + 1) * a.size; i += LANES) {
        const int valid = (int)least(LANES, (row + 1) * a.size - i);
        store_first(a.y + i, fma(load_first(a.b + i, valid), share, load_first(a.a + i, valid)), valid);
      }
    }
  });
}

}  // namespace flover::FLOVER_ISA
