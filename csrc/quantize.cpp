#include "quantize.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "halves.h"

namespace flover {

namespace {

// The same arithmetic with wider registers where there are any. (The sanitizers start too late for such functions.)
#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__)
#define FLOVER_CLONES [[gnu::target_clones("avx2", "default"), gnu::flatten]]
#else
#define FLOVER_CLONES
#endif

// Nobody outside calls what takes these vectors: which registers pass them does not matter.
#pragma GCC diagnostic ignored "-Wpsabi"

// Eight numbers at once, in the widest registers there are: lane by lane, so that the width changes no bit.
using Wide = float __attribute__((vector_size(32)));
constexpr int WIDE = 8;

[[gnu::always_inline]] inline Wide load_wide(const float* p) {
  Wide v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
[[gnu::always_inline]] inline Wide smaller(Wide a, Wide b) { return a < b ? a : b; }
[[gnu::always_inline]] inline Wide larger(Wide a, Wide b) { return a > b ? a : b; }

struct Fit {
  float error = 0, q = 0, qq = 0, w = 0, qw = 0;  // sums over a group
};

// q = round((w - offset) / scale) in 0..15. Adding and taking 2^23 rounds to nearest even.
[[gnu::always_inline]] inline Wide quantize(Wide values, float offset, float inverse) {
  const Wide q = smaller(larger((values - offset) * inverse, Wide{}), Wide{} + 15.0f);
  return (q + 8388608.0f) - 8388608.0f;
}

float inverse_of(Affine a) { return a.scale == 0.0f ? 0.0f : 1.0f / a.scale; }

[[gnu::always_inline]] inline float sum_of(Wide a) {
  return ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]));
}

// The squared error of a group.
[[gnu::always_inline]] inline float error_of(const float* values, Affine a) {
  Wide error{};
  const float inverse = inverse_of(a);
  for (int i = 0; i < GROUP; i += WIDE) {
    const Wide value = load_wide(values + i);
    const Wide gap = a.scale * quantize(value, a.offset, inverse) + a.offset - value;
    error += gap * gap;
  }
  return sum_of(error);
}

[[gnu::always_inline]] inline Fit fit_of(const float* values, Affine a) {
  Wide error{}, q_sum{}, qq{}, w{}, qw{};
  const float inverse = inverse_of(a);
  for (int i = 0; i < GROUP; i += WIDE) {
    const Wide value = load_wide(values + i), q = quantize(value, a.offset, inverse);
    const Wide gap = a.scale * q + a.offset - value;
    error += gap * gap, q_sum += q, qq += q * q, w += value, qw += q * value;
  }
  return {sum_of(error), sum_of(q_sum), sum_of(qq), sum_of(w), sum_of(qw)};
}

constexpr float CUT_OFF[] = {0.0f, 0.05f, 0.1f};  // shares of the range

Affine in_halves(Affine a) { return {widen_f16(narrow_f16(a.scale)), widen_f16(narrow_f16(a.offset))}; }

// Least squares for scale and offset given how the values are rounded now.
Affine refit(const Fit& f, Affine a) {
  const float spread = GROUP * f.qq - f.q * f.q;
  if (spread <= 0) return a;
  const float scale = (GROUP * f.qw - f.q * f.w) / spread;
  return in_halves({scale, (f.w - scale * f.q) / GROUP});
}

// One round of the rotation within eight numbers (rotate.h): of those whose numbers differ in one bit.
[[gnu::always_inline]] inline void meet(Wide& a, int bit) {
  using Lanes = int32_t __attribute__((vector_size(32)));
  Lanes other{};
  Wide sign{};
  for (int i = 0; i < WIDE; i++) other[i] = i ^ bit, sign[i] = i & bit ? -1.0f : 1.0f;
  a = a * sign + __builtin_shuffle(a, other);
}

}  // namespace

FLOVER_CLONES Affine fit(const float* values) {
  Wide lows = load_wide(values), highs = lows;
  for (int i = WIDE; i < GROUP; i += WIDE)
    lows = smaller(lows, load_wide(values + i)), highs = larger(highs, load_wide(values + i));
  float low = lows[0], high = highs[0];
  for (int j = 1; j < WIDE; j++) low = std::min(low, lows[j]), high = std::max(high, highs[j]);
  Affine best{0.0f, widen_f16(narrow_f16((high + low) / 2))};
  if (high == low) return best;
  Affine a{};
  float least = std::numeric_limits<float>::infinity();
  for (const float below : CUT_OFF)
    for (const float above : CUT_OFF) {
      const Affine range{(high - low) * (1 - below - above) / 15, low + (high - low) * below};
      const float error = error_of(values, range);
      if (error < least) least = error, a = range;
    }
  a = in_halves(a);
  least = std::numeric_limits<float>::infinity();
  for (int turn = 0; turn < 3; turn++) {
    const Fit fit = fit_of(values, a);
    if (fit.error < least) least = fit.error, best = a;
    a = refit(fit, a);
  }
  return best;
}

FLOVER_CLONES void quantize_int4(const float* values, Affine a, uint8_t* out) {
  const float inverse = inverse_of(a);
  for (int i = 0; i < GROUP; i += WIDE) {
    const Wide q = quantize(load_wide(values + i), a.offset, inverse);
    for (int j = 0; j < WIDE; j++) out[i + j] = (uint8_t)(int)q[j];
  }
}

FLOVER_CLONES float int8_scale(const float* values, int64_t in) {
  float largest[8] = {}, four[2] = {};
  auto take = [&](const float* v) {
    float a[8];
    for (int i = 0; i < 8; i++) a[i] = std::fabs(v[i]);
    for (int i = 0; i < 8; i++) largest[i] = largest[i] > a[i] ? largest[i] : a[i];
    four[0] = std::max(four[0], (a[0] + a[1]) + (a[4] + a[5]));
    four[1] = std::max(four[1], (a[2] + a[3]) + (a[6] + a[7]));
  };
  int64_t k = 0;
  for (; k + 8 <= in; k += 8) take(values + k);
  if (k < in) {
    float rest[8] = {};
    std::copy(values + k, values + in, rest);
    take(rest);
  }
  return std::max(*std::max_element(largest, largest + 8) / 127, std::max(four[0], four[1]) / 253.9f);
}

FLOVER_CLONES Magnitudes quantize_int8(const float* values, int64_t in, float scale, int8_t* out) {
  if (!(scale > 0)) return {};
  int32_t sum = 0, magnitudes = 0;
  for (int64_t k = 0; k < in; k++) {
    const float q = (values[k] / scale + 12582912.0f) - 12582912.0f;  // 1.5 * 2^23
    const auto rounded = (int32_t)std::min(std::max(q, -127.0f), 127.0f);
    out[k] = (int8_t)rounded;
    sum += rounded, magnitudes += std::abs(rounded);
  }
  return {(magnitudes + sum) / 2, (magnitudes - sum) / 2};
}

FLOVER_CLONES void rotate(float* values, int64_t count, int64_t rotation, float factor) {
  for (int64_t k = 0; k + WIDE <= count && rotation >= WIDE; k += WIDE) {
    Wide rotated = load_wide(values + k) * factor;
    for (const int bit : {1, 2, 4}) meet(rotated, bit);
    std::memcpy(values + k, &rotated, sizeof rotated);
  }
  for (int64_t step = rotation >= WIDE ? WIDE : 1; step < rotation; step *= 2)
    for (int64_t k = 0; k < count; k += 2 * step)
      for (int64_t i = k; i < k + step; i++) {
        const float first = values[i], second = values[i + step];
        values[i] = first + second, values[i + step] = first - second;
      }
  if (rotation > 1 && rotation < WIDE)
    for (int64_t k = 0; k < count; k++) values[k] *= factor;
}

}  // namespace flover
