// Sixteen lanes in four registers of AArch64 (or as SIMDe computes them, emulated_neon.h). Where NEON rounds, saturates
// or orders numbers in another way than simd.h says, the difference is made good here.
#pragma once

struct F16 {
  float32x4_t a, b, c, d;
};
struct I16 {
  int32x4_t a, b, c, d;
};
struct U16 {
  uint32x4_t a, b, c, d;
};
struct Bytes {  // 16 lanes of 4 bytes
  uint8x16_t a, b, c, d;
};

// An instruction on each of the four registers.
#define FLOVER_FOUR(F, x) {F((x).a), F((x).b), F((x).c), F((x).d)}
#define FLOVER_FOUR_OF_TWO(F, x, y) {F((x).a, (y).a), F((x).b, (y).b), F((x).c, (y).c), F((x).d, (y).d)}
#define FLOVER_FOUR_OF_THREE(F, x, y, z) \
  {F((x).a, (y).a, (z).a), F((x).b, (y).b, (z).b), F((x).c, (y).c, (z).c), F((x).d, (y).d, (z).d)}

FLOVER_INLINE F16 all(float x) {
  const float32x4_t v = vdupq_n_f32(x);
  return {v, v, v, v};
}
FLOVER_INLINE F16 zero() { return all(0.0f); }
FLOVER_INLINE F16 load(const float* p) { return {vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)}; }
FLOVER_INLINE void store(float* p, F16 x) {
  vst1q_f32(p, x.a);
  vst1q_f32(p + 4, x.b);
  vst1q_f32(p + 8, x.c);
  vst1q_f32(p + 12, x.d);
}
FLOVER_INLINE F16 load_first(const float* p, int n) {
  if (n >= LANES) return load(p);
  float part[LANES] = {};
  memcpy(part, p, (size_t)n * sizeof(float));
  return load(part);
}
FLOVER_INLINE void store_first(float* p, F16 x, int n) {
  if (n >= LANES) return store(p, x);
  float part[LANES];
  store(part, x);
  memcpy(p, part, (size_t)n * sizeof(float));
}
FLOVER_INLINE F16 fma(F16 x, F16 y, F16 z) { return FLOVER_FOUR_OF_THREE(vfmaq_f32, z, x, y); }
FLOVER_INLINE F16 add(F16 x, F16 y) { return FLOVER_FOUR_OF_TWO(vaddq_f32, x, y); }
FLOVER_INLINE F16 sub(F16 x, F16 y) { return FLOVER_FOUR_OF_TWO(vsubq_f32, x, y); }
FLOVER_INLINE F16 mul(F16 x, F16 y) { return FLOVER_FOUR_OF_TWO(vmulq_f32, x, y); }
FLOVER_INLINE F16 div(F16 x, F16 y) { return FLOVER_FOUR_OF_TWO(vdivq_f32, x, y); }
FLOVER_INLINE F16 pick(U16 where, F16 x, F16 y) { return FLOVER_FOUR_OF_THREE(vbslq_f32, where, x, y); }
FLOVER_INLINE U16 is_less(F16 x, F16 y) { return FLOVER_FOUR_OF_TWO(vcltq_f32, x, y); }
// Not vmaxq_f32 and vminq_f32, which give what is not a number wherever an operand is none.
FLOVER_INLINE F16 max(F16 x, F16 y) { return pick(is_less(y, x), x, y); }
FLOVER_INLINE F16 min(F16 x, F16 y) { return pick(is_less(x, y), x, y); }
FLOVER_INLINE F16 absolute(F16 x) { return FLOVER_FOUR(vabsq_f32, x); }
FLOVER_INLINE F16 round(F16 x) { return FLOVER_FOUR(vrndnq_f32, x); }
FLOVER_INLINE F16 to_float(I16 x) { return FLOVER_FOUR(vcvtq_f32_s32, x); }
FLOVER_INLINE I16 all_int(int32_t x) {
  const int32x4_t v = vdupq_n_s32(x);
  return {v, v, v, v};
}
// What is too large, or not a number, becomes INT32_MIN: NEON would give INT32_MAX and 0.
FLOVER_INLINE I16 to_int(F16 x) {
  const I16 rounded = FLOVER_FOUR(vcvtnq_s32_f32, x), none = all_int(INT32_MIN);
  const U16 fits = is_less(x, all(2147483648.0f));
  return FLOVER_FOUR_OF_THREE(vbslq_s32, fits, rounded, none);
}
FLOVER_INLINE F16 as_float(I16 x) { return FLOVER_FOUR(vreinterpretq_f32_s32, x); }
FLOVER_INLINE I16 shift_left(I16 x, int n) {
  const I16 by = all_int(n);
  return FLOVER_FOUR_OF_TWO(vshlq_s32, x, by);
}
FLOVER_INLINE I16 add(I16 x, I16 y) { return FLOVER_FOUR_OF_TWO(vaddq_s32, x, y); }
FLOVER_INLINE I16 load_int(const int32_t* p) {
  return {vld1q_s32(p), vld1q_s32(p + 4), vld1q_s32(p + 8), vld1q_s32(p + 12)};
}
FLOVER_INLINE void store_int(int32_t* p, I16 x) {
  vst1q_s32(p, x.a);
  vst1q_s32(p + 4, x.b);
  vst1q_s32(p + 8, x.c);
  vst1q_s32(p + 12, x.d);
}
FLOVER_INLINE void store_i8(int8_t* p, I16 x) {
  const int16x8_t lo = vcombine_s16(vmovn_s32(x.a), vmovn_s32(x.b)), hi = vcombine_s16(vmovn_s32(x.c), vmovn_s32(x.d));
  vst1q_s8(p, vcombine_s8(vmovn_s16(lo), vmovn_s16(hi)));
}
FLOVER_INLINE U16 first_lanes(int n) {
  static const int32_t index[LANES] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const I16 lanes = load_int(index), end = all_int(n);
  return FLOVER_FOUR_OF_TWO(vcltq_s32, lanes, end);
}
FLOVER_INLINE F16 keep_first(F16 x, int n, float other) { return pick(first_lanes(n), x, all(other)); }
FLOVER_INLINE F16 skip_first(F16 x, int n, float other) { return pick(first_lanes(n), all(other), x); }
FLOVER_INLINE F16 keep_bits(F16 x, uint32_t bits, float other) {
  static const int32_t lanes[LANES] = {1,      2,      4,       8,       16,      32,      64,      128,
                                       1 << 8, 1 << 9, 1 << 10, 1 << 11, 1 << 12, 1 << 13, 1 << 14, 1 << 15};
  const I16 own = load_int(lanes), given = all_int((int32_t)bits);
  return pick(FLOVER_FOUR_OF_TWO(vtstq_s32, given, own), x, all(other));
}
FLOVER_INLINE float32x4_t widen_four(const uint16_t* p) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16)); }
FLOVER_INLINE F16 load_bf16(const uint16_t* p) {
  return {widen_four(p), widen_four(p + 4), widen_four(p + 8), widen_four(p + 12)};
}
FLOVER_INLINE float32x4_t floats_of(uint16x4_t halves) { return vcvt_f32_f16(vreinterpret_f16_u16(halves)); }
FLOVER_INLINE F16 load_f16(const uint16_t* p) {
  return {floats_of(vld1_u16(p)), floats_of(vld1_u16(p + 4)), floats_of(vld1_u16(p + 8)), floats_of(vld1_u16(p + 12))};
}
FLOVER_INLINE F16 load_i8(const int8_t* p) {
  const int8x16_t bytes = vld1q_s8(p);
  const int16x8_t lo = vmovl_s8(vget_low_s8(bytes)), hi = vmovl_s8(vget_high_s8(bytes));
  return to_float(I16{vmovl_s16(vget_low_s16(lo)), vmovl_s16(vget_high_s16(lo)), vmovl_s16(vget_low_s16(hi)),
                      vmovl_s16(vget_high_s16(hi))});
}
// Words of 32 bits as they lie in memory.
FLOVER_INLINE U16 load_words(const void* p) {
  const auto* words = static_cast<const uint32_t*>(p);
  return {vld1q_u32(words), vld1q_u32(words + 4), vld1q_u32(words + 8), vld1q_u32(words + 12)};
}
// Two numbers of 16 bits in each lane: the even ones (low halves) and the odd ones.
FLOVER_INLINE float32x4_t even_bf16(uint32x4_t pairs) { return vreinterpretq_f32_u32(vshlq_n_u32(pairs, 16)); }
FLOVER_INLINE float32x4_t odd_bf16(uint32x4_t pairs) {
  return vreinterpretq_f32_u32(vandq_u32(pairs, vdupq_n_u32(0xffff0000)));
}
FLOVER_INLINE void load_bf16_pairs(const uint16_t* p, F16& even, F16& odd) {
  const U16 pairs = load_words(p);
  even = FLOVER_FOUR(even_bf16, pairs);
  odd = FLOVER_FOUR(odd_bf16, pairs);
}
FLOVER_INLINE void load_f16_pairs(const uint16_t* p, F16& even, F16& odd) {
  const uint16x8x2_t lo = vld2q_u16(p), hi = vld2q_u16(p + 16);
  even = {floats_of(vget_low_u16(lo.val[0])), floats_of(vget_high_u16(lo.val[0])), floats_of(vget_low_u16(hi.val[0])),
          floats_of(vget_high_u16(hi.val[0]))};
  odd = {floats_of(vget_low_u16(lo.val[1])), floats_of(vget_high_u16(lo.val[1])), floats_of(vget_low_u16(hi.val[1])),
         floats_of(vget_high_u16(hi.val[1]))};
}
// Number INDEX of the four of 8 bits in each lane, divided as in divided_fp8: moved to the upper byte, then to its
// place.
template <int INDEX>
FLOVER_INLINE float32x4_t fp8_of(uint32x4_t quads) {
  int32x4_t upper = vreinterpretq_s32_u32(quads);
  if constexpr (INDEX < 3) upper = vshlq_n_s32(upper, 24 - 8 * INDEX);
  return vreinterpretq_f32_s32(vandq_s32(vshrq_n_s32(upper, 4), vdupq_n_s32((int32_t)0x87f00000)));
}
template <int INDEX>
FLOVER_INLINE F16 load_fp8(const uint8_t* p) {
  const U16 quads = load_words(p);
  return FLOVER_FOUR(fp8_of<INDEX>, quads);
}
FLOVER_INLINE float sum(F16 x) {
  const float32x4_t quarter = vaddq_f32(vaddq_f32(x.a, x.c), vaddq_f32(x.b, x.d));
  const float32x2_t pair = vadd_f32(vget_low_f32(quarter), vget_high_f32(quarter));
  return vget_lane_f32(pair, 0) + vget_lane_f32(pair, 1);
}
FLOVER_INLINE F16 not_a_number(F16 x) {
  const U16 number = FLOVER_FOUR_OF_TWO(vceqq_f32, x, x);
  return pick(number, zero(), all(1.0f));
}
FLOVER_INLINE F16 zero_below(F16 x, F16 y, F16 limit) { return pick(is_less(y, limit), zero(), x); }
FLOVER_INLINE float largest(F16 x) { return vmaxvq_f32(vmaxq_f32(vmaxq_f32(x.a, x.b), vmaxq_f32(x.c, x.d))); }
FLOVER_INLINE uint32_t largest_bits(F16 x, F16 y) {
  const F16 p = absolute(x), q = absolute(y);
  const U16 first = FLOVER_FOUR(vreinterpretq_u32_f32, p), second = FLOVER_FOUR(vreinterpretq_u32_f32, q);
  const U16 both = FLOVER_FOUR_OF_TWO(vmaxq_u32, first, second);
  return vmaxvq_u32(vmaxq_u32(vmaxq_u32(both.a, both.b), vmaxq_u32(both.c, both.d)));
}
