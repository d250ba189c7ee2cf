// The block formats of GGUF and of quantized safetensors: what they hold, and how a panel of 16 outputs keeps it.
//
// Every weight is scale * (q - zero) + offset: q has a few bits, `zero` belongs to the format, scale and offset to the
// next `shared` inputs of an output. A panel keeps exactly what the file has, in the order in which it is read, so that
// one row of activations reads memory from front to back: [in / inputs] records of
//   16 scales, 16 offsets if there are any, and [inputs / 32] steps of
//     factors  what `shared` inputs have of their own for both, a byte each: [32 / shared][16] for the scales, then as
//              many for the offsets
//     numbers  planes of 64 bytes, [16 outputs][4 inputs]. A plane of b bits holds 8 / b steps of four inputs, the
//              first one in the lowest bits. First come the planes of the lower bits (`low`: 8, 4 or 2 of each number),
//              then those of the upper ones (`high`: 0, 1 or 2).
// Factors that take 6 bits in the file take a byte here: a panel is up to 1.04 times as large as the file.
//
// int4_g… and int8_g… have a scale of 32 bits for every so many inputs; so has fp8_e4m3, whose numbers are floats of 8
// bits. Their blocks (source/quantized_blocks.py) are the scale, then the numbers in order: two in a
// byte, the first one in the low half; or a signed byte each. The scale of int4 is a float32 whose lowest byte is not
// part of it but the integer that stands for zero: offset = -scale * zero, exactly.
//
// Everything here has internal linkage and is always inlined, since it is compiled for every instruction set.
#pragma once

#include <cstdint>
#include <cstring>

#include "halves.h"
#include "kernels.h"

namespace flover {

constexpr int64_t PANEL = 16;         // outputs
constexpr int64_t BLOCK_INPUTS = 32;  // inputs whose activations share a scale
constexpr int64_t PLANE = 64;         // bytes
constexpr int64_t STEPS = 8;          // of a block, four inputs each

enum class Scale { half, exponent, single, word };  // float16; a power of two; float32; float32 and a byte for zero
enum class Factors { none, scale, both, nibbles };  // nibbles: the low one for the scale, the high one for the offset
enum class Values { same, iq4, fp4, fp8 };          // what the bits of a number stand for

struct BlockFormat {
  int64_t inputs, file_bytes;  // of a block of the file
  int64_t shared;
  int low, high, zero;
  bool offset = false;
  Factors factors = Factors::none;
  Scale scale = Scale::half;
  Values values = Values::same;

  constexpr int64_t number_bytes() const { return (low + high) * PLANE; }  // of 32 inputs
  constexpr int64_t parts() const { return BLOCK_INPUTS / shared; }        // of 32 inputs
  constexpr bool stores_offset() const { return offset && scale != Scale::word; }
  constexpr int64_t offset_place() const {
    return scale == Scale::exponent ? PANEL : scale == Scale::half ? 2 * PANEL : 4 * PANEL;
  }
  constexpr int64_t head_bytes() const { return offset_place() + (stores_offset() ? 2 * PANEL : 0); }
  constexpr int64_t factor_bytes() const {  // of 32 inputs
    return (factors == Factors::none ? 0 : factors == Factors::both ? 2 : 1) * parts() * PANEL;
  }
  constexpr int64_t step_bytes() const { return factor_bytes() + number_bytes(); }
  constexpr int64_t record_bytes() const { return head_bytes() + inputs / BLOCK_INPUTS * step_bytes(); }
  // Where the record of block `b` of 32 inputs begins in a panel, and its step in it.
  constexpr int64_t record_place(int64_t b) const { return b / (inputs / BLOCK_INPUTS) * record_bytes(); }
  constexpr int64_t step_place(int64_t b) const {
    return record_place(b) + head_bytes() + b % (inputs / BLOCK_INPUTS) * step_bytes();
  }
};

constexpr BlockFormat words_of_four_bits(int64_t inputs) {
  return {.inputs = inputs,
          .file_bytes = 4 + inputs / 2,
          .shared = 32,
          .low = 4,
          .high = 0,
          .zero = 0,
          .offset = true,
          .scale = Scale::word};
}

constexpr BlockFormat bytes_of_eight_bits(int64_t inputs, Values values = Values::same) {
  return {.inputs = inputs,
          .file_bytes = 4 + inputs,
          .shared = 32,
          .low = 8,
          .high = 0,
          .zero = 128,
          .scale = Scale::single,
          .values = values};
}

// In the order of Format, from the first block format on.
constexpr BlockFormat BLOCK_FORMATS[] = {
    {.inputs = 32, .file_bytes = 34, .shared = 32, .low = 8, .high = 0, .zero = 128},                // q8_0
    {.inputs = 32, .file_bytes = 18, .shared = 32, .low = 4, .high = 0, .zero = 8},                  // q4_0
    {.inputs = 32, .file_bytes = 20, .shared = 32, .low = 4, .high = 0, .zero = 0, .offset = true},  // q4_1
    {.inputs = 32, .file_bytes = 22, .shared = 32, .low = 4, .high = 1, .zero = 16},                 // q5_0
    {.inputs = 32, .file_bytes = 24, .shared = 32, .low = 4, .high = 1, .zero = 0, .offset = true},  // q5_1
    {.inputs = 256,
     .file_bytes = 84,
     .shared = 16,
     .low = 2,
     .high = 0,
     .zero = 0,
     .offset = true,  // q2_k
     .factors = Factors::nibbles},
    {.inputs = 256,
     .file_bytes = 110,
     .shared = 16,
     .low = 2,
     .high = 1,
     .zero = 4,  // q3_k
     .factors = Factors::scale},
    {.inputs = 256,
     .file_bytes = 144,
     .shared = 32,
     .low = 4,
     .high = 0,
     .zero = 0,
     .offset = true,  // q4_k
     .factors = Factors::both},
    {.inputs = 256,
     .file_bytes = 176,
     .shared = 32,
     .low = 4,
     .high = 1,
     .zero = 0,
     .offset = true,  // q5_k
     .factors = Factors::both},
    {.inputs = 256,
     .file_bytes = 210,
     .shared = 16,
     .low = 4,
     .high = 2,
     .zero = 32,  // q6_k
     .factors = Factors::scale},
    {.inputs = 32,
     .file_bytes = 18,
     .shared = 32,
     .low = 4,
     .high = 0,
     .zero = 128,  // iq4_nl
     .values = Values::iq4},
    {.inputs = 256,
     .file_bytes = 136,
     .shared = 32,
     .low = 4,
     .high = 0,
     .zero = 128,  // iq4_xs
     .factors = Factors::scale,
     .values = Values::iq4},
    {.inputs = 32,
     .file_bytes = 17,
     .shared = 32,
     .low = 4,
     .high = 0,
     .zero = 12,  // mxfp4
     .scale = Scale::exponent,
     .values = Values::fp4},
    words_of_four_bits(32),
    words_of_four_bits(64),
    words_of_four_bits(128),  // int4_g…
    bytes_of_eight_bits(32),
    bytes_of_eight_bits(64),               // int8_g…
    bytes_of_eight_bits(64, Values::fp8),  // fp8_e4m3
};

constexpr bool is_block(Format format) { return format >= FIRST_BLOCK; }
constexpr const BlockFormat& block_format(Format format) { return BLOCK_FORMATS[(int)format - (int)FIRST_BLOCK]; }

// What the numbers of 4 bits stand for, with `zero` added.
constexpr uint8_t IQ4_VALUES[16] = {1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241};
constexpr uint8_t FP4_VALUES[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};

// Half of 2^(exponent - 127): the values of fp4 are doubled.
[[gnu::always_inline]] static inline float float_of_exponent(uint8_t exponent) {
  return float_of(exponent < 2 ? 0x00200000u << exponent : (uint32_t)(exponent - 1) << 23);
}

[[gnu::always_inline]] static inline float half_at(const uint8_t* halves, int64_t index) {
  uint16_t half;
  memcpy(&half, halves + 2 * index, 2);
  return widen_f16(half);
}

[[gnu::always_inline]] static inline uint32_t word_at(const uint8_t* words, int64_t index) {
  uint32_t word;
  memcpy(&word, words + 4 * index, 4);
  return word;
}

struct ScaleAndOffset {
  float scale, offset;
};

[[gnu::always_inline]] static inline ScaleAndOffset split_word(uint32_t word) {
  const float scale = float_of(word & 0xffffff00u);
  return {scale, -(scale * (float)(word & 255))};
}

// Of one output; `head` is that of a record, `factors` those of an output and `shared` inputs.
[[gnu::always_inline]] static inline ScaleAndOffset scale_of(const BlockFormat& f, const uint8_t* head,
                                                             const uint8_t* factors, int64_t lane) {
  if (f.scale == Scale::word) return split_word(word_at(head, lane));
  if (f.scale == Scale::single) return {float_of(word_at(head, lane)), 0.0f};
  const float scale = f.scale == Scale::half ? half_at(head, lane) : float_of_exponent(head[lane]);
  const float offset = f.offset ? half_at(head + f.offset_place(), lane) : 0.0f;
  if (f.factors == Factors::none) return {scale, offset};
  if (f.factors == Factors::nibbles) return {scale * (float)(*factors & 15), -(offset * (float)(*factors >> 4))};
  if (f.factors == Factors::scale) return {scale * (float)(int8_t)*factors, 0.0f};
  return {scale * (float)*factors, -(offset * (float)factors[f.parts() * PANEL])};
}

// The bits of input k (0..31) of an output in planes of so many bits.
[[gnu::always_inline]] static inline int bits_at(const uint8_t* planes, int bits, int64_t k, int64_t lane) {
  const int64_t step = k / 4, together = 8 / bits;
  return planes[step / together * PLANE + lane * 4 + k % 4] >> (step % together * bits) & ((1 << bits) - 1);
}

[[gnu::always_inline]] static inline int number_at(const BlockFormat& f, const uint8_t* numbers, int64_t k,
                                                   int64_t lane) {
  int q = bits_at(numbers, f.low, k, lane);
  if (f.high) q |= bits_at(numbers + f.low * PLANE, f.high, k, lane) << f.low;
  return f.values == Values::iq4 ? IQ4_VALUES[q] : f.values == Values::fp4 ? FP4_VALUES[q] : q;
}

// The weights of one output, as ggml computes them, in the order of the panel.
[[gnu::always_inline]] static inline void unpack_blocks(const BlockFormat& f, const uint8_t* panel, int64_t in,
                                                        int64_t lane, float* values) {
  for (int64_t start = 0; start < in; start += f.shared) {
    const int64_t block = start / BLOCK_INPUTS;
    const uint8_t* factors = panel + f.step_place(block);
    const uint8_t* numbers = factors + f.factor_bytes();
    const ScaleAndOffset a =
        scale_of(f, panel + f.record_place(block), factors + start % BLOCK_INPUTS / f.shared * PANEL + lane, lane);
    for (int64_t k = 0; k < f.shared; k++) {
      if (f.values == Values::fp8) {
        const float number = divided_fp8((uint8_t)number_at(f, numbers, start % BLOCK_INPUTS + k, lane)) * FP8_FACTOR;
        values[start + k] = number * a.scale;
        continue;
      }
      const float value = a.scale * (float)(number_at(f, numbers, start % BLOCK_INPUTS + k, lane) - f.zero);
      values[start + k] = f.offset ? value + a.offset : value;
    }
  }
}

// One row of the file into its place in a panel. Returns whether all its numbers are finite.
bool pack_blocks(Format format, const uint8_t* row, int64_t in, int64_t lane, uint8_t* panel);

}  // namespace flover
