// AVX-512 as SIMDe computes it from AVX2 (github.com/simd-everywhere/simde, 0.7.4), with what it lacks: to run the
// kernels of machines that have it on others and compare bits (CMakeLists.txt, tests/isa).
#pragma once

#ifndef __FMA__
#error "compile with -mfma: elsewhere SIMDe rounds a fused multiply-add twice"
#endif
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <immintrin.h>
#include <simde/x86/avx512.h>

namespace flover::emulated {

template <class To, class From>
static inline To same_bits(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}
template <class T, int N>
struct Array {
  T v[N];
};
template <class Register, class T>
static inline Array<T, sizeof(Register) / sizeof(T)> lanes_of(const Register& a) {
  return same_bits<Array<T, sizeof(Register) / sizeof(T)>>(a);
}
// Every lane of a register converted to another type.
template <class To, class ToLane, class FromLane, class From, class Function>
static inline To each(const From& from, Function&& function) {
  const auto lanes = lanes_of<From, FromLane>(from);
  Array<ToLane, sizeof(To) / sizeof(ToLane)> result;
  for (size_t i = 0; i < sizeof(To) / sizeof(ToLane); i++) result.v[i] = function(lanes.v[i]);
  return same_bits<To>(result);
}

static inline __m256i narrow_16(__m512i a) {
  return each<__m256i, int16_t, int32_t>(a, [](int32_t x) { return (int16_t)x; });
}
static inline __m128i narrow_8(__m512i a) {
  return each<__m128i, int8_t, int32_t>(a, [](int32_t x) { return (int8_t)x; });
}
static inline __m512 to_floats(__m512i a) {
  return each<__m512, float, int32_t>(a, [](int32_t x) { return (float)x; });
}
static inline __m512i widen_signed(__m128i a) {
  return each<__m512i, int32_t, int8_t>(a, [](int8_t x) { return (int32_t)x; });
}
static inline __m512i widen_unsigned(__m256i a) {
  return each<__m512i, uint32_t, uint16_t>(a, [](uint16_t x) { return (uint32_t)x; });
}
static inline __m512 widen_halves(__m256i a) {
  return each<__m512, float, uint16_t>(a, [](uint16_t x) { return widen_f16(x); });
}
static inline __m512i to_integers(__m512 a) {
  return each<__m512i, int32_t, float>(a, [](float x) {
    const float nearest = __builtin_nearbyintf(x);
    return nearest >= -2147483648.0f && nearest < 2147483648.0f ? (int32_t)nearest : INT32_MIN;
  });
}
static inline __m512i shift_signed(__m512i a, unsigned n) {
  return each<__m512i, int32_t, int32_t>(a, [n](int32_t x) { return x >> (n > 31 ? 31 : n); });
}
static inline void store_some(float* p, __mmask16 mask, __m512 a) {
  const auto lanes = lanes_of<__m512, float>(a);
  for (int i = 0; i < 16; i++)
    if (mask >> i & 1) p[i] = lanes.v[i];
}
static inline __m512 load_some(__mmask16 mask, const float* p) {
  Array<float, 16> lanes;
  for (int i = 0; i < 16; i++) lanes.v[i] = mask >> i & 1 ? p[i] : 0.0f;
  return same_bits<__m512>(lanes);
}
static inline __m512 permute(__m512 a, int order) {
  const auto lanes = lanes_of<__m512, float>(a);
  Array<float, 16> result;
  for (int i = 0; i < 16; i++) result.v[i] = lanes.v[i / 4 * 4 + (order >> 2 * (i % 4) & 3)];
  return same_bits<__m512>(result);
}
template <class T, class Register>
static inline T largest_of(const Register& a) {
  const auto lanes = lanes_of<Register, T>(a);
  T best = lanes.v[0];
  for (const T x : lanes.v) best = x > best ? x : best;
  return best;
}

}  // namespace flover::emulated

#define _mm512_shuffle_f32x4(a, b, order) simde_mm512_shuffle_f32x4(a, b, order)
#define _mm512_cvtepi32_epi16(a) flover::emulated::narrow_16(a)
#define _mm512_cvtepi32_epi8(a) flover::emulated::narrow_8(a)
#define _mm512_cvtepi32_ps(a) flover::emulated::to_floats(a)
#define _mm512_cvtepi8_epi32(a) flover::emulated::widen_signed(a)
#define _mm512_cvtepu16_epi32(a) flover::emulated::widen_unsigned(a)
#define _mm512_cvtph_ps(a) flover::emulated::widen_halves(a)
#define _mm512_cvtps_epi32(a) flover::emulated::to_integers(a)
#undef _mm512_srai_epi32
#define _mm512_srai_epi32(a, n) flover::emulated::shift_signed(a, n)
#define _mm512_mask_storeu_ps(p, mask, a) flover::emulated::store_some(p, mask, a)
#define _mm512_maskz_loadu_ps(mask, p) flover::emulated::load_some(mask, p)
#undef _mm512_permute_ps
#define _mm512_permute_ps(a, order) flover::emulated::permute(a, order)
#define _mm512_reduce_max_ps(a) flover::emulated::largest_of<float>(a)
#define _mm512_reduce_max_epi32(a) flover::emulated::largest_of<int32_t>(a)
