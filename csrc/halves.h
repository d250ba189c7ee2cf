// Numbers of 16 bits, one at a time: for packing, and where a kernel needs a single one.
//
// Everything here has internal linkage and is always inlined, since it is compiled for every instruction set.
#pragma once

#include <cstdint>
#include <cstring>

namespace flover {

[[gnu::always_inline]] static inline float float_of(uint32_t bits) {
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

[[gnu::always_inline]] static inline uint32_t bits_of(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  return bits;
}

[[gnu::always_inline]] static inline float widen_bf16(uint16_t half) { return float_of((uint32_t)half << 16); }

// Nearest even; what is not a number stays so.
[[gnu::always_inline]] static inline uint16_t narrow_bf16(float value) {
  const uint32_t bits = bits_of(value);
  if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 0x40);
  return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// Factors of products in bfloat16 (linear.h) that are below this count as zero. The product of two others is a multiple
// of 2^-126, and so are all sums of such: none is a denormal number, of which the processor's instruction makes zero.
constexpr float LEAST_FACTOR = 0x1p-56f;
[[gnu::always_inline]] static inline uint16_t bf16_factor(float value) {
  const bool tiny = (bits_of(value) & 0x7fffffff) < bits_of(LEAST_FACTOR);
  return tiny ? (uint16_t)0 : narrow_bf16(value);
}

[[gnu::always_inline]] static inline float widen_f16(uint16_t half) {
  const uint32_t sign = (uint32_t)(half & 0x8000) << 16, exponent = (half >> 10) & 31, fraction = half & 0x3ff;
  if (exponent == 31) return float_of(sign | 0x7f800000 | fraction << 13 | (fraction ? 0x400000 : 0));
  if (exponent) return float_of(sign | (exponent + 112) << 23 | fraction << 13);
  const float tiny = (float)fraction * 5.9604644775390625e-08f;  // 2^-24
  return float_of(sign | bits_of(tiny));
}

// Nearest even; too large becomes infinite.
[[gnu::always_inline]] static inline uint16_t narrow_f16(float value) {
  const uint32_t bits = bits_of(value), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return (uint16_t)(sign | 0x7e00);
  if (magnitude >= 0x477ff000) return (uint16_t)(sign | 0x7c00);
  if (magnitude < 0x38800000) {  // below the smallest normal: a multiple of 2^-24
    return (uint16_t)(sign | (uint32_t)__builtin_nearbyintf(float_of(magnitude) * 16777216.0f));
  }
  return (uint16_t)(sign | ((magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13));
}

// float8_e4m3fn: a float32 without its upper exponent bits and its lower bits of the fraction, divided by 2^120.
constexpr float FP8_FACTOR = 0x1p120f;
[[gnu::always_inline]] static inline float divided_fp8(uint8_t byte) {
  return float_of((uint32_t)(byte & 0x80) << 24 | (uint32_t)(byte & 0x7f) << 20);
}

}  // namespace flover
