// NEON as SIMDe computes it (github.com/simd-everywhere/simde, 0.7.4), with what it lacks: to run the kernels of ARM's
// machines on others and compare bits (CMakeLists.txt, tests/isa). Needs a machine with AVX2 and FMA: elsewhere SIMDe
// rounds a fused multiply-add twice.
#pragma once

#ifndef __FMA__
#error "compile with -mfma"
#endif
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <immintrin.h>
#include <simde/arm/neon.h>

namespace flover::emulated {

// Nearest even; what does not fit is the nearest that does, and what is not a number 0.
static inline int32x4_t cvtn(float32x4_t x) {
  float from[4];
  int32_t to[4];
  vst1q_f32(from, x);
  for (int i = 0; i < 4; i++) {
    const float nearest = __builtin_nearbyintf(from[i]);
    to[i] = nearest != nearest         ? 0
            : nearest >= 2147483648.0f ? INT32_MAX
            : nearest < -2147483648.0f ? INT32_MIN
                                       : (int32_t)nearest;
  }
  return vld1q_s32(to);
}

static inline float32x4_t quotient(float32x4_t x, float32x4_t y) {
  float a[4], b[4];
  vst1q_f32(a, x);
  vst1q_f32(b, y);
  for (int i = 0; i < 4; i++) a[i] /= b[i];
  return vld1q_f32(a);
}

}  // namespace flover::emulated

#define vcvtnq_s32_f32(x) flover::emulated::cvtn(x)
#define vdivq_f32(x, y) flover::emulated::quotient(x, y)
