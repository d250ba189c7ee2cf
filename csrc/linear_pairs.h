// Linears in bfloat16 with the processor's instruction, which multiplies and adds two inputs of 16 outputs at a time.
// Panels are read as they are: a step of one is a register of pairs. The chains are those of linear.h.
#pragma once

#include "linear.h"

namespace flover::FLOVER_ISA {

constexpr int64_t PAIR_TILE = 12;
constexpr int64_t PAIR_DEPTH = 1024, MOST_PAIR_DEPTH = 1408;  // as DEPTH and MOST_DEPTH: 64 KiB of two panels
static_assert(PAIR_TILE <= MOST_TILE);

constexpr int64_t FEW_PAIRS = 4;  // rows whose products take less time than memory

// Panels at once. Few rows read several, which hardware looks ahead in by itself. Up to a tile of rows takes about as
// long as memory: one panel is read after another, so that what comes next can be asked for in time. More rows need
// two: a tile loads the inputs of a row once for both. Measured on Zen 5.
FLOVER_INLINE int64_t pair_panels(int64_t rows, int64_t groups) { return rows <= FEW_PAIRS ? 4 : groups == 1 ? 1 : 2; }

// What a tile asks memory for: of each of so many panels, which begin `stride` apart.
struct PanelsAhead {
  Ahead first;
  int64_t panels, stride;
};

FLOVER_INLINE void fetch(const PanelsAhead& ahead, int64_t tick) {
  for (int64_t p = 0; p < ahead.panels; p++) fetch(Ahead{ahead.first.data + p * ahead.stride, ahead.first.lines}, tick);
}

struct Pairs {  // of 16 outputs, or one 16 times
  __m512i v;
};
FLOVER_INLINE F16 multiply_pairs(Pairs w, Pairs x, F16 sum) {
#if defined(FLOVER_EMULATED)
  const __m512i upper = _mm512_set1_epi32((int)0xffff0000);
  sum = fma(as_float({_mm512_and_si512(x.v, upper)}), as_float({_mm512_and_si512(w.v, upper)}), sum);
  return fma(as_float({_mm512_slli_epi32(x.v, 16)}), as_float({_mm512_slli_epi32(w.v, 16)}), sum);
#else
  return {_mm512_dpbf16_ps(sum.v, (__m512bh)w.v, (__m512bh)x.v)};
#endif
}

// R rows by P panels over the steps of a piece. `x` is [inputs / 2][R] pairs.
template <int R, int P>
[[gnu::noinline]] static void pair_tile(const uint32_t* x, const uint8_t* panels, int64_t stride, Piece piece,
                                        Sums sums, PanelsAhead ahead) {
  F16 acc[R][P];
  const int64_t steps = piece.size / 2;
  for (int64_t i = 0; i < piece.count; i++, x += steps * R, panels += steps * 64) {
    begin_sums(acc, sums, piece);
    auto step = [&](int64_t s) __attribute__((always_inline)) {
      Pairs w[P];
#pragma GCC unroll 4
      for (int p = 0; p < P; p++) w[p].v = _mm512_loadu_si512(panels + p * stride + s * 64);
#pragma GCC unroll 16
      for (int r = 0; r < R; r++) {
        const Pairs row{_mm512_set1_epi32((int)x[s * R + r])};
#pragma GCC unroll 4
        for (int p = 0; p < P; p++) acc[r][p] = multiply_pairs(w[p], row, acc[r][p]);
      }
    };
    over_steps<1>(steps, ahead, step);
    end_sums(acc, sums, piece, piece.segment + i);
    ahead.first = ahead.first.after(steps / STEPS_PER_TICK);
  }
}

// One group of rows by `panels` panels.
static void pair_group(int64_t size, const uint32_t* x, const uint8_t* data, int64_t stride, int64_t panels,
                       const Piece& piece, Sums sums, const PanelsAhead& ahead) {
  dispatch<1, PAIR_TILE>(size, [&](auto rows) {
    constexpr int R = rows.value;
    int64_t p = 0;
    auto tiles = [&](auto at_once) {
      for (; p + at_once.value <= panels; p += at_once.value)
        pair_tile<R, at_once.value>(x, data + p * stride, stride, piece, sums.at(0, p), ahead);
    };
    if constexpr (R <= FEW_PAIRS) tiles(Number<4>{});
    tiles(Number<2>{});
    tiles(Number<1>{});
  });
}

// The numbers at p as factors in bfloat16 (halves.h).
#if !defined(FLOVER_EMULATED)
FLOVER_INLINE __m512 factors_of(__m512 x) {
  const __mmask16 counts = _mm512_cmp_ps_mask(_mm512_abs_ps(x), _mm512_set1_ps(LEAST_FACTOR), _CMP_NLT_UQ);
  return _mm512_maskz_mov_ps(counts, x);
}
FLOVER_INLINE void round_factors(const float* p, int64_t count, uint16_t* out) {
  int64_t i = 0;
  for (; i + 2 * LANES <= count; i += 2 * LANES) {
    const __m512bh both =
        _mm512_cvtne2ps_pbh(factors_of(_mm512_loadu_ps(p + i + LANES)), factors_of(_mm512_loadu_ps(p + i)));
    memcpy(out + i, &both, sizeof both);
  }
  for (; i < count; i++) out[i] = bf16_factor(p[i]);
}
#else
FLOVER_INLINE void round_factors(const float* p, int64_t count, uint16_t* out) {
  for (int64_t i = 0; i < count; i++) out[i] = bf16_factor(p[i]);
}
#endif

// x rounded to bfloat16, two inputs a word, the first in the lower half.
static void pack_pairs(Pool& pool, const Product& l, int64_t tile, uint32_t* packed) {
  const int64_t in = l.like.in;
  pack_rows(pool, l, tile, (in + 1) / 2, packed, [&](const float* x, int64_t first, int64_t count, Word* out) {
    uint16_t halves[2 * WORDS_AT_ONCE];
    const int64_t inputs = least(2 * count, in - 2 * first);
    round_factors(x + 2 * first, inputs, halves);
    if (inputs < 2 * count) halves[inputs] = 0;
    memcpy(out, halves, (size_t)count * sizeof *out);
  });
}

static void pair_product(Pool& pool, const Product& l) {
  const Weight& w = l.like;
  const int64_t depth = padded_in(w.format, w.in), stride = panel_bytes(w.format, w.in);
  const int64_t panels = num_panels(w.out, w.gated), unit = unit_of(panels, pool.threads());
  const int64_t units = (panels + unit - 1) / unit, length = depth / w.segments;
  auto* packed = static_cast<uint32_t*>(pool.shared_scratch((size_t)(l.rows * depth) * sizeof(uint16_t)));
  pack_pairs(pool, l, PAIR_TILE, packed);
  auto body = [&](int64_t item, int worker) {
    const RowBlock& block = l.blocks[item / units];
    const int64_t first_panel = item % units * unit, count = least(unit, panels - first_panel);
    const int64_t groups = num_groups(block.rows, PAIR_TILE);
    const int64_t wide = pair_panels(block.rows, groups);
    const Sums sums = sums_of(w, static_cast<float*>(pool.own_scratch(worker, (size_t)SUMS * sizeof(float))), count);
    const uint8_t* data = block.weight->data + first_panel * stride;
    const uint8_t* next_unit = data + count * stride;  // most likely
    const uint32_t* x = packed + block.first * depth / 2;
    const int64_t most = groups == 1 ? depth : length > PAIR_DEPTH && length <= MOST_PAIR_DEPTH ? length : PAIR_DEPTH;
    each_piece(w, depth, most, [&](const Piece& piece) {
      const int64_t k = piece.first, inputs = piece.inputs(), ticks = piece.count * (piece.size / 2 / STEPS_PER_TICK);
      for (int64_t p = 0; p < count; p += wide) {
        // The next block lies in the next panels, or further down in the first ones.
        const uint8_t* next = p + wide < count     ? data + (p + wide) * stride + k * 32
                              : k + inputs < depth ? data + (k + inputs) * 32
                                                   : next_unit;
        for (int64_t g = 0; g < groups; g++) {
          const RowGroup group = group_of(block.rows, groups, g);
          const int64_t at_once = least(wide, count - p);
          const Ahead ahead = wide < 4 ? share_of(next, inputs * 32, ticks, groups, g) : NOTHING;
          pair_group(group.size, x + (group.start * depth + k * group.size) / 2, data + p * stride + k * 32, stride,
                     at_once, piece, sums.at(group.start, p), {ahead, wide, stride});
        }
      }
    });
    finish(l, block, sums, first_panel, count);
  };
  parallel(pool, l.num_blocks * units, body);
}

}  // namespace flover::FLOVER_ISA
