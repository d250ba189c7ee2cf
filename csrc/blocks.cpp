// From the blocks of a file to panels. How the bits of a block of GGUF lie is what ggml-quants.c of llama.cpp says.
#include "blocks.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace flover {

namespace {

// A block of the file in plain order.
struct Block {
  uint16_t scale = 0, offset = 0;
  uint32_t word = 0;  // the scale, where it has 32 bits
  uint8_t numbers[256];
  uint8_t factors[2][16];  // of the scale, of the offset
};

uint16_t half(const uint8_t* p) { return (uint16_t)(p[0] | p[1] << 8); }

// `bytes` bytes of which each holds 8 / bits numbers: first the lowest bits of all bytes, then the next ones.
void split(const uint8_t* p, int64_t bytes, int bits, uint8_t* numbers) {
  for (int shift = 0; shift < 8; shift += bits, numbers += bytes)
    for (int64_t i = 0; i < bytes; i++) numbers[i] = (uint8_t)(p[i] >> shift & ((1 << bits) - 1));
}

// The same, added above the `low` bits that the numbers have.
void split_above(const uint8_t* p, int64_t bytes, int bits, int low, uint8_t* numbers) {
  for (int shift = 0; shift < 8; shift += bits, numbers += bytes)
    for (int64_t i = 0; i < bytes; i++) numbers[i] |= (uint8_t)((p[i] >> shift & ((1 << bits) - 1)) << low);
}

// The fifth bit of 32 numbers.
void fifth_bits(const uint8_t* p, uint8_t* numbers) {
  for (int i = 0; i < 32; i++) numbers[i] |= (uint8_t)((p[i / 8] >> i % 8 & 1) << 4);
}

// Q4_K, Q5_K: eight scales and eight offsets of 6 bits in 12 bytes.
void factors_of_six_bits(const uint8_t* p, Block& b) {
  for (int i = 0; i < 4; i++) {
    b.factors[0][i] = p[i] & 63;
    b.factors[1][i] = p[4 + i] & 63;
    b.factors[0][4 + i] = (uint8_t)((p[8 + i] & 15) | (p[i] >> 2 & 48));
    b.factors[1][4 + i] = (uint8_t)(p[8 + i] >> 4 | (p[4 + i] >> 2 & 48));
  }
}

// Q3_K: sixteen scales of 6 bits, 32 too large, in 12 bytes.
void scales_of_q3_k(const uint8_t* p, Block& b) {
  for (int i = 0; i < 16; i++) {
    const int low = i < 8 ? p[i] & 15 : p[i - 8] >> 4, high = p[8 + i % 4] >> (2 * (i / 4)) & 3;
    b.factors[0][i] = (uint8_t)((low | high << 4) - 32);
  }
}

// IQ4_XS: eight scales of 6 bits, 32 too large.
void scales_of_iq4_xs(const uint8_t* low_bits, uint16_t high_bits, Block& b) {
  for (int i = 0; i < 8; i++) {
    const int low = low_bits[i / 2] >> (i % 2 * 4) & 15, high = high_bits >> (2 * i) & 3;
    b.factors[0][i] = (uint8_t)((low | high << 4) - 32);
  }
}

// Of quantized safetensors: the scale, then the numbers in order.
void read_group(const BlockFormat& f, const uint8_t* p, Block& b) {
  b.word = word_at(p, 0);
  p += 4;
  if (f.low == 4)
    for (int i = 0; i < f.inputs; i++) b.numbers[i] = p[i / 2] >> (i % 2 * 4) & 15;
  else
    for (int i = 0; i < f.inputs; i++) b.numbers[i] = f.values == Values::fp8 ? p[i] : p[i] ^ 128;
}

void read_block(Format format, const uint8_t* p, Block& b) {
  switch (format) {
    case Format::q8_0:
      b.scale = half(p);
      for (int i = 0; i < 32; i++) b.numbers[i] = p[2 + i] ^ 128;
      break;
    case Format::q4_0:
    case Format::iq4_nl:
      b.scale = half(p);
      split(p + 2, 16, 4, b.numbers);
      break;
    case Format::q4_1:
      b.scale = half(p), b.offset = half(p + 2);
      split(p + 4, 16, 4, b.numbers);
      break;
    case Format::q5_0:
      b.scale = half(p);
      split(p + 6, 16, 4, b.numbers);
      fifth_bits(p + 2, b.numbers);
      break;
    case Format::q5_1:
      b.scale = half(p), b.offset = half(p + 2);
      split(p + 8, 16, 4, b.numbers);
      fifth_bits(p + 4, b.numbers);
      break;
    case Format::q2_k:
      b.scale = half(p + 80), b.offset = half(p + 82);
      std::copy(p, p + 16, b.factors[0]);
      for (int i = 0; i < 2; i++) split(p + 16 + 32 * i, 32, 2, b.numbers + 128 * i);
      break;
    case Format::q3_k:
      b.scale = half(p + 108);
      for (int i = 0; i < 2; i++) split(p + 32 + 32 * i, 32, 2, b.numbers + 128 * i);
      split_above(p, 32, 1, 2, b.numbers);
      scales_of_q3_k(p + 96, b);
      break;
    case Format::q4_k:
      b.scale = half(p), b.offset = half(p + 2);
      for (int i = 0; i < 4; i++) split(p + 16 + 32 * i, 32, 4, b.numbers + 64 * i);
      factors_of_six_bits(p + 4, b);
      break;
    case Format::q5_k:
      b.scale = half(p), b.offset = half(p + 2);
      for (int i = 0; i < 4; i++) split(p + 48 + 32 * i, 32, 4, b.numbers + 64 * i);
      split_above(p + 16, 32, 1, 4, b.numbers);
      factors_of_six_bits(p + 4, b);
      break;
    case Format::q6_k:
      b.scale = half(p + 208);
      for (int i = 0; i < 2; i++) {
        split(p + 64 * i, 64, 4, b.numbers + 128 * i);
        split_above(p + 128 + 32 * i, 32, 2, 4, b.numbers + 128 * i);
      }
      std::copy(p + 192, p + 208, b.factors[0]);
      break;
    case Format::iq4_xs:
      b.scale = half(p);
      for (int i = 0; i < 8; i++) split(p + 8 + 16 * i, 16, 4, b.numbers + 32 * i);
      scales_of_iq4_xs(p + 4, half(p + 2), b);
      break;
    case Format::mxfp4:
      b.scale = p[0];
      split(p + 1, 16, 4, b.numbers);
      break;
    default: return read_group(block_format(format), p, b);
  }
}

// The numbers of 32 inputs into planes of `bits` bits, which are those above `shift`.
void write_planes(const uint8_t* numbers, int shift, int bits, int64_t lane, uint8_t* planes) {
  const int together = 8 / bits;
  for (int64_t step = 0; step < STEPS; step += together, planes += PLANE) {
    uint32_t word = 0;
    for (int i = 0; i < together; i++) {
      uint32_t four;
      memcpy(&four, numbers + (step + i) * 4, 4);
      word |= (four >> shift & (uint32_t)((1 << bits) - 1) * 0x01010101u) << (bits * i);
    }
    memcpy(planes + lane * 4, &word, 4);
  }
}

void write_head(const BlockFormat& f, const Block& b, int64_t lane, uint8_t* out) {
  if (f.scale == Scale::single || f.scale == Scale::word)
    memcpy(out + 4 * lane, &b.word, 4);
  else if (f.scale == Scale::half)
    memcpy(out + 2 * lane, &b.scale, 2);
  else
    out[lane] = (uint8_t)b.scale;
  if (f.stores_offset()) memcpy(out + f.offset_place() + 2 * lane, &b.offset, 2);
}

// Of 32 inputs from `part` on.
void write_factors(const BlockFormat& f, const Block& b, int64_t part, int64_t lane, uint8_t* out) {
  const int64_t parts = f.parts();
  for (int64_t i = 0; i < f.factor_bytes() / PANEL; i++) out[i * PANEL + lane] = b.factors[i / parts][part + i % parts];
}

bool is_finite(uint16_t half) { return (half & 0x7c00) != 0x7c00; }

// All products of a scale with a number, or of fp8 with FP8_FACTOR, are finite.
constexpr float LARGEST_SCALE = std::numeric_limits<float>::max() / 256;
constexpr float LARGEST_FP8_SCALE = 128.0f;

// 12 is the largest value of fp4; fp8 has no infinity, and one number that is none.
bool is_finite(const BlockFormat& f, const Block& b) {
  if (f.scale == Scale::single || f.scale == Scale::word) {
    const auto is_none = [&](uint8_t number) { return f.values == Values::fp8 && (number & 0x7f) == 0x7f; };
    const float most = f.values == Values::fp8 ? LARGEST_FP8_SCALE : LARGEST_SCALE;
    return std::fabs(float_of(b.word)) <= most && std::none_of(b.numbers, b.numbers + f.inputs, is_none);
  }
  return (f.scale == Scale::half ? is_finite(b.scale) : b.scale < 253) && is_finite(b.offset);
}

}  // namespace

bool pack_blocks(Format format, const uint8_t* row, int64_t in, int64_t lane, uint8_t* panel) {
  const BlockFormat& f = block_format(format);
  bool finite = true;
  Block block;
  for (int64_t start = 0; start < in; start += f.inputs, row += f.file_bytes) {
    read_block(format, row, block);
    finite = finite && is_finite(f, block);
    write_head(f, block, lane, panel);
    panel += f.head_bytes();
    for (int64_t k = 0; k < f.inputs; k += BLOCK_INPUTS, panel += f.step_bytes()) {
      write_factors(f, block, k / f.shared, lane, panel);
      uint8_t* numbers = panel + f.factor_bytes();
      write_planes(block.numbers + k, 0, f.low, lane, numbers);
      if (f.high) write_planes(block.numbers + k, f.low, f.high, lane, numbers + f.low * PLANE);
    }
  }
  return finite;
}

}  // namespace flover
