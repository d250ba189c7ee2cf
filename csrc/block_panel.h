// Panels of the block formats (blocks.h) as tiles read them: step by step of four inputs, a byte a number, and float32
// scales for every block of 32 inputs.
#pragma once

#include "blocks.h"
#include "bytes.h"

namespace flover::FLOVER_ISA {

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

FLOVER_INLINE void split_words(const uint8_t* words, F16& scale, F16& offset) {
  float scales[LANES], offsets[LANES];
  for (int i = 0; i < LANES; i++) {
    const ScaleAndOffset a = split_word(word_at(words, i));
    scales[i] = a.scale, offsets[i] = a.offset;
  }
  scale = load(scales), offset = load(offsets);
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

  // From block `first` on, where a block of the file begins.
  FLOVER_INLINE_MEMBER PackedPanel from(int64_t first) const {
    PackedPanel panel = *this;
    panel.numbers += first * FORMAT.number_bytes();
    panel.scales += first * BLOCK_INPUTS / FORMAT.inputs * FORMAT.scale_bytes();
    return panel;
  }

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
    F16 whole, shift = zero();
    if constexpr (FORMAT.scale == Scale::half)
      whole = load_f16(reinterpret_cast<const uint16_t*>(p));
    else if constexpr (FORMAT.scale == Scale::exponent)
      whole = float_of_exponents(p);
    else if constexpr (FORMAT.scale == Scale::single)
      whole = load(reinterpret_cast<const float*>(p));
    else
      split_words(p, whole, shift);
    if constexpr (FORMAT.stores_offset())
      shift = load_f16(reinterpret_cast<const uint16_t*>(p + FORMAT.offset_place()));
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
[[gnu::noinline]] static void expand_blocks(PackedPanel<F> panel, int64_t blocks, uint8_t* numbers, float* scales) {
  constexpr int PARTS = PackedPanel<F>::PARTS;
  for (int64_t b = 0; b < blocks; b++, numbers += STEPS * PLANE, scales += PARTS * 2 * PANEL) {
    repeat<STEPS>([&](auto s)
                      __attribute__((always_inline)) { store_bytes(numbers + s.value * PLANE, panel.step(b, s)); });
    F16 scale[PARTS], offset[PARTS];
    panel.factors(b, scale, offset);
    for (int j = 0; j < PARTS; j++) {
      store(scales + j * PANEL, scale[j]);
      if (PackedPanel<F>::OFFSET) store(scales + (PARTS + j) * PANEL, offset[j]);
    }
  }
}

}  // namespace flover::FLOVER_ISA
