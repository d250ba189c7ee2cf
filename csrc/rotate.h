// The rotation of a row before it is quantized (weight.h): every block of `rotation` inputs times the Hadamard matrix
// of +1 and -1, in log2(rotation) rounds of additions and subtractions (the fast Walsh-Hadamard transform). In round i
// an input meets the one whose number differs in bit i; the order of the rounds and so the bits are always the same.
#pragma once

#include "dispatch.h"
#include "weight.h"

namespace flover::FLOVER_ISA {

// Lane i and lane i ^ S: their sum in the one without bit S, in the other the first less the second. The products with
// 1 and -1 are exact.
#if defined(FLOVER_AVX512)
template <int S>
FLOVER_INLINE F16 meet(F16 a) {
  __m512 other;
  if constexpr (S == 1) other = _mm512_permute_ps(a.v, 0xb1);
  if constexpr (S == 2) other = _mm512_permute_ps(a.v, 0x4e);
  if constexpr (S == 4) other = _mm512_shuffle_f32x4(a.v, a.v, 0xb1);
  if constexpr (S == 8) other = _mm512_shuffle_f32x4(a.v, a.v, 0x4e);
  constexpr __mmask16 SECOND = S == 1 ? 0xaaaa : S == 2 ? 0xcccc : S == 4 ? 0xf0f0 : 0xff00;
  return {_mm512_fmadd_ps(a.v, _mm512_mask_blend_ps(SECOND, _mm512_set1_ps(1.0f), _mm512_set1_ps(-1.0f)), other)};
}
#elif defined(FLOVER_AVX2)
template <int S>
FLOVER_INLINE __m256 meet_half(__m256 a) {
  __m256 other;
  if constexpr (S == 1) other = _mm256_permute_ps(a, 0xb1);
  if constexpr (S == 2) other = _mm256_permute_ps(a, 0x4e);
  if constexpr (S == 4) other = _mm256_permute2f128_ps(a, a, 1);
  constexpr int SECOND = S == 1 ? 0xaa : S == 2 ? 0xcc : 0xf0;
  return _mm256_fmadd_ps(a, _mm256_blend_ps(_mm256_set1_ps(1.0f), _mm256_set1_ps(-1.0f), SECOND), other);
}
template <int S>
FLOVER_INLINE F16 meet(F16 a) {
  if constexpr (S == 8)
    return {_mm256_add_ps(a.lo, a.hi), _mm256_sub_ps(a.lo, a.hi)};
  else
    return {meet_half<S>(a.lo), meet_half<S>(a.hi)};
}
#elif defined(FLOVER_NEON)
template <int S>
FLOVER_INLINE float32x4_t meet_four(float32x4_t v) {
  static const float SIGNS[4] = {1.0f, S == 1 ? -1.0f : 1.0f, S == 1 ? 1.0f : -1.0f, -1.0f};
  return vfmaq_f32(S == 1 ? vrev64q_f32(v) : vextq_f32(v, v, 2), v, vld1q_f32(SIGNS));
}
template <int S>
FLOVER_INLINE F16 meet(F16 x) {
  if constexpr (S < 4) return FLOVER_FOUR(meet_four<S>, x);
  if constexpr (S == 4) return {vaddq_f32(x.a, x.b), vsubq_f32(x.a, x.b), vaddq_f32(x.c, x.d), vsubq_f32(x.c, x.d)};
  return {vaddq_f32(x.a, x.c), vaddq_f32(x.b, x.d), vsubq_f32(x.a, x.c), vsubq_f32(x.b, x.d)};
}
#else
template <int S>
FLOVER_INLINE F16 meet(F16 a) {
  FLOVER_LANES(F16, i & S ? a.v[i ^ S] - a.v[i] : a.v[i] + a.v[i ^ S]);
}
#endif

// Registers i and i ^ S of COUNT.
template <int COUNT, int S>
FLOVER_INLINE void meet_registers(F16* v) {
  if constexpr (S < COUNT) {
#pragma GCC unroll 8
    for (int i = 0; i < COUNT; i++) {
      if (i & S) continue;
      const F16 first = v[i], second = v[i + S];
      v[i] = add(first, second);
      v[i + S] = sub(first, second);
    }
    meet_registers<COUNT, 2 * S>(v);
  }
}

// One block of SIZE, or 16 / SIZE of them.
template <int SIZE>
FLOVER_INLINE void rotate_registers(F16* v) {
  constexpr int COUNT = SIZE > LANES ? SIZE / LANES : 1;
#pragma GCC unroll 8
  for (int i = 0; i < COUNT; i++) {
    if constexpr (SIZE > 1) v[i] = meet<1>(v[i]);
    if constexpr (SIZE > 2) v[i] = meet<2>(v[i]);
    if constexpr (SIZE > 4) v[i] = meet<4>(v[i]);
    if constexpr (SIZE > 8) v[i] = meet<8>(v[i]);
  }
  meet_registers<COUNT, 1>(v);
}

// The largest magnitude of a row. Numbers that are not finite make it not finite.
struct Extent {
  float absmax;
  bool finite;
};

// x [in] in blocks of SIZE to y, if there is one, padded with zeros to whole registers.
template <int SIZE>
[[gnu::noinline]] static Extent rotate_blocks(const float* x, int64_t in, float* y) {
  constexpr int COUNT = SIZE > LANES ? SIZE / LANES : 1;
  F16 top = zero(), check = zero();
  for (int64_t k = 0; k < in; k += COUNT * LANES) {
    F16 v[COUNT];
#pragma GCC unroll 8
    for (int i = 0; i < COUNT; i++)
      v[i] = COUNT == 1 && in - k < LANES ? load_first(x + k, (int)(in - k)) : load(x + k + i * LANES);
    rotate_registers<SIZE>(v);
#pragma GCC unroll 8
    for (int i = 0; i < COUNT; i++) {
      if (y) store(y + k + i * LANES, v[i]);
      top = max(absolute(v[i]), top);
      check = fma(v[i], zero(), check);
    }
  }
  return {largest(top), sum(check) == 0.0f};
}

FLOVER_INLINE Extent rotate_row(const float* x, int64_t in, int64_t rotation, float* y) {
  Extent extent{};
  dispatch<0, MOST_ROUNDS>(rounds_of(rotation),
                           [&](auto rounds) { extent = rotate_blocks<1 << rounds.value>(x, in, y); });
  return extent;
}

}  // namespace flover::FLOVER_ISA
