// How weights lie in memory, and how they get there.
//
// A panel holds 16 outputs. Within a panel the input advances in steps, so that one step is one or two registers:
//   float32            [in][16]
//   bfloat16, float16  [in / 2][16][2]
//   int8               [in / 4][16][4]; w = scale[out] * q, q in -127..127, and of every 8 inputs |q| of 0, 1, 4, 5 and
//                      of 2, 3, 6, 7 add up to 255 at most: with activations in -128..127 the sum of four products has
//                      16 bits
//   int4               [in / 32] blocks of: 16 float16 scales, 16 float16 offsets, then [8][8][4] bytes: step, output,
//                      input; the low half of a byte belongs to output o, the high half to output o + 8;
//                      w = scale * q + offset, q in 0..15
//   block formats      blocks.h
// The input is padded with zeros to whole steps (int4: whole blocks), the outputs to whole panels; of a gated weight
// each half is padded and the panels of gate and up alternate.
//
// int8 and int4 are rotated before they are quantized: every block of `rotation` inputs is multiplied by the Hadamard
// matrix H [rotation, rotation] of +1 and -1. Activations are rotated likewise when they are quantized, and since
// H H = rotation, x · w = (H x) · (H w) / rotation. Large numbers are spread over their block, so that few steps are
// lost to them (QuaRot, arXiv:2404.00456). The division is by powers of two, which is exact: a part of it in the
// weights, so that they keep their size, and the rest in the scale of the activations.
#pragma once

#include <cstdint>
#include <vector>

#include "blocks.h"
#include "kernels.h"

namespace flover {

constexpr int64_t GROUP = 32;  // inputs that share a scale in int4
constexpr int64_t INT4_BLOCK = 2 * 2 * PANEL + GROUP * PANEL / 2;
constexpr int MOST_ROUNDS = 7;  // blocks of at most 128 inputs are rotated
constexpr int MOST_LEVELS = 3;  // of the tree over segments
constexpr int64_t MOST_SEGMENTS = 1 << MOST_LEVELS;

// The rounds of additions that rotate a block.
inline int rounds_of(int64_t rotation) { return __builtin_ctzll((unsigned long long)rotation); }
// The factors of rotated weights and of rotated activations: together 1 / rotation.
inline float rotated_weight_scale(int64_t rotation) { return 1.0f / (float)(1 << rounds_of(rotation) / 2); }
inline float rotation_scale(int64_t rotation) { return 1.0f / (float)(1 << (rounds_of(rotation) + 1) / 2); }

inline int64_t step_of(Format format) {
  switch (format) {
    case Format::float32: return 1;
    case Format::bfloat16:
    case Format::float16: return 2;
    case Format::int8: return 4;
    case Format::int4: return GROUP;
    default: return block_format(format).inputs;
  }
}

inline int64_t bytes_per_step(Format format) {
  switch (format) {
    case Format::int4: return INT4_BLOCK;
    default: break;
  }
  return is_block(format) ? block_format(format).record_bytes() : 64;
}

inline int64_t padded_in(Format format, int64_t in) {
  const int64_t step = step_of(format);
  return (in + step - 1) / step * step;
}

inline int64_t panel_bytes(Format format, int64_t in) {
  return (padded_in(format, in) / step_of(format) * bytes_per_step(format) + 63) / 64 * 64;
}

inline int64_t num_panels(int64_t out, bool gated) {
  const int64_t half = gated ? out / 2 : out;
  return (half + PANEL - 1) / PANEL * (gated ? 2 : 1);
}

// Memory of a packed weight. Rows are stored one after another or in any order; each is written exactly once.
class PackedWeight {
 public:
  // Throws std::invalid_argument for sizes below one, an odd gated output, inputs that are not whole blocks, a
  // rotation that is not of whole blocks, or segments that are not of whole steps; std::bad_alloc.
  PackedWeight(Format format, int64_t out, int64_t in, bool gated, int64_t rotation, int64_t segments);
  ~PackedWeight();
  PackedWeight(const PackedWeight&) = delete;
  PackedWeight& operator=(const PackedWeight&) = delete;

  // Quantize and pack rows first..first+count of `values` [count, width], whose columns start..start+in are kept. int8
  // takes the scale of the whole row; whoever cuts does it at a multiple of 8 (int4: of 32) and of the rotation. Throws
  // std::out_of_range.
  void store(int64_t first, int64_t count, const float* values, int64_t width, int64_t start);
  // The same for rows in the blocks of a file. Throws std::invalid_argument for numbers that are not finite.
  void store_blocks(int64_t first, int64_t count, const uint8_t* rows, int64_t width, int64_t start);
  // The inputs in the order in which all rows have them, [in]: each once.
  void set_order(const int32_t* order);
  // The numbers that the kernels see for one row, [in]: rotated.
  void row(int64_t index, float* values) const;

  Weight view() const;
  size_t bytes() const { return bytes_; }

 private:
  void place(int64_t row, int64_t& panel, int64_t& lane) const;
  template <class Store>
  void each_row(int64_t first, int64_t count, Store&& store) const;
  void check_rows(int64_t first, int64_t count, int64_t width, int64_t start) const;
  void store_row(int64_t row, const float* whole, int64_t width, int64_t start);

  Format format_;
  int64_t out_, in_;
  bool gated_;
  int64_t rotation_, segments_;
  std::vector<int32_t> order_;  // empty: as they come
  size_t bytes_ = 0;
  size_t data_bytes_ = 0;
  uint8_t* memory_ = nullptr;
};

}  // namespace flover
