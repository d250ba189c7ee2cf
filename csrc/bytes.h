// Registers of 64 bytes, and exact products of bytes: 16 lanes of four, summed by lane.
#pragma once

#include "dispatch.h"
#include "kernels.h"

namespace flover::FLOVER_ISA {

// One step of int8: 4 products per lane, added to 16 sums. Instructions multiply numbers with and without sign. AVX-512
// takes activations as x + 128, without sign; AVX2 moves the sign of the weights to the activations, -1 - x for -x, and
// adds the products of two steps in 16 bits: weights are stored so that they fit (weight.h). The sums start with what
// that adds too much or too little, and the result is exact.
#if defined(FLOVER_AVX512)
constexpr int32_t ACTIVATION_ZERO = 128;
constexpr SumsKind SUMS_KIND = EXCESS;
struct Quad {
  __m512i x;
};
FLOVER_INLINE Quad quad(int32_t x) { return {_mm512_set1_epi32(x)}; }
FLOVER_INLINE Bytes load_bytes(const uint8_t* p) { return {_mm512_loadu_si512(p)}; }
FLOVER_INLINE void store_bytes(uint8_t* p, Bytes a) { _mm512_storeu_si512(p, a.v); }
FLOVER_INLINE I16 dot(Bytes w, Quad x, I16 sums) { return {_mm512_dpbusd_epi32(sums.v, x.x, w.v)}; }
FLOVER_INLINE I16 dot_two(Bytes w, Bytes w_next, Quad x, Quad x_next, I16 sums) {
  return dot(w_next, x_next, dot(w, x, sums));
}

// Each byte shifted to the right (less than 0: to the left) and masked.
template <int RIGHT, int MASK>
FLOVER_INLINE Bytes moved(Bytes a) {
  __m512i v = a.v;
  if constexpr (RIGHT > 0) v = _mm512_srli_epi16(v, RIGHT);
  if constexpr (RIGHT < 0) v = _mm512_slli_epi16(v, -RIGHT);
  return {_mm512_and_si512(v, _mm512_set1_epi8((char)MASK))};
}
FLOVER_INLINE Bytes either(Bytes a, Bytes b) { return {_mm512_or_si512(a.v, b.v)}; }
FLOVER_INLINE Bytes look_up(Bytes index, const uint8_t* table) {  // of 16 bytes
  return {_mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i*)table)), index.v)};
}

// sums[r] = starts[r] + the products of R rows x [steps][R] with the steps step(Number<s>), numbers of BITS bits
// without sign.
template <int STEP_COUNT, int BITS, int R, class Step>
FLOVER_INLINE void dot_steps(Step&& step, const int32_t* x, const int32_t* starts, I16* sums) {
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) sums[r] = all_int(starts[r]);
  repeat<STEP_COUNT>([&](auto s) __attribute__((always_inline)) {
    const Bytes w = step(s);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) sums[r].v = _mm512_dpbusd_epi32(sums[r].v, w.v, _mm512_set1_epi32(x[s.value * R + r]));
  });
}
// The same with the steps step(Number<s>, p) of two panels.
template <int STEP_COUNT, int R, class Step>
FLOVER_INLINE void dot_steps_of_two(Step&& step, const int32_t* x, const int32_t* starts, I16 (&sums)[R][2]) {
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) sums[r][0] = sums[r][1] = all_int(starts[r]);
  repeat<STEP_COUNT>([&](auto s) __attribute__((always_inline)) {
    const Bytes w = step(s, 0), other = step(s, 1);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      const __m512i a = _mm512_set1_epi32(x[s.value * R + r]);
      sums[r][0].v = _mm512_dpbusd_epi32(sums[r][0].v, w.v, a);
      sums[r][1].v = _mm512_dpbusd_epi32(sums[r][1].v, other.v, a);
    }
  });
}
#elif defined(FLOVER_AVX2)
constexpr int32_t ACTIVATION_ZERO = 0;
constexpr SumsKind SUMS_KIND = NEGATIVES;
struct Quad {
  __m256i x;
};
FLOVER_INLINE Quad quad(int32_t x) { return {_mm256_set1_epi32(x)}; }
FLOVER_INLINE Bytes load_bytes(const uint8_t* p) {
  return {_mm256_loadu_si256((const __m256i*)p), _mm256_loadu_si256((const __m256i*)(p + 32))};
}
FLOVER_INLINE void store_bytes(uint8_t* p, Bytes a) {
  _mm256_storeu_si256((__m256i*)p, a.lo);
  _mm256_storeu_si256((__m256i*)(p + 32), a.hi);
}
FLOVER_INLINE __m256i products(__m256i w, __m256i x) {  // of the magnitude of w with x, or -1 - x where w is negative
  const __m256i flip = _mm256_cmpgt_epi8(_mm256_setzero_si256(), w);
  return _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_xor_si256(x, flip));
}
FLOVER_INLINE __m256i dot_half(__m256i w, __m256i x, __m256i sums) {
  return _mm256_add_epi32(sums, _mm256_madd_epi16(products(w, x), _mm256_set1_epi16(1)));
}
FLOVER_INLINE I16 dot(Bytes w, Quad x, I16 sums) {
  return {dot_half(w.lo, x.x, sums.lo), dot_half(w.hi, x.x, sums.hi)};
}
FLOVER_INLINE __m256i dot_two_halves(__m256i w, __m256i w_next, __m256i x, __m256i x_next, __m256i sums) {
  const __m256i both = _mm256_add_epi16(products(w, x), products(w_next, x_next));
  return _mm256_add_epi32(sums, _mm256_madd_epi16(both, _mm256_set1_epi16(1)));
}
FLOVER_INLINE I16 dot_two(Bytes w, Bytes w_next, Quad x, Quad x_next, I16 sums) {
  return {dot_two_halves(w.lo, w_next.lo, x.x, x_next.x, sums.lo),
          dot_two_halves(w.hi, w_next.hi, x.x, x_next.x, sums.hi)};
}

template <int RIGHT, int MASK>
FLOVER_INLINE __m256i moved_half(__m256i v) {
  if constexpr (RIGHT > 0) v = _mm256_srli_epi16(v, RIGHT);
  if constexpr (RIGHT < 0) v = _mm256_slli_epi16(v, -RIGHT);
  return _mm256_and_si256(v, _mm256_set1_epi8((char)MASK));
}
template <int RIGHT, int MASK>
FLOVER_INLINE Bytes moved(Bytes a) {
  return {moved_half<RIGHT, MASK>(a.lo), moved_half<RIGHT, MASK>(a.hi)};
}
FLOVER_INLINE Bytes either(Bytes a, Bytes b) { return {_mm256_or_si256(a.lo, b.lo), _mm256_or_si256(a.hi, b.hi)}; }
FLOVER_INLINE Bytes look_up(Bytes index, const uint8_t* table) {
  const __m256i wide = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)table));
  return {_mm256_shuffle_epi8(wide, index.lo), _mm256_shuffle_epi8(wide, index.hi)};
}

// Pairs of products are added in 16 bits as long as they fit: 8 steps of 4 bits, 4 of 5, 2 of 6.
template <int STEP_COUNT, int BITS, int R, class Step>
FLOVER_INLINE void dot_few_bits(Step&& step, const int32_t* x, const int32_t* starts, I16* sums) {
  constexpr int TOGETHER = BITS <= 4 ? 8 : BITS == 5 ? 4 : 2;
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i lo[R], hi[R];
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) sums[r] = all_int(starts[r]);
  repeat<STEP_COUNT>([&](auto s) __attribute__((always_inline)) {
    const Bytes w = step(s);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      const __m256i a = _mm256_set1_epi32(x[s.value * R + r]);
      const __m256i low = _mm256_maddubs_epi16(w.lo, a), high = _mm256_maddubs_epi16(w.hi, a);
      const bool first = s.value % TOGETHER == 0;
      lo[r] = first ? low : _mm256_add_epi16(lo[r], low);
      hi[r] = first ? high : _mm256_add_epi16(hi[r], high);
      if ((s.value + 1) % TOGETHER == 0 || s.value + 1 == STEP_COUNT) {
        sums[r].lo = _mm256_add_epi32(sums[r].lo, _mm256_madd_epi16(lo[r], ones));
        sums[r].hi = _mm256_add_epi32(sums[r].hi, _mm256_madd_epi16(hi[r], ones));
      }
    }
  });
}

// Numbers of 8 bits, 128 added. Two products fit into 16 bits once the sign of the weight has gone to the activation.
FLOVER_INLINE __m256i add_products(__m256i sums, __m256i w, __m256i magnitude, __m256i x) {
  const __m256i pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(x, w));
  return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

template <int STEP_COUNT, int R, class Step>
FLOVER_INLINE void dot_eight_bits(Step&& step, const int32_t* x, I16* sums) {
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) sums[r] = all_int(0);
  repeat<STEP_COUNT>([&](auto s) __attribute__((always_inline)) {
    const Bytes raw = step(s);
    const __m256i flip = _mm256_set1_epi8((char)128);
    const __m256i lo = _mm256_xor_si256(raw.lo, flip), hi = _mm256_xor_si256(raw.hi, flip);
    const __m256i lo_size = _mm256_abs_epi8(lo), hi_size = _mm256_abs_epi8(hi);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      const __m256i a = _mm256_set1_epi32(x[s.value * R + r]);
      sums[r] = {add_products(sums[r].lo, lo, lo_size, a), add_products(sums[r].hi, hi, hi_size, a)};
    }
  });
}

template <int STEP_COUNT, int BITS, int R, class Step>
FLOVER_INLINE void dot_steps(Step&& step, const int32_t* x, const int32_t* starts, I16* sums) {
  if constexpr (BITS == 8)
    dot_eight_bits<STEP_COUNT, R>(step, x, sums);
  else
    dot_few_bits<STEP_COUNT, BITS, R>(step, x, starts, sums);
}
#elif defined(FLOVER_NEON)
#include "bytes_neon.h"
#else
constexpr int32_t ACTIVATION_ZERO = 0;
constexpr SumsKind SUMS_KIND = NO_SUMS;
struct Bytes {
  uint8_t v[64];
};
struct Quad {
  int8_t x[4];
};
FLOVER_INLINE Quad quad(int32_t x) {
  Quad q;
  memcpy(q.x, &x, 4);
  return q;
}
FLOVER_INLINE Bytes load_bytes(const uint8_t* p) {
  Bytes a;
  memcpy(a.v, p, 64);
  return a;
}
FLOVER_INLINE void store_bytes(uint8_t* p, Bytes a) { memcpy(p, a.v, 64); }
FLOVER_INLINE I16 dot(Bytes w, Quad x, I16 sums) {
  for (int i = 0; i < LANES; i++)
    for (int k = 0; k < 4; k++) sums.v[i] += (int32_t)(int8_t)w.v[i * 4 + k] * x.x[k];
  return sums;
}
FLOVER_INLINE I16 dot_two(Bytes w, Bytes w_next, Quad x, Quad x_next, I16 sums) {
  return dot(w_next, x_next, dot(w, x, sums));
}

template <int RIGHT, int MASK>
FLOVER_INLINE Bytes moved(Bytes a) {
  for (int i = 0; i < 64; i++)
    a.v[i] = (uint8_t)((RIGHT >= 0 ? a.v[i] >> most(RIGHT, 0) : a.v[i] << most(-RIGHT, 0)) & MASK);
  return a;
}
FLOVER_INLINE Bytes either(Bytes a, Bytes b) {
  for (int i = 0; i < 64; i++) a.v[i] |= b.v[i];
  return a;
}
FLOVER_INLINE Bytes look_up(Bytes index, const uint8_t* table) {
  for (int i = 0; i < 64; i++) index.v[i] = table[index.v[i]];
  return index;
}

template <int STEP_COUNT, int BITS, int R, class Step>
FLOVER_INLINE void dot_steps(Step&& step, const int32_t* x, const int32_t* starts, I16* sums) {
  for (int r = 0; r < R; r++) sums[r] = all_int(starts[r]);
  repeat<STEP_COUNT>([&](auto s) __attribute__((always_inline)) {
    const Bytes w = step(s);
    for (int r = 0; r < R; r++) {
      int8_t a[4];
      memcpy(a, x + s.value * R + r, 4);
      for (int i = 0; i < LANES; i++)
        for (int k = 0; k < 4; k++) sums[r].v[i] += (int32_t)w.v[i * 4 + k] * a[k];
    }
  });
}
#endif

// Four rows of 16 numbers with sign, `step` apart: in each lane those of one column, 128 added.
FLOVER_INLINE Bytes four_rows(const int8_t* p, int64_t step) {
#if defined(FLOVER_AVX512)
  auto row = [&](int i) __attribute__((always_inline)) { return _mm_loadu_si128((const __m128i*)(p + i * step)); };
  __m512i rows;
  if (step == LANES) {
    rows = _mm512_loadu_si512(p);
  } else {
    const __m256i low = _mm256_inserti128_si256(_mm256_castsi128_si256(row(0)), row(1), 1);
    const __m256i high = _mm256_inserti128_si256(_mm256_castsi128_si256(row(2)), row(3), 1);
    rows = _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
  }
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m128i columns = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  rows = _mm512_shuffle_epi8(_mm512_permutexvar_epi32(order, rows), _mm512_broadcast_i32x4(columns));
  return {_mm512_xor_si512(rows, _mm512_set1_epi8((char)128))};
#elif defined(FLOVER_AVX2)
  auto row = [&](int i) __attribute__((always_inline)) { return _mm_loadu_si128((const __m128i*)(p + i * step)); };
  const __m128i a = row(0), b = row(1), c = row(2), d = row(3);
  const __m128i ab = _mm_unpacklo_epi8(a, b), cd = _mm_unpacklo_epi8(c, d);
  const __m128i ab_high = _mm_unpackhi_epi8(a, b), cd_high = _mm_unpackhi_epi8(c, d);
  const __m256i flip = _mm256_set1_epi8((char)128);
  const __m256i lo = _mm256_set_m128i(_mm_unpackhi_epi16(ab, cd), _mm_unpacklo_epi16(ab, cd));
  const __m256i hi = _mm256_set_m128i(_mm_unpackhi_epi16(ab_high, cd_high), _mm_unpacklo_epi16(ab_high, cd_high));
  return {_mm256_xor_si256(lo, flip), _mm256_xor_si256(hi, flip)};
#else
  uint8_t bytes[4 * LANES];
  for (int i = 0; i < 4 * LANES; i++) bytes[i] = (uint8_t)(p[i % 4 * step + i / 4] ^ 128);
  return load_bytes(bytes);
#endif
}

}  // namespace flover::FLOVER_ISA
