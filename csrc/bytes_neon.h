// Exact products of bytes in NEON. Instructions that multiply bytes take both with sign: activations have one, weights
// of fewer than 8 bits fit, and of numbers of 8 bits without sign 128 is taken first, their zero (blocks.h).
#pragma once

constexpr int32_t ACTIVATION_ZERO = 0;
constexpr SumsKind SUMS_KIND = NO_SUMS;
struct Quad {
  int8x16_t x;
};
FLOVER_INLINE Quad quad(int32_t x) { return {vreinterpretq_s8_s32(vdupq_n_s32(x))}; }
FLOVER_INLINE Bytes load_bytes(const uint8_t* p) {
  return {vld1q_u8(p), vld1q_u8(p + 16), vld1q_u8(p + 32), vld1q_u8(p + 48)};
}
FLOVER_INLINE void store_bytes(uint8_t* p, Bytes x) {
  vst1q_u8(p, x.a);
  vst1q_u8(p + 16, x.b);
  vst1q_u8(p + 32, x.c);
  vst1q_u8(p + 48, x.d);
}
FLOVER_INLINE int32x4_t dot_four(int32x4_t sums, uint8x16_t bytes, int8x16_t x) {
  const int8x16_t w = vreinterpretq_s8_u8(bytes);
#if defined(FLOVER_DOTPROD)
  return vdotq_s32(sums, w, x);
#else
  // Activations are in -127..127: two products have 16 bits, -128 * 127 * 2 = -32512.
  const int16x8_t lo = vmull_s8(vget_low_s8(w), vget_low_s8(x)), hi = vmull_s8(vget_high_s8(w), vget_high_s8(x));
  return vpadalq_s16(sums, vpaddq_s16(lo, hi));
#endif
}
FLOVER_INLINE I16 dot(Bytes w, Quad x, I16 sums) {
  return {dot_four(sums.a, w.a, x.x), dot_four(sums.b, w.b, x.x), dot_four(sums.c, w.c, x.x),
          dot_four(sums.d, w.d, x.x)};
}
FLOVER_INLINE I16 dot_two(Bytes w, Bytes w_next, Quad x, Quad x_next, I16 sums) {
  return dot(w_next, x_next, dot(w, x, sums));
}

template <int RIGHT, int MASK>
FLOVER_INLINE uint8x16_t moved_four(uint8x16_t v) {
  if constexpr (RIGHT > 0) v = vshrq_n_u8(v, RIGHT);
  if constexpr (RIGHT < 0) v = vshlq_n_u8(v, -RIGHT);
  return vandq_u8(v, vdupq_n_u8(MASK));
}
template <int RIGHT, int MASK>
FLOVER_INLINE Bytes moved(Bytes x) {
  return {moved_four<RIGHT, MASK>(x.a), moved_four<RIGHT, MASK>(x.b), moved_four<RIGHT, MASK>(x.c),
          moved_four<RIGHT, MASK>(x.d)};
}
FLOVER_INLINE Bytes either(Bytes x, Bytes y) { return FLOVER_FOUR_OF_TWO(vorrq_u8, x, y); }
FLOVER_INLINE Bytes look_up(Bytes index, const uint8_t* table) {  // of 16 bytes
  const uint8x16_t t = vld1q_u8(table);
  return {vqtbl1q_u8(t, index.a), vqtbl1q_u8(t, index.b), vqtbl1q_u8(t, index.c), vqtbl1q_u8(t, index.d)};
}

template <int STEP_COUNT, int BITS, int R, class Step>
FLOVER_INLINE void dot_steps(Step&& step, const int32_t* x, const int32_t* starts, I16* sums) {
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) sums[r] = all_int(BITS == 8 ? 0 : starts[r]);
  repeat<STEP_COUNT>([&](auto s) __attribute__((always_inline)) {
    Bytes w = step(s);
    if constexpr (BITS == 8) {
      const uint8x16_t flip = vdupq_n_u8(128);
      w = {veorq_u8(w.a, flip), veorq_u8(w.b, flip), veorq_u8(w.c, flip), veorq_u8(w.d, flip)};
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) sums[r] = dot(w, quad(x[s.value * R + r]), sums[r]);
  });
}
