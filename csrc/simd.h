// Sixteen lanes, whatever the machine: one 512-bit register, two 256-bit ones, four of 128 bits, or a loop.
//
// Every kernel is written against these types, and each lane of each function here is one IEEE operation (or one
// exact integer operation). That is why portable, NEON, AVX2 and AVX-512 code give the same bits: the lanes are the
// same, only the registers differ. Nothing here may contract, reassociate or approximate.
//
// The file is compiled once per instruction set, in a namespace of its own; it uses no templates or inline functions
// of the standard library, whose one shared copy could come from the wrong instruction set.
#pragma once

#include <cstdint>
#include <cstring>

#include "halves.h"

#if defined(FLOVER_AVX512) && defined(FLOVER_EMULATED)
#include "emulated_avx512.h"
#elif defined(FLOVER_AVX512) || defined(FLOVER_AVX2)
#include <immintrin.h>
#elif defined(FLOVER_NEON) && defined(FLOVER_EMULATED)
#include "emulated_neon.h"
#elif defined(FLOVER_NEON)
#include <arm_neon.h>
#else
extern "C" float fmaf(float, float, float) noexcept;
extern "C" float nearbyintf(float) noexcept;
#endif

namespace flover::FLOVER_ISA {

#define FLOVER_INLINE [[gnu::always_inline]] static inline
#define FLOVER_INLINE_MEMBER [[gnu::always_inline]] inline

constexpr int LANES = 16;

FLOVER_INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
FLOVER_INLINE int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
FLOVER_INLINE int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }
FLOVER_INLINE void prefetch(const void* p) { __builtin_prefetch(p, 0, 2); }
FLOVER_INLINE void prefetch_near(const void* p) { __builtin_prefetch(p, 0, 3); }  // into the first cache
// One or two rows read panel after panel from front to back. Hardware looks ahead to the end of a page, which is enough
// where a number is a byte; of smaller ones, which take longer to unpack, what comes two pages later is asked for.
// Measured on Zen 5, one row: of 4 bits with superblocks 1.4 to 1.7 times as fast, of others 1.1 to 1.2; of bytes 0.8.
template <int64_t BYTES>
FLOVER_INLINE void fetch_two_pages_on(const uint8_t* p) {
#pragma GCC unroll 8
  for (int64_t i = 0; i < BYTES; i += 64) prefetch(p + 8192 + i);
}

// max(a, b) is a > b ? a : b and min(a, b) is a < b ? a : b: the second operand where one is not a number.

#if defined(FLOVER_AVX512)

struct F16 {
  __m512 v;
};
struct I16 {
  __m512i v;
};
struct Bytes {  // 16 lanes of 4 bytes
  __m512i v;
};

FLOVER_INLINE F16 zero() { return {_mm512_setzero_ps()}; }
FLOVER_INLINE F16 all(float x) { return {_mm512_set1_ps(x)}; }
FLOVER_INLINE F16 load(const float* p) { return {_mm512_loadu_ps(p)}; }
FLOVER_INLINE void store(float* p, F16 a) { _mm512_storeu_ps(p, a.v); }
FLOVER_INLINE F16 load_first(const float* p, int n) { return {_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p)}; }
FLOVER_INLINE void store_first(float* p, F16 a, int n) { _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), a.v); }
FLOVER_INLINE F16 fma(F16 a, F16 b, F16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
FLOVER_INLINE F16 add(F16 a, F16 b) { return {_mm512_add_ps(a.v, b.v)}; }
FLOVER_INLINE F16 sub(F16 a, F16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
FLOVER_INLINE F16 mul(F16 a, F16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
FLOVER_INLINE F16 div(F16 a, F16 b) { return {_mm512_div_ps(a.v, b.v)}; }
FLOVER_INLINE F16 max(F16 a, F16 b) { return {_mm512_max_ps(a.v, b.v)}; }
FLOVER_INLINE F16 min(F16 a, F16 b) { return {_mm512_min_ps(a.v, b.v)}; }
FLOVER_INLINE F16 absolute(F16 a) { return {_mm512_abs_ps(a.v)}; }
FLOVER_INLINE F16 round(F16 a) { return {_mm512_roundscale_ps(a.v, 8)}; }
FLOVER_INLINE F16 to_float(I16 a) { return {_mm512_cvtepi32_ps(a.v)}; }
FLOVER_INLINE I16 to_int(F16 a) { return {_mm512_cvtps_epi32(a.v)}; }
FLOVER_INLINE F16 as_float(I16 a) { return {_mm512_castsi512_ps(a.v)}; }
FLOVER_INLINE I16 shift_left(I16 a, int n) { return {_mm512_slli_epi32(a.v, (unsigned)n)}; }
FLOVER_INLINE I16 add(I16 a, I16 b) { return {_mm512_add_epi32(a.v, b.v)}; }
FLOVER_INLINE I16 all_int(int32_t x) { return {_mm512_set1_epi32(x)}; }
FLOVER_INLINE I16 load_int(const int32_t* p) { return {_mm512_loadu_si512(p)}; }
FLOVER_INLINE void store_int(int32_t* p, I16 a) { _mm512_storeu_si512(p, a.v); }
FLOVER_INLINE void store_i8(int8_t* p, I16 a) { _mm_storeu_si128((__m128i*)p, _mm512_cvtepi32_epi8(a.v)); }
FLOVER_INLINE F16 keep_first(F16 a, int n, float other) {
  return {_mm512_mask_blend_ps((__mmask16)((1u << n) - 1), _mm512_set1_ps(other), a.v)};
}
FLOVER_INLINE F16 skip_first(F16 a, int n, float other) {
  return {_mm512_mask_blend_ps((__mmask16)((1u << n) - 1), a.v, _mm512_set1_ps(other))};
}
FLOVER_INLINE F16 keep_bits(F16 a, uint32_t bits, float other) {
  return {_mm512_mask_blend_ps((__mmask16)bits, _mm512_set1_ps(other), a.v)};
}
FLOVER_INLINE F16 load_bf16(const uint16_t* p) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16))};
}
FLOVER_INLINE F16 load_f16(const uint16_t* p) { return {_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p))}; }
FLOVER_INLINE F16 load_i8(const int8_t* p) {
  return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)))};
}
// Two numbers of 16 bits in each lane: the even ones (low halves) and the odd ones.
FLOVER_INLINE void load_bf16_pairs(const uint16_t* p, F16& even, F16& odd) {
  __m512i raw = _mm512_loadu_si512(p);
  even.v = _mm512_castsi512_ps(_mm512_slli_epi32(raw, 16));
  odd.v = _mm512_castsi512_ps(_mm512_and_si512(raw, _mm512_set1_epi32((int)0xffff0000)));
}
// Number INDEX of the four of 8 bits in each lane, divided as in divided_fp8: moved to the upper byte, then to its
// place.
template <int INDEX>
FLOVER_INLINE F16 load_fp8(const uint8_t* p) {
  const __m512i upper = _mm512_slli_epi32(_mm512_loadu_si512(p), 24 - 8 * INDEX);
  return as_float(I16{_mm512_and_si512(_mm512_srai_epi32(upper, 4), _mm512_set1_epi32((int)0x87f00000))});
}
FLOVER_INLINE void load_f16_pairs(const uint16_t* p, F16& even, F16& odd) {
  __m512i raw = _mm512_loadu_si512(p);
  even.v = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(raw));
  odd.v = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(raw, 16)));
}
FLOVER_INLINE float sum(F16 a) {
  __m256 lo = _mm512_castps512_ps256(a.v);
  __m256 hi = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(a.v), 1));
  __m256 half = _mm256_add_ps(lo, hi);
  __m128 quarter = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  quarter = _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
  return _mm_cvtss_f32(_mm_add_ss(quarter, _mm_movehdup_ps(quarter)));
}

#elif defined(FLOVER_AVX2)

struct F16 {
  __m256 lo, hi;
};
struct I16 {
  __m256i lo, hi;
};
struct Bytes {
  __m256i lo, hi;
};

FLOVER_INLINE __m256i first_mask(int n) {  // of 8 lanes
  const __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), index);
}
FLOVER_INLINE F16 zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
FLOVER_INLINE F16 all(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
FLOVER_INLINE F16 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
FLOVER_INLINE void store(float* p, F16 a) {
  _mm256_storeu_ps(p, a.lo);
  _mm256_storeu_ps(p + 8, a.hi);
}
FLOVER_INLINE F16 load_first(const float* p, int n) {
  return {_mm256_maskload_ps(p, first_mask(n)), _mm256_maskload_ps(p + 8, first_mask(n - 8))};
}
FLOVER_INLINE void store_first(float* p, F16 a, int n) {
  _mm256_maskstore_ps(p, first_mask(n), a.lo);
  _mm256_maskstore_ps(p + 8, first_mask(n - 8), a.hi);
}
FLOVER_INLINE F16 fma(F16 a, F16 b, F16 c) {
  return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
FLOVER_INLINE F16 add(F16 a, F16 b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
FLOVER_INLINE F16 sub(F16 a, F16 b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
FLOVER_INLINE F16 mul(F16 a, F16 b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
FLOVER_INLINE F16 div(F16 a, F16 b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
FLOVER_INLINE F16 max(F16 a, F16 b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
FLOVER_INLINE F16 min(F16 a, F16 b) { return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }
FLOVER_INLINE F16 absolute(F16 a) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, a.lo), _mm256_andnot_ps(sign, a.hi)};
}
FLOVER_INLINE F16 round(F16 a) { return {_mm256_round_ps(a.lo, 8), _mm256_round_ps(a.hi, 8)}; }
FLOVER_INLINE F16 to_float(I16 a) { return {_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)}; }
FLOVER_INLINE I16 to_int(F16 a) { return {_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi)}; }
FLOVER_INLINE F16 as_float(I16 a) { return {_mm256_castsi256_ps(a.lo), _mm256_castsi256_ps(a.hi)}; }
FLOVER_INLINE I16 shift_left(I16 a, int n) { return {_mm256_slli_epi32(a.lo, n), _mm256_slli_epi32(a.hi, n)}; }
FLOVER_INLINE I16 add(I16 a, I16 b) { return {_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)}; }
FLOVER_INLINE I16 all_int(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
FLOVER_INLINE I16 load_int(const int32_t* p) {
  return {_mm256_loadu_si256((const __m256i*)p), _mm256_loadu_si256((const __m256i*)(p + 8))};
}
FLOVER_INLINE void store_int(int32_t* p, I16 a) {
  _mm256_storeu_si256((__m256i*)p, a.lo);
  _mm256_storeu_si256((__m256i*)(p + 8), a.hi);
}
FLOVER_INLINE void store_i8(int8_t* p, I16 a) {          // numbers that have 8 bits
  const __m256i mixed = _mm256_packs_epi32(a.lo, a.hi);  // by halves: 0..3, 8..11 and 4..7, 12..15
  const __m256i halves = _mm256_permute4x64_epi64(mixed, 0xd8);
  _mm_storeu_si128((__m128i*)p, _mm_packs_epi16(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1)));
}
FLOVER_INLINE F16 keep_first(F16 a, int n, float other) {
  const __m256 fill = _mm256_set1_ps(other);
  return {_mm256_blendv_ps(fill, a.lo, _mm256_castsi256_ps(first_mask(n))),
          _mm256_blendv_ps(fill, a.hi, _mm256_castsi256_ps(first_mask(n - 8)))};
}
FLOVER_INLINE F16 skip_first(F16 a, int n, float other) {
  const __m256 fill = _mm256_set1_ps(other);
  return {_mm256_blendv_ps(a.lo, fill, _mm256_castsi256_ps(first_mask(n))),
          _mm256_blendv_ps(a.hi, fill, _mm256_castsi256_ps(first_mask(n - 8)))};
}
FLOVER_INLINE F16 keep_bits(F16 a, uint32_t bits, float other) {
  const __m256 fill = _mm256_set1_ps(other);
  const __m256i all_bits = _mm256_set1_epi32((int)bits), lo = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128),
                hi = _mm256_slli_epi32(lo, 8);
  return {_mm256_blendv_ps(fill, a.lo, _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(all_bits, lo), lo))),
          _mm256_blendv_ps(fill, a.hi, _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(all_bits, hi), hi)))};
}
FLOVER_INLINE __m256 widen_eight(const uint16_t* p) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)), 16));
}
FLOVER_INLINE F16 load_bf16(const uint16_t* p) { return {widen_eight(p), widen_eight(p + 8)}; }
FLOVER_INLINE F16 load_f16(const uint16_t* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)),
          _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(p + 8)))};
}
FLOVER_INLINE F16 load_i8(const int8_t* p) {
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p))),
          _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)(p + 8))))};
}
FLOVER_INLINE void load_bf16_pairs(const uint16_t* p, F16& even, F16& odd) {
  const __m256i lo = _mm256_loadu_si256((const __m256i*)p), hi = _mm256_loadu_si256((const __m256i*)(p + 16));
  const __m256i upper = _mm256_set1_epi32((int)0xffff0000);
  even = {_mm256_castsi256_ps(_mm256_slli_epi32(lo, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(hi, 16))};
  odd = {_mm256_castsi256_ps(_mm256_and_si256(lo, upper)), _mm256_castsi256_ps(_mm256_and_si256(hi, upper))};
}
FLOVER_INLINE __m128i low_halves(__m256i a) {  // 8 lanes of 32 bits, of which the upper 16 are zero
  return _mm_packus_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
}
// Number INDEX of the four of 8 bits in each lane, divided as in divided_fp8: moved to the upper byte, then to its
// place.
template <int INDEX>
FLOVER_INLINE __m256 fp8_of(__m256i quads) {
  const __m256i upper = _mm256_slli_epi32(quads, 24 - 8 * INDEX);
  return _mm256_castsi256_ps(_mm256_and_si256(_mm256_srai_epi32(upper, 4), _mm256_set1_epi32((int)0x87f00000)));
}
template <int INDEX>
FLOVER_INLINE F16 load_fp8(const uint8_t* p) {
  return {fp8_of<INDEX>(_mm256_loadu_si256((const __m256i*)p)),
          fp8_of<INDEX>(_mm256_loadu_si256((const __m256i*)(p + 32)))};
}
FLOVER_INLINE void load_f16_pairs(const uint16_t* p, F16& even, F16& odd) {
  const __m256i lo = _mm256_loadu_si256((const __m256i*)p), hi = _mm256_loadu_si256((const __m256i*)(p + 16));
  const __m256i lower = _mm256_set1_epi32(0xffff);
  even = {_mm256_cvtph_ps(low_halves(_mm256_and_si256(lo, lower))),
          _mm256_cvtph_ps(low_halves(_mm256_and_si256(hi, lower)))};
  odd = {_mm256_cvtph_ps(low_halves(_mm256_srli_epi32(lo, 16))),
         _mm256_cvtph_ps(low_halves(_mm256_srli_epi32(hi, 16)))};
}
FLOVER_INLINE float sum(F16 a) {
  __m256 half = _mm256_add_ps(a.lo, a.hi);
  __m128 quarter = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  quarter = _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
  return _mm_cvtss_f32(_mm_add_ss(quarter, _mm_movehdup_ps(quarter)));
}

#elif defined(FLOVER_NEON)
#include "simd_neon.h"
#else

struct F16 {
  float v[LANES];
};
struct I16 {
  int32_t v[LANES];
};

// The body of a function that gives a value lane by lane.
#define FLOVER_LANES(TYPE, EXPRESSION)                   \
  TYPE r;                                                \
  for (int i = 0; i < LANES; i++) r.v[i] = (EXPRESSION); \
  return r

FLOVER_INLINE F16 zero() { FLOVER_LANES(F16, 0.0f); }
FLOVER_INLINE F16 all(float x) { FLOVER_LANES(F16, x); }
FLOVER_INLINE F16 load(const float* p) { FLOVER_LANES(F16, p[i]); }
FLOVER_INLINE void store(float* p, F16 a) {
  for (int i = 0; i < LANES; i++) p[i] = a.v[i];
}
FLOVER_INLINE F16 load_first(const float* p, int n) { FLOVER_LANES(F16, i < n ? p[i] : 0.0f); }
FLOVER_INLINE void store_first(float* p, F16 a, int n) {
  for (int i = 0; i < n && i < LANES; i++) p[i] = a.v[i];
}
FLOVER_INLINE F16 fma(F16 a, F16 b, F16 c) { FLOVER_LANES(F16, fmaf(a.v[i], b.v[i], c.v[i])); }
FLOVER_INLINE F16 add(F16 a, F16 b) { FLOVER_LANES(F16, a.v[i] + b.v[i]); }
FLOVER_INLINE F16 sub(F16 a, F16 b) { FLOVER_LANES(F16, a.v[i] - b.v[i]); }
FLOVER_INLINE F16 mul(F16 a, F16 b) { FLOVER_LANES(F16, a.v[i] * b.v[i]); }
FLOVER_INLINE F16 div(F16 a, F16 b) { FLOVER_LANES(F16, a.v[i] / b.v[i]); }
FLOVER_INLINE F16 max(F16 a, F16 b) { FLOVER_LANES(F16, a.v[i] > b.v[i] ? a.v[i] : b.v[i]); }
FLOVER_INLINE F16 min(F16 a, F16 b) { FLOVER_LANES(F16, a.v[i] < b.v[i] ? a.v[i] : b.v[i]); }
FLOVER_INLINE F16 absolute(F16 a) { FLOVER_LANES(F16, float_of(bits_of(a.v[i]) & 0x7fffffff)); }
FLOVER_INLINE F16 round(F16 a) { FLOVER_LANES(F16, nearbyintf(a.v[i])); }
FLOVER_INLINE F16 to_float(I16 a) { FLOVER_LANES(F16, (float)a.v[i]); }
FLOVER_INLINE I16 to_int(F16 a) {  // as the vector instructions: what does not fit becomes INT32_MIN
  I16 r;
  for (int i = 0; i < LANES; i++) {
    const float x = nearbyintf(a.v[i]);
    r.v[i] = x >= -2147483648.0f && x < 2147483648.0f ? (int32_t)x : INT32_MIN;
  }
  return r;
}
FLOVER_INLINE F16 as_float(I16 a) { FLOVER_LANES(F16, float_of((uint32_t)a.v[i])); }
FLOVER_INLINE I16 shift_left(I16 a, int n) { FLOVER_LANES(I16, (int32_t)((uint32_t)a.v[i] << n)); }
FLOVER_INLINE I16 add(I16 a, I16 b) { FLOVER_LANES(I16, (int32_t)((uint32_t)a.v[i] + (uint32_t)b.v[i])); }
FLOVER_INLINE I16 all_int(int32_t x) { FLOVER_LANES(I16, x); }
FLOVER_INLINE I16 load_int(const int32_t* p) { FLOVER_LANES(I16, p[i]); }
FLOVER_INLINE void store_int(int32_t* p, I16 a) {
  for (int i = 0; i < LANES; i++) p[i] = a.v[i];
}
FLOVER_INLINE void store_i8(int8_t* p, I16 a) {
  for (int i = 0; i < LANES; i++) p[i] = (int8_t)a.v[i];
}
FLOVER_INLINE F16 keep_first(F16 a, int n, float other) { FLOVER_LANES(F16, i < n ? a.v[i] : other); }
FLOVER_INLINE F16 skip_first(F16 a, int n, float other) { FLOVER_LANES(F16, i < n ? other : a.v[i]); }
FLOVER_INLINE F16 keep_bits(F16 a, uint32_t bits, float other) { FLOVER_LANES(F16, bits >> i & 1 ? a.v[i] : other); }
FLOVER_INLINE F16 load_bf16(const uint16_t* p) { FLOVER_LANES(F16, widen_bf16(p[i])); }
FLOVER_INLINE F16 load_f16(const uint16_t* p) { FLOVER_LANES(F16, widen_f16(p[i])); }
FLOVER_INLINE F16 load_i8(const int8_t* p) { FLOVER_LANES(F16, (float)p[i]); }
FLOVER_INLINE void load_bf16_pairs(const uint16_t* p, F16& even, F16& odd) {
  for (int i = 0; i < LANES; i++) {
    even.v[i] = widen_bf16(p[2 * i]);
    odd.v[i] = widen_bf16(p[2 * i + 1]);
  }
}
template <int INDEX>
FLOVER_INLINE F16 load_fp8(const uint8_t* p) {  // divided as in divided_fp8
  FLOVER_LANES(F16, divided_fp8(p[i * 4 + INDEX]));
}
FLOVER_INLINE void load_f16_pairs(const uint16_t* p, F16& even, F16& odd) {
  for (int i = 0; i < LANES; i++) {
    even.v[i] = widen_f16(p[2 * i]);
    odd.v[i] = widen_f16(p[2 * i + 1]);
  }
}
FLOVER_INLINE float sum(F16 a) {
  for (int width = LANES / 2; width; width /= 2)
    for (int i = 0; i < width; i++) a.v[i] += a.v[i + width];
  return a.v[0];
}

#endif

#if !defined(FLOVER_NEON)
// 1 in the lanes that hold no number, 0 in the others.
FLOVER_INLINE F16 not_a_number(F16 a) {
#if defined(FLOVER_AVX512)
  return {_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q), _mm512_set1_ps(1.0f))};
#elif defined(FLOVER_AVX2)
  const __m256 one = _mm256_set1_ps(1.0f);
  return {_mm256_and_ps(_mm256_cmp_ps(a.lo, a.lo, _CMP_UNORD_Q), one),
          _mm256_and_ps(_mm256_cmp_ps(a.hi, a.hi, _CMP_UNORD_Q), one)};
#else
  for (int i = 0; i < LANES; i++) a.v[i] = a.v[i] != a.v[i] ? 1.0f : 0.0f;
  return a;
#endif
}

// a, but 0 where b < limit.
FLOVER_INLINE F16 zero_below(F16 a, F16 b, F16 limit) {
#if defined(FLOVER_AVX512)
  return {_mm512_mask_mov_ps(a.v, _mm512_cmp_ps_mask(b.v, limit.v, _CMP_LT_OQ), _mm512_setzero_ps())};
#elif defined(FLOVER_AVX2)
  return {_mm256_andnot_ps(_mm256_cmp_ps(b.lo, limit.lo, _CMP_LT_OQ), a.lo),
          _mm256_andnot_ps(_mm256_cmp_ps(b.hi, limit.hi, _CMP_LT_OQ), a.hi)};
#else
  for (int i = 0; i < LANES; i++) a.v[i] = b.v[i] < limit.v[i] ? 0.0f : a.v[i];
  return a;
#endif
}

FLOVER_INLINE float largest(F16 a) {  // of numbers; any order gives the same
#if defined(FLOVER_AVX512)
  return _mm512_reduce_max_ps(a.v);
#elif defined(FLOVER_AVX2)
  const __m256 half = _mm256_max_ps(a.lo, a.hi);
  __m128 quarter = _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  quarter = _mm_max_ps(quarter, _mm_movehl_ps(quarter, quarter));
  return _mm_cvtss_f32(_mm_max_ss(quarter, _mm_movehdup_ps(quarter)));
#else
  float best = a.v[0];
  for (int i = 1; i < LANES; i++) best = a.v[i] > best ? a.v[i] : best;
  return best;
#endif
}

// The largest magnitude of two times 16 numbers, as bits: above those of any number where one is not finite.
FLOVER_INLINE uint32_t largest_bits(F16 a, F16 b) {
#if defined(FLOVER_AVX512)
  const __m512i bits = _mm512_max_epi32(_mm512_castps_si512(absolute(a).v), _mm512_castps_si512(absolute(b).v));
  return (uint32_t)_mm512_reduce_max_epi32(bits);
#elif defined(FLOVER_AVX2)
  const F16 x = absolute(a), y = absolute(b);
  const __m256i lo = _mm256_max_epi32(_mm256_castps_si256(x.lo), _mm256_castps_si256(x.hi));
  const __m256i half = _mm256_max_epi32(lo, _mm256_max_epi32(_mm256_castps_si256(y.lo), _mm256_castps_si256(y.hi)));
  __m128i quarter = _mm_max_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
  quarter = _mm_max_epi32(quarter, _mm_shuffle_epi32(quarter, 0x4e));
  return (uint32_t)_mm_cvtsi128_si32(_mm_max_epi32(quarter, _mm_shuffle_epi32(quarter, 0xb1)));
#else
  uint32_t best = 0;
  for (int i = 0; i < LANES; i++) {
    const uint32_t x = bits_of(a.v[i]) & 0x7fffffff, y = bits_of(b.v[i]) & 0x7fffffff;
    best = x > best ? x : best;
    best = y > best ? y : best;
  }
  return best;
#endif
}

#endif

FLOVER_INLINE float fma_one(float a, float b, float c) {
#if defined(FLOVER_AVX512) || defined(FLOVER_AVX2) || defined(FLOVER_EMULATED)
  return _mm_cvtss_f32(_mm_fmadd_ss(_mm_set_ss(a), _mm_set_ss(b), _mm_set_ss(c)));
#else
  return __builtin_fmaf(a, b, c);
#endif
}

}  // namespace flover::FLOVER_ISA
