// How numbers of weights become integers of 8 or 4 bits (weight.h says what these mean and how they lie in memory).
#pragma once

#include <cstdint>

#include "weight.h"

namespace flover {

struct Affine {  // w = scale * q + offset
  float scale, offset;
};

// Scale and offset, both float16, that bring a group of 32 values near: the best of nine ranges, the full one and those
// that cut off a little at either end, and what least squares make of its rounding, twice; the smallest squared error
// wins.
Affine fit(const float* values);

// The 4-bit numbers of a group, a byte each.
void quantize_int4(const float* values, Affine a, uint8_t* out);

// The step of a row: the largest number in 127 steps, inputs 0, 1, 4, 5 and 2, 3, 6, 7 of every eight in 253.9 together
// (rounding all four up still leaves 255 at most).
float int8_scale(const float* values, int64_t in);

// values / scale, nearest even; adds up those above 0 and those below, without their sign.
struct Magnitudes {
  int32_t positive, negative;
};
Magnitudes quantize_int8(const float* values, int64_t in, float scale, int8_t* out);

// Every block of so many numbers times the Hadamard matrix and `factor`, in place.
void rotate(float* values, int64_t count, int64_t rotation, float factor);

}  // namespace flover
