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
#if (defined(FLOVER_AVX2) && !defined(FLOVER_AVX512)) || defined(FLOVER_NEON)
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

// A block of 32 inputs as it lies in memory: the head of its record, its own factors and numbers.
template <Format F>
struct PackedBlock : BlockTraits<F> {
  using Traits = BlockTraits<F>;
  static constexpr BlockFormat FORMAT = Traits::FORMAT;
  static constexpr int64_t STEP_BYTES = FORMAT.step_bytes();
  // So many rows ask for what they read next, see fetch_two_pages_on.
  static constexpr int FEW = FORMAT.low == 8 ? 0 : FORMAT.inputs == BLOCK_INPUTS ? 2 : 1;

  const uint8_t* head;
  const uint8_t* own;

  FLOVER_INLINE_MEMBER PackedBlock(const uint8_t* panel, int64_t b)
      : head(panel + FORMAT.record_place(b)), own(panel + FORMAT.step_place(b)) {}

  // Four inputs of 16 outputs, a byte each, `zero` added.
  template <int S>
  FLOVER_INLINE_MEMBER Bytes step(Number<S>) const {
    const uint8_t* planes = own + FORMAT.factor_bytes();
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

  FLOVER_INLINE_MEMBER void factors(F16* scale, F16* offset) const {
    F16 whole, shift = zero();
    if constexpr (FORMAT.scale == Scale::half)
      whole = load_f16(reinterpret_cast<const uint16_t*>(head));
    else if constexpr (FORMAT.scale == Scale::exponent)
      whole = float_of_exponents(head);
    else if constexpr (FORMAT.scale == Scale::single)
      whole = load(reinterpret_cast<const float*>(head));
    else
      split_words(head, whole, shift);
    if constexpr (FORMAT.stores_offset())
      shift = load_f16(reinterpret_cast<const uint16_t*>(head + FORMAT.offset_place()));
    const uint8_t* bytes = own;
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

// A panel as it lies in memory.
template <Format F>
struct PackedPanel : BlockTraits<F> {
  const uint8_t* data;

  FLOVER_INLINE_MEMBER explicit PackedPanel(const uint8_t* panel) : data(panel) {}
  FLOVER_INLINE_MEMBER PackedBlock<F> block(int64_t b) const { return PackedBlock<F>(data, b); }

  // From block `first` on, where a block of the file begins.
  FLOVER_INLINE_MEMBER PackedPanel from(int64_t first) const {
    return PackedPanel(data + PackedPanel::FORMAT.record_place(first));
  }
};

// What is expanded of a panel: numbers [blocks][8][64]; scales, offsets [blocks][PARTS][16].
template <int PARTS_, bool OFFSET_, int BITS_>
struct ExpandedPanel {
  static constexpr int PARTS = PARTS_, BITS = BITS_;
  static constexpr bool OFFSET = OFFSET_;
  static constexpr int FEW = 0;  // it is in the cache

  const uint8_t* numbers;
  const float* scales;

  FLOVER_INLINE_MEMBER ExpandedPanel block(int64_t b) const {
    return {numbers + b * STEPS * PLANE, scales + b * PARTS * 2 * PANEL};
  }
  template <int S>
  FLOVER_INLINE_MEMBER Bytes step(Number<S>) const {
    return load_bytes(numbers + S * PLANE);
  }
  FLOVER_INLINE_MEMBER void factors(F16* scale, F16* offset) const {
    for (int j = 0; j < PARTS; j++) {
      scale[j] = load(scales + j * PANEL);
      if (OFFSET) offset[j] = load(scales + (PARTS + j) * PANEL);
    }
  }
};

template <Format F>
[[gnu::noinline]] static void expand_blocks(PackedPanel<F> panel, int64_t blocks, uint8_t* numbers, float* scales,
                                            bool ahead) {
  constexpr int PARTS = PackedPanel<F>::PARTS;
  for (int64_t b = 0; b < blocks; b++, numbers += STEPS * PLANE, scales += PARTS * 2 * PANEL) {
    const auto block = panel.block(b);
    if (ahead) fetch_two_pages_on<PackedBlock<F>::STEP_BYTES>(block.own);
    repeat<STEPS>([&](auto s)
                      __attribute__((always_inline)) { store_bytes(numbers + s.value * PLANE, block.step(s)); });
    F16 scale[PARTS], offset[PARTS];
    block.factors(scale, offset);
    for (int j = 0; j < PARTS; j++) {
      store(scales + j * PANEL, scale[j]);
      if (PackedPanel<F>::OFFSET) store(scales + (PARTS + j) * PANEL, offset[j]);
    }
  }
}

}  // namespace flover::FLOVER_ISA
