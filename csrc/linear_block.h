// Linears whose weights are in the block formats of GGUF (blocks.h), and the choice between all linears.
//
// The activations of every 32 inputs have a scale of their own: x = scale * q, q in -127..127. An output is one chain
// over the blocks of 32 inputs, in order. Of each block
//   part   = the sum of (q of the weight - zero) * q over inputs that share a scale: an exact integer
//   total  = part * scale, for 16 inputs a share fma(part of the second half, its scale, total)
//   output = fma(total, scale of x, output), then fma(offset, scale of x * sum of q, output) for each part's offset
// which is the same for any tile, thread and instruction set.
//
// One row reads the panels as they are. For several rows a piece of a panel is expanded once, to a byte a number and
// float32 scales, for all tiles that follow.
#pragma once

#include "linear_int.h"

namespace flover::FLOVER_ISA {

#if defined(FLOVER_AVX512)
constexpr int64_t BLOCK_TILE = 8;
#else
constexpr int64_t BLOCK_TILE = 4;
#endif
constexpr int64_t PIECE = 16;   // blocks of 32 inputs that are expanded at once: 8 KiB of numbers
constexpr float TINY = 1e-30f;  // a block of activations that is nowhere larger counts as zero

template <Format F>
struct BlockTraits {
  static constexpr BlockFormat FORMAT = block_format(F);
  static constexpr int PARTS = (int)(BLOCK_INPUTS / FORMAT.shared);  // of 32 inputs
  static constexpr bool OFFSET = FORMAT.offset;
#if defined(FLOVER_AVX2) && !defined(FLOVER_AVX512)
  static constexpr int BITS = FORMAT.values == Values::iq4 ? 8
                              : FORMAT.values == Values::fp4
                                  ? 5
                                  : (FORMAT.low + FORMAT.high < 4 ? 4 : FORMAT.low + FORMAT.high);
#else
  static constexpr int BITS = 8;  // makes no difference
#endif
};

FLOVER_INLINE F16 float_of_exponents(const uint8_t* exponents) {
  float values[LANES];
  for (int i = 0; i < LANES; i++) values[i] = float_of_exponent(exponents[i]);
  return load(values);
}

// A panel as it lies in memory: block b of 32 inputs.
template <Format F>
struct PackedPanel : BlockTraits<F> {
  using Traits = BlockTraits<F>;
  static constexpr BlockFormat FORMAT = Traits::FORMAT;

  const uint8_t* numbers;
  const uint8_t* scales;

  FLOVER_INLINE_MEMBER PackedPanel(const uint8_t* panel, int64_t blocks)
      : numbers(panel), scales(panel + blocks * FORMAT.number_bytes()) {}

  // Four inputs of 16 outputs, a byte each, `zero` added.
  template <int S>
  FLOVER_INLINE_MEMBER Bytes step(int64_t b, Number<S>) const {
    const uint8_t* planes = numbers + b * FORMAT.number_bytes();
    constexpr int LOW = FORMAT.low, HIGH = FORMAT.high;
    Bytes q = load_bytes(planes + S / (8 / LOW) * PLANE);
    if constexpr (LOW < 8) q = moved<S % (8 / LOW) * LOW, (1 << LOW) - 1>(q);
    if constexpr (HIGH > 0) {
      const Bytes upper = load_bytes(planes + (LOW + S / (8 / HIGH)) * PLANE);
      q = either(q, moved<S % (8 / HIGH) * HIGH - LOW, ((1 << HIGH) - 1) << LOW>(upper));
    }
    if constexpr (FORMAT.values == Values::iq4) q = look_up(q, IQ4_VALUES);
    if constexpr (FORMAT.values == Values::fp4) q = look_up(q, FP4_VALUES);
    return q;
  }

  FLOVER_INLINE_MEMBER void factors(int64_t b, F16* scale, F16* offset) const {
    const int64_t in_block = FORMAT.inputs / BLOCK_INPUTS;  // a division by a constant
    const uint8_t* p = scales + b / in_block * FORMAT.scale_bytes();
    const F16 whole =
        FORMAT.scale == Scale::half ? load_f16(reinterpret_cast<const uint16_t*>(p)) : float_of_exponents(p);
    F16 shift = zero();
    if constexpr (FORMAT.offset) shift = load_f16(reinterpret_cast<const uint16_t*>(p + FORMAT.offset_place()));
    const uint8_t* bytes = p + FORMAT.factor_place() + b % in_block * Traits::PARTS * PANEL;
    for (int j = 0; j < Traits::PARTS; j++, bytes += PANEL) {
      scale[j] = whole, offset[j] = shift;
      if constexpr (FORMAT.factors == Factors::nibbles) {
        int8_t scales_of[LANES], offsets_of[LANES];
        for (int i = 0; i < LANES; i++) scales_of[i] = bytes[i] & 15, offsets_of[i] = (int8_t)-(bytes[i] >> 4);
        scale[j] = mul(whole, load_i8(scales_of));
        offset[j] = mul(shift, load_i8(offsets_of));
      } else if constexpr (FORMAT.factors != Factors::none) {
        scale[j] = mul(whole, load_i8(reinterpret_cast<const int8_t*>(bytes)));
        if constexpr (FORMAT.factors == Factors::both)
          offset[j] = mul(sub(zero(), shift), load_i8(reinterpret_cast<const int8_t*>(bytes + FORMAT.parts() * PANEL)));
      }
    }
  }
};

// What is expanded of a panel: numbers [blocks][8][64]; scales, offsets [blocks][PARTS][16].
template <int PARTS_, bool OFFSET_, int BITS_>
struct ExpandedPanel {
  static constexpr int PARTS = PARTS_, BITS = BITS_;
  static constexpr bool OFFSET = OFFSET_;

  const uint8_t* numbers;
  const float* scales;

  template <int S>
  FLOVER_INLINE_MEMBER Bytes step(int64_t b, Number<S>) const {
    return load_bytes(numbers + (b * STEPS + S) * PLANE);
  }
  FLOVER_INLINE_MEMBER void factors(int64_t b, F16* scale, F16* offset) const {
    const float* p = scales + b * PARTS * 2 * PANEL;
    for (int j = 0; j < PARTS; j++) {
      scale[j] = load(p + j * PANEL);
      if (OFFSET) offset[j] = load(p + (PARTS + j) * PANEL);
    }
  }
};

template <Format F>
[[gnu::noinline]] static void expand_blocks(PackedPanel<F> panel, int64_t first, int64_t blocks, uint8_t* numbers,
                                            float* scales) {
  constexpr int PARTS = PackedPanel<F>::PARTS;
  for (int64_t b = 0; b < blocks; b++, numbers += STEPS * PLANE, scales += PARTS * 2 * PANEL) {
    repeat<STEPS>([&](auto s) __attribute__((always_inline)) {
      store_bytes(numbers + s.value * PLANE, panel.step(first + b, s));
    });
    F16 scale[PARTS], offset[PARTS];
    panel.factors(first + b, scale, offset);
    for (int j = 0; j < PARTS; j++) {
      store(scales + j * PANEL, scale[j]);
      if (PackedPanel<F>::OFFSET) store(scales + (PARTS + j) * PANEL, offset[j]);
    }
  }
}

// Quantized activations of a group of rows: everything [blocks of 32 inputs][…][rows].
struct BlockGroup {
  int32_t* x;  // [steps of 4 inputs]
  float* scales;
  int32_t* starts;  // [parts]: -zero * the sum of the integers, which the products with q of the weight exceed
  float* shares;    // [parts]: scale * the sum; what the offset is multiplied with

  FLOVER_INLINE_MEMBER BlockGroup from(int64_t block, int64_t rows, int64_t parts) const {
    return {x + block * STEPS * rows, scales + block * rows, starts + block * parts * rows,
            shares + block * parts * rows};
  }
};

FLOVER_INLINE int32_t sum_of_16(const int8_t* p) {
  int32_t total = 0;
  for (int i = 0; i < 16; i++) total += p[i];
  return total;
}

// Row r of a group.
template <Format F>
static void quantize_blocks(const float* x, int64_t blocks, int64_t rows, int64_t r, BlockGroup out) {
  constexpr int PARTS = BlockTraits<F>::PARTS, ZERO = BlockTraits<F>::FORMAT.zero;
  for (int64_t b = 0; b < blocks; b++, x += BLOCK_INPUTS) {
    F16 lower = load(x), upper = load(x + LANES);
    // Numbers that are not finite have no integers: they make the scale, and so the whole row, not a number.
    const bool finite = sum(fma(lower, zero(), mul(upper, zero()))) == 0.0f;
    if (!finite) lower = upper = zero();
    const float reach = largest(max(absolute(lower), absolute(upper)));
    const float inverse = reach > TINY ? 127.0f / reach : 0.0f;
    const float scale = !finite ? float_of(0x7fc00000) : reach > TINY ? reach / 127.0f : 0.0f;
    int8_t q[BLOCK_INPUTS];
    store_i8(q, to_int(mul(lower, all(inverse))));
    store_i8(q + LANES, to_int(mul(upper, all(inverse))));
    for (int s = 0; s < STEPS; s++) memcpy(out.x + (b * STEPS + s) * rows + r, q + s * 4, 4);
    out.scales[b * rows + r] = scale;
    const int32_t halves[2] = {sum_of_16(q), sum_of_16(q + LANES)};
    for (int j = 0; j < PARTS; j++) {
      const int32_t total = PARTS == 2 ? halves[j] : halves[0] + halves[1];
      out.starts[(b * PARTS + j) * rows + r] = -ZERO * total;
      out.shares[(b * PARTS + j) * rows + r] = scale * (float)total;
    }
  }
}

// All rows, group after group.
template <Format F>
static BlockGroup quantize_to_blocks(Pool& pool, const Linear& l, int64_t in) {
  constexpr int64_t PARTS = BlockTraits<F>::PARTS;
  const int64_t blocks = in / BLOCK_INPUTS, numbers = l.rows * blocks;
  auto* memory = static_cast<int32_t*>(pool.shared_scratch((size_t)(numbers * (STEPS + 1 + 2 * PARTS)) * 4));
  auto* scales = reinterpret_cast<float*>(memory + numbers * STEPS);
  const BlockGroup all_rows{memory, scales, reinterpret_cast<int32_t*>(scales + numbers),
                            scales + numbers * (1 + PARTS)};
  over_groups(pool, l.rows, BLOCK_TILE, [&](int64_t first, int64_t rows) {
    const BlockGroup group = all_rows.from(first * blocks, 1, PARTS);
    for (int64_t r = 0; r < rows; r++) quantize_blocks<F>(l.x + (first + r) * in, blocks, rows, r, group);
  });
  return all_rows;
}

// R rows by one panel over `blocks` blocks; the sums go on from `sums` unless these are the first blocks.
template <int R, class Panel>
[[gnu::noinline]] static void block_tile(Panel panel, BlockGroup x, int64_t blocks, bool first, float* sums,
                                         int64_t sum_stride, Ahead ahead) {
  constexpr int PARTS = Panel::PARTS;
  F16 acc[R];
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) acc[r] = first ? zero() : load(sums + r * sum_stride);
  for (int64_t b = 0; b < blocks; b++, x = x.from(1, R, PARTS)) {
    fetch(ahead, b);
    F16 scale[PARTS], offset[PARTS], total[R];
    panel.factors(b, scale, offset);
    repeat<PARTS>([&](auto j) __attribute__((always_inline)) {
      constexpr int J = decltype(j)::value, COUNT = (int)STEPS / PARTS;
      I16 dots[R];
      auto step = [&](auto s) __attribute__((always_inline)) {
        return panel.step(b, Number<J * COUNT + decltype(s)::value>{});
      };
      dot_steps<COUNT, Panel::BITS, R>(step, x.x + J * COUNT * R, x.starts + J * R, dots);
#pragma GCC unroll 8
      for (int r = 0; r < R; r++)
        total[r] = J == 0 ? mul(to_float(dots[r]), scale[J]) : fma(to_float(dots[r]), scale[J], total[r]);
    });
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      acc[r] = fma(total[r], all(x.scales[r]), acc[r]);
      if (Panel::OFFSET)
        for (int j = 0; j < PARTS; j++) acc[r] = fma(offset[j], all(x.shares[j * R + r]), acc[r]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) store(sums + r * sum_stride, acc[r]);
}

// Rows of a block of rows by one panel.
template <Format F>
struct BlockRows {
  using Traits = BlockTraits<F>;
  using Expanded = ExpandedPanel<Traits::PARTS, Traits::OFFSET, Traits::BITS>;
  static constexpr bool WHOLE_BYTES = Traits::FORMAT.low == 8;  // nothing to expand

  BlockGroup x;  // of the first row
  int64_t rows, blocks;
  uint8_t* numbers;  // scratch: PIECE blocks
  float* scales;

  template <class Panel>
  void tiles(Panel panel, int64_t first, int64_t count, float* sums, int64_t sum_stride, const uint8_t* next,
             int64_t next_bytes) const {
    const int64_t groups = num_groups(rows, BLOCK_TILE);
    for (int64_t g = 0; g < groups; g++) {
      const RowGroup group = group_of(rows, groups, g);
      const BlockGroup mine = x.from(group.start * blocks, 1, Traits::PARTS).from(first, group.size, Traits::PARTS);
      const Ahead ahead = share_of(next, next_bytes, count, groups, g);
      dispatch<1, BLOCK_TILE>(group.size, [&](auto r) {
        block_tile<r.value>(panel, mine, count, first == 0, sums + group.start * sum_stride, sum_stride, ahead);
      });
    }
  }

  // `next` is what comes after the panel, most likely.
  void run(const uint8_t* data, int64_t stride, const uint8_t* next, float* sums, int64_t sum_stride) const {
    const PackedPanel<F> panel(data, blocks);
    if (rows == 1) return block_tile<1>(panel, x, blocks, true, sums, sum_stride, NOTHING);
    if constexpr (WHOLE_BYTES) {
      tiles(panel, 0, blocks, sums, sum_stride, next, stride);
    } else {
      for (int64_t b = 0; b < blocks; b += PIECE) {
        const int64_t count = least(PIECE, blocks - b), bytes = count * Traits::FORMAT.number_bytes();
        expand_blocks<F>(panel, b, count, numbers, scales);
        const uint8_t* ahead = b + PIECE < blocks ? data + (b + PIECE) * Traits::FORMAT.number_bytes() : next;
        tiles(Expanded{numbers, scales}, b, count, sums, sum_stride, ahead, bytes);
      }
    }
  }
};

template <Format F>
static void block_linear(Pool& pool, const Weight& w, const Linear& l) {
  constexpr int64_t PARTS = BlockTraits<F>::PARTS;
  constexpr size_t SUMS = ROW_BLOCK * UNIT * PANEL * sizeof(float), NUMBERS = PIECE * STEPS * PLANE;
  const int64_t blocks = w.in / BLOCK_INPUTS, stride = panel_bytes(F, w.in), panels = num_panels(w.out, w.gated);
  const int64_t unit = unit_of(panels, pool.threads()), units = (panels + unit - 1) / unit;
  const int64_t row_blocks = (l.rows + ROW_BLOCK - 1) / ROW_BLOCK;
  const BlockGroup x = quantize_to_blocks<F>(pool, l, w.in);
  auto body = [&](int64_t item, int worker) {
    const int64_t first_panel = item % units * unit, count = least(unit, panels - first_panel);
    const int64_t first = item / units * ROW_BLOCK, rows = least(ROW_BLOCK, l.rows - first);
    auto* scratch = static_cast<uint8_t*>(pool.own_scratch(worker, SUMS + NUMBERS + PIECE * PARTS * 2 * PANEL * 4));
    auto* sums = reinterpret_cast<float*>(scratch);
    const BlockRows<F> mine{x.from(first * blocks, 1, PARTS), rows, blocks, scratch + SUMS,
                            reinterpret_cast<float*>(scratch + SUMS + NUMBERS)};
    const uint8_t* data = w.data + first_panel * stride;
    for (int64_t p = 0; p < count; p++) {
      const uint8_t* next = p + 1 < count ? data + (p + 1) * stride : data + pool.threads() * unit * stride;
      mine.run(data + p * stride, stride, next, sums + p * PANEL, count * PANEL);
    }
    finish(w, l, sums, first, rows, first_panel, count);
  };
  parallel(pool, row_blocks * units, body);
}

static void run(Pool& pool, const Linear& l) {
  const Weight& w = l.weight;
  if (l.rows == 0) return;
  switch (w.format) {
    case Format::float32: return float_linear<Format::float32>(pool, w, l);
    case Format::bfloat16: return float_linear<Format::bfloat16>(pool, w, l);
    case Format::float16: return float_linear<Format::float16>(pool, w, l);
    case Format::int8:
    case Format::int4: return int_linear(pool, w, l);
    default: break;
  }
  dispatch<(int)FIRST_BLOCK, (int)LAST_BLOCK>((int)w.format,
                                              [&](auto f) { block_linear<(Format) decltype(f)::value>(pool, w, l); });
}

}  // namespace flover::FLOVER_ISA
