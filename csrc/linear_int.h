// Linears in integers: activations are quantized row by row to int8 (x = scale * q, q in -127..127), multiplied with
// int8 or int4 weights, and summed exactly.
#pragma once

#include "bytes.h"
#include "linear.h"
#include "norm.h"
#include "rotate.h"

namespace flover::FLOVER_ISA {

#if defined(FLOVER_AVX512) && !defined(FLOVER_EMULATED)
constexpr int64_t INT_TILE = 8;
#else
constexpr int64_t INT_TILE = 4;
#endif
// In tiles of int4 integers and floats share the registers.
FLOVER_INLINE Tiling tiling_of(Format f) {
  return {INT_TILE, f == Format::int4 ? INT_TILE * 3 / 4 : INT_TILE, INT_TILE + 1};
}
constexpr int64_t FEW = 4;  // rows whose int8 products take less time than memory

// A block of int4: sums over its 32 inputs of q * x, exact, for R rows. Products of 4 bits with 8 bits leave room to
// add eight pairs in 16 bits (8 * 2 * 15 * 127 = 30480).
#if defined(FLOVER_AVX512)
template <int R, int P>
FLOVER_INLINE void dot_blocks(const uint8_t* nibbles, int64_t stride, const int32_t* x, I16 (&sums)[R][P]) {
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 2
    for (int p = 0; p < P; p++) sums[r][p] = all_int(0);
#pragma GCC unroll 8
  for (int s = 0; s < 8; s++) {
    __m512i w[P];
#pragma GCC unroll 2
    for (int p = 0; p < P; p++) {
      const __m256i raw = _mm256_loadu_si256((const __m256i*)(nibbles + p * stride + s * 32));
      const __m256i low = _mm256_set1_epi8(15);
      w[p] = _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_and_si256(raw, low)),
                                _mm256_and_si256(_mm256_srli_epi16(raw, 4), low), 1);
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      const __m512i a = _mm512_set1_epi32(x[s * R + r]);
#pragma GCC unroll 2
      for (int p = 0; p < P; p++) sums[r][p].v = _mm512_dpbusd_epi32(sums[r][p].v, w[p], a);
    }
  }
}
#elif defined(FLOVER_AVX2)
template <int R>
FLOVER_INLINE void dot_block(const uint8_t* nibbles, const int32_t* x, I16* sums) {
  __m256i lo[R], hi[R];
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) lo[r] = hi[r] = _mm256_setzero_si256();
  const __m256i mask = _mm256_set1_epi8(15);
#pragma GCC unroll 8
  for (int s = 0; s < 8; s++) {
    const __m256i raw = _mm256_loadu_si256((const __m256i*)(nibbles + s * 32));
    const __m256i w_lo = _mm256_and_si256(raw, mask), w_hi = _mm256_and_si256(_mm256_srli_epi16(raw, 4), mask);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      const __m256i a = _mm256_set1_epi32(x[s * R + r]);
      lo[r] = _mm256_add_epi16(lo[r], _mm256_maddubs_epi16(w_lo, a));
      hi[r] = _mm256_add_epi16(hi[r], _mm256_maddubs_epi16(w_hi, a));
    }
  }
  const __m256i ones = _mm256_set1_epi16(1);
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) sums[r] = {_mm256_madd_epi16(lo[r], ones), _mm256_madd_epi16(hi[r], ones)};
}
#elif defined(FLOVER_NEON)
template <int R>
FLOVER_INLINE void dot_block(const uint8_t* nibbles, const int32_t* x, I16* sums) {
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) sums[r] = all_int(0);
  const uint8x16_t low = vdupq_n_u8(15);
#pragma GCC unroll 8
  for (int s = 0; s < 8; s++) {
    const uint8x16_t first = vld1q_u8(nibbles + s * 32), second = vld1q_u8(nibbles + s * 32 + 16);
    const Bytes w{vandq_u8(first, low), vandq_u8(second, low), vshrq_n_u8(first, 4), vshrq_n_u8(second, 4)};
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) sums[r] = dot(w, quad(x[s * R + r]), sums[r]);
  }
}
#else
template <int R>
FLOVER_INLINE void dot_block(const uint8_t* nibbles, const int32_t* x, I16* sums) {
  for (int r = 0; r < R; r++) {
    sums[r] = all_int(0);
    for (int s = 0; s < 8; s++)
      for (int i = 0; i < LANES; i++)
        for (int k = 0; k < 4; k++) {
          int8_t a;
          memcpy(&a, reinterpret_cast<const char*>(x + s * R + r) + k, 1);
          const uint8_t byte = nibbles[(s * 8 + i % 8) * 4 + k];
          sums[r].v[i] += (i < 8 ? byte & 15 : byte >> 4) * a;
        }
  }
}
#endif

#if !defined(FLOVER_AVX512)
template <int R, int P>
FLOVER_INLINE void dot_blocks(const uint8_t* nibbles, int64_t, const int32_t* x, I16 (&sums)[R][P]) {
  static_assert(P == 1);
  I16 own[R];
  dot_block<R>(nibbles, x, own);
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) sums[r][0] = own[r];
}
#endif

// The rows of x in integers: `x` [steps of 4 inputs][rows of the group], group after group; one scale per row; for
// int4 the sum of each block of 32, [rows][blocks]. int8 wants x + ACTIVATION_ZERO.
struct Quantized {
  int32_t* x;
  float* scales;
  float* block_sums;
};

// A row in `words` of four integers. `rotated` is room for the row in whole registers.
static void quantize_row(const float* x, const Weight& w, int64_t depth, uint32_t flip, const float* absmax_of_all,
                         float* rotated, Word* words, float* scale, float* block_sums) {
  // Numbers that are not finite have no integers: they make the scale, and so the whole row, not a number.
  const Extent extent = rotate_row(x, w.in, w.rotation, rotated);
  const float absmax = absmax_of_all ? *absmax_of_all : extent.absmax;
  *scale = extent.finite ? absmax / 127.0f * rotation_scale(w.rotation) : float_of(0x7fc00000);
  const F16 inverse = all(extent.finite && absmax > 0.0f ? 127.0f / absmax : 0.0f);
  for (int64_t k = round_up(w.in, LANES); k < depth; k += LANES) store(rotated + k, zero());
  F16 block_sum = zero();
  for (int64_t k = 0; k < depth; k += LANES, words += LANES / 4) {
    const F16 value = extent.finite ? load(rotated + k) : zero();
    const I16 q = to_int(min(all(127.0f), max(all(-127.0f), mul(value, inverse))));
    int8_t bytes[LANES];
    store_i8(bytes, q);
    memcpy(words, bytes, LANES);
    for (int64_t i = 0; i < LANES / 4; i++) words[i] ^= flip;
    if (!block_sums) continue;
    block_sum = add(block_sum, to_float(q));
    if ((k + LANES) % GROUP) continue;
    block_sums[k / GROUP] = sum(block_sum);
    block_sum = zero();
  }
}

static void run(Pool& pool, const AbsMax& a) {
  over_rows(pool, a.rows * a.parts, a.size, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; row++)
      a.y[row] = rotate_row(a.x + row * a.size, a.size, a.rotation, nullptr).absmax;
  });
}

static Quantized quantize_rows(Pool& pool, const Product& l) {
  const Weight& w = l.like;
  const int64_t depth = padded_in(w.format, w.in), blocks = w.format == Format::int4 ? depth / GROUP : 0;
  const int64_t integers = l.rows * depth / 4;
  const uint32_t flip = w.format == Format::int8 && ACTIVATION_ZERO ? 0x80808080u : 0;
  auto* memory = static_cast<int32_t*>(pool.shared_scratch((size_t)(integers + l.rows * (1 + blocks)) * 4));
  Quantized q{memory, reinterpret_cast<float*>(memory + integers), nullptr};
  if (blocks) q.block_sums = q.scales + l.rows;
  over_groups(pool, l, tiling_of(w.format), 1, [&](const RowBlock&, int64_t first, int64_t rows, int64_t, int worker) {
    const int64_t room = round_up(depth, LANES);
    auto* rotated = static_cast<float*>(pool.own_scratch(worker, (size_t)(room + rows * (room / 4)) * 4));
    const Word* words[INT_TILE];
    for (int64_t r = 0; r < rows; r++) {
      const int64_t row = first + r;
      auto* own = reinterpret_cast<Word*>(rotated + room) + r * (room / 4);
      words[r] = own;
      quantize_row(l.input(row), w, depth, flip, l.absmax ? l.absmax + l.place(row) : nullptr, rotated, own,
                   q.scales + row, q.block_sums ? q.block_sums + row * blocks : nullptr);
    }
    interleave(words, rows, depth / 4, reinterpret_cast<Word*>(q.x) + first * (depth / 4));
  });
  return q;
}

FLOVER_INLINE I16 start_sums(const WeightSums& s) { return SUMS_KIND == NO_SUMS ? all_int(0) : load_int(s.lanes); }

// R rows by P panels, which lie `stride` bytes apart.
template <int R, int P>
[[gnu::noinline]] static void int8_tile(const int32_t* x, const uint8_t* panel, int64_t stride,
                                        const float* weight_scales, const WeightSums* weight_sums, int64_t sums_stride,
                                        const float* row_scales, Piece piece, Sums sums, Ahead ahead) {
  const int64_t steps = piece.size / 4;
  F16 total[R][P], scales[R][P];
#pragma GCC unroll 16
  for (int r = 0; r < R; r++)
#pragma GCC unroll 2
    for (int p = 0; p < P; p++) scales[r][p] = mul(load(weight_scales + p * PANEL), all(row_scales[r]));
  Subtrees<R, P> subtrees;
  for (int64_t i = 0; i < piece.count; i++, x += steps * R, panel += steps * 64, weight_sums++) {
    I16 acc[R][P];
#pragma GCC unroll 16
    for (int r = 0; r < R; r++)
#pragma GCC unroll 2
      for (int p = 0; p < P; p++) acc[r][p] = start_sums(weight_sums[p * sums_stride]);
    auto two = [&](int64_t s) __attribute__((always_inline)) {
      Bytes w[P], w_next[P];
#pragma GCC unroll 2
      for (int p = 0; p < P; p++) {
        w[p] = load_bytes(panel + p * stride + s * 64);
        w_next[p] = load_bytes(panel + p * stride + (s + 1) * 64);
      }
#pragma GCC unroll 16
      for (int r = 0; r < R; r++) {
        const Quad now = quad(x[s * R + r]), next = quad(x[(s + 1) * R + r]);
#pragma GCC unroll 2
        for (int p = 0; p < P; p++) acc[r][p] = dot_two(w[p], w_next[p], now, next, acc[r][p]);
      }
    };
    const int64_t s = over_steps<2>(steps, ahead, two);
    if (s < steps)
#pragma GCC unroll 16
      for (int r = 0; r < R; r++)
#pragma GCC unroll 2
        for (int p = 0; p < P; p++)
          acc[r][p] = dot(load_bytes(panel + p * stride + s * 64), quad(x[s * R + r]), acc[r][p]);
#pragma GCC unroll 16
    for (int r = 0; r < R; r++)
#pragma GCC unroll 2
      for (int p = 0; p < P; p++) total[r][p] = mul(to_float(acc[r][p]), scales[r][p]);
    subtrees.add_to(total, i);
    ahead = ahead.after(steps / STEPS_PER_TICK);
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; r++)
#pragma GCC unroll 2
    for (int p = 0; p < P; p++) store(sums.place(r, p), total[r][p]);
}

template <int R, int P>
[[gnu::noinline]] static void int4_tile(const int32_t* x, const uint8_t* panel, int64_t stride, const float* block_sums,
                                        int64_t block_stride, const float* row_scales, Piece piece, Sums sums,
                                        Ahead ahead) {
  const int64_t blocks = piece.size / GROUP;
  F16 acc[R][P];
  Subtrees<R, P> subtrees;
  for (int64_t i = 0, b = 0; i < piece.count; i++) {
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 2
      for (int p = 0; p < P; p++) acc[r][p] = zero();
    for (const int64_t end = b + blocks; b < end; b++) {
      const uint8_t* block = panel + b * INT4_BLOCK;
      if constexpr (R == 1)
        fetch_two_pages_on<INT4_BLOCK>(block);
      else
        fetch(ahead, b);
      I16 dots[R][P];
      dot_blocks(block + 4 * PANEL, stride, x + b * (GROUP / 4) * R, dots);
#pragma GCC unroll 2
      for (int p = 0; p < P; p++) {
        const auto* numbers = reinterpret_cast<const uint16_t*>(block + p * stride);
        const F16 scale = load_f16(numbers), offset = load_f16(numbers + PANEL);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
          acc[r][p] = fma(to_float(dots[r][p]), scale, acc[r][p]);
          acc[r][p] = fma(all(block_sums[r * block_stride + b]), offset, acc[r][p]);
        }
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 2
      for (int p = 0; p < P; p++) acc[r][p] = mul(acc[r][p], all(row_scales[r]));
    subtrees.add_to(acc, i);
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 2
    for (int p = 0; p < P; p++) store(sums.place(r, p), acc[r][p]);
}

static void int_product(Pool& pool, const Product& l) {
  const Weight& w = l.like;
  const bool four = w.format == Format::int4;
  const int64_t depth = padded_in(w.format, w.in), stride = panel_bytes(w.format, w.in);
  const int64_t panels = num_panels(w.out, w.gated), blocks = depth / GROUP;
  const int64_t unit = unit_of(panels, pool.threads()), units = (panels + unit - 1) / unit;
  const Piece all_inputs{0, depth / w.segments, 0, w.segments, true, true};
  const int64_t ticks = four ? blocks : w.segments * (all_inputs.size / 4 / STEPS_PER_TICK);
  const Quantized q = quantize_rows(pool, l);
  auto body = [&](int64_t item, int worker) {
    const RowBlock& block = l.blocks[item / units];
    const int64_t first_panel = item % units * unit, count = least(unit, panels - first_panel), rows = block.rows;
    const Tiling tiling = tiling_of(w.format);
    const int64_t groups = tiling.groups(rows), wide = tiling.wide(rows) ? WIDE : 1;
    auto* scratch = static_cast<float*>(pool.own_scratch(worker, (size_t)SUMS * sizeof(float)));
    const Sums sums{scratch, count * PANEL, PANEL};  // a tile takes all segments at once
    const uint8_t* data = block.weight->data + first_panel * stride;
    const float* scales = block.weight->scales + first_panel * PANEL;
    const int64_t sums_stride = SUMS_KINDS * w.segments;
    const WeightSums* weight_sums = block.weight->sums + first_panel * sums_stride + SUMS_KIND * w.segments;
    for (int64_t p = 0, taken; p < count; p += taken) {
      taken = p + wide <= count ? wide : 1;
      const uint8_t* panel = data + p * stride;
      for (int64_t g = 0; g < groups; g++) {
        const RowGroup group = group_of(rows, groups, g);
        const int64_t row = block.first + group.start;
        const int32_t* x = q.x + row * (depth / 4);
        const float* block_sums = four ? q.block_sums + row * blocks : nullptr;
        // One panel after another is read from front to back, and hardware looks ahead: asking costs few rows of int8
        // a quarter.
        const Ahead ahead =
            !four && rows <= FEW ? NOTHING : share_of(panel + taken * stride, taken * stride, ticks, groups, g);
        if (SUMS_KIND != NO_SUMS && !four && rows > FEW)
          for (int64_t i = g; i < taken * w.segments; i += groups)
            prefetch(weight_sums + (p + taken + i / w.segments) * sums_stride + i % w.segments);
        const Sums out = sums.at(group.start, p);
        dispatch<1, INT_TILE>(group.size, [&](auto r) {
          auto tile = [&](auto at_once) {
            if (four)
              int4_tile<r.value, at_once.value>(x, panel, stride, block_sums, blocks, q.scales + row, all_inputs, out,
                                                ahead);
            else
              int8_tile<r.value, at_once.value>(x, panel, stride, scales + p * PANEL, weight_sums + p * sums_stride,
                                                sums_stride, q.scales + row, all_inputs, out, ahead);
          };
          if (taken == 1)
            tile(Number<1>{});
          else
            tile(Number<WIDE>{});
        });
      }
    }
    finish(l, block, sums, first_panel, count);
  };
  parallel(pool, l.num_blocks * units, body);
}

}  // namespace flover::FLOVER_ISA
