// Adapters of low rank beside each other in one batch.
//
// Rows are grouped by adapter, so that a step reads each adapter in use once per block of rows. A row's chains are its
// own: a sum over the inputs goes lane by lane and then through a fixed tree, an output is one chain over the ranks.
// Neither other rows nor their adapters enter it, nor the type in which a file has the matrices: they are widened.
#pragma once

#include <vector>

#include "dispatch.h"
#include "rows.h"

namespace flover::FLOVER_ISA {

constexpr int64_t LORA_ROWS = 8;      // rows of a block
constexpr int64_t LORA_RANKS = 4;     // that lie beside each other
constexpr int64_t LORA_AHEAD = 4096;  // bytes between what is read and what memory is asked for
#if defined(FLOVER_AVX512) && !defined(FLOVER_EMULATED)
constexpr int64_t LORA_TILE = 4;  // rows that a number is widened for once
#else
constexpr int64_t LORA_TILE = 2;
#endif

// Sums at once of so many rows: as many as keep multiply-adds busy and fit into registers.
FLOVER_INLINE constexpr int sums_at_once(int rows) { return rows == 1 ? 4 : LORA_TILE; }

// Rows order[first] .. order[first + rows - 1], all of one adapter.
struct LoraBlock {
  const LoraPart* parts;
  int64_t first, rows;
};

template <Format F>
struct LoraNumbers {
  using Type = uint16_t;
  FLOVER_INLINE F16 widen(const uint16_t* p) { return F == Format::bfloat16 ? load_bf16(p) : load_f16(p); }
};
template <>
struct LoraNumbers<Format::float32> {
  using Type = float;
  FLOVER_INLINE F16 widen(const float* p) { return load(p); }
};

// The numbers of a matrix from `start` on, in registers, read in the order in which they lie.
template <Format F>
struct LoraStream {
  const typename LoraNumbers<F>::Type* data;

  LoraStream(const LoraMatrix& m, int64_t start)
      : data(static_cast<const typename LoraNumbers<F>::Type*>(m.data) + start) {}
  FLOVER_INLINE_MEMBER F16 get(int64_t index) const { return LoraNumbers<F>::widen(data + index * LANES); }
  FLOVER_INLINE_MEMBER void fetch(int64_t index) const { prefetch((const char*)(data + index * LANES) + LORA_AHEAD); }
};

// z[r][i] = the product of row first + i of `down` with x[r], for R rows and so many ranks that one tile has.
template <int R, Format F>
[[gnu::noinline]] static void lora_down(const float* const* x, const LoraMatrix& down, int64_t in, int64_t first,
                                        float* z, int64_t stride) {
  constexpr int K = sums_at_once(R);
  const int64_t whole = in / LANES, lie = first / LORA_RANKS * LORA_RANKS;
  const LoraStream<F> stream(down, lie * round_up(in, LANES) + first % LORA_RANKS * LANES);
  F16 sums[R][K];
#pragma GCC unroll 4
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int i = 0; i < K; i++) sums[r][i] = zero();
  auto step = [&](int64_t k, auto&& inputs) __attribute__((always_inline)) {
    F16 w[K];
#pragma GCC unroll 4
    for (int i = 0; i < K; i++) w[i] = stream.get(k * LORA_RANKS + i);
#pragma GCC unroll 4
    for (int i = 0; i < K; i += 2) stream.fetch(k * LORA_RANKS + i);
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
      const F16 one = inputs(x[r] + k * LANES);
#pragma GCC unroll 4
      for (int i = 0; i < K; i++) sums[r][i] = fma(one, w[i], sums[r][i]);
    }
  };
  for (int64_t k = 0; k < whole; k++) step(k, [](const float* p) __attribute__((always_inline)) { return load(p); });
  if (const int left = (int)(in % LANES))
    step(whole, [&](const float* p) __attribute__((always_inline)) { return load_first(p, left); });
#pragma GCC unroll 4
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int i = 0; i < K; i++) z[r * stride + i] = sum(sums[r][i]);
}

// y[r] = the outputs of `up` from `first` on that one tile has times z[r], for R rows.
template <int R, Format F>
[[gnu::noinline]] static void lora_up(const float* z, int64_t stride, const LoraPart& part, int64_t first,
                                      float* const* y) {
  constexpr int P = sums_at_once(R);
  const int64_t rank = part.rank, valid = part.width - first;
  const LoraStream<F> stream(part.up, first * rank);
  const F16 scale = all(part.scale);
  const int64_t count = least(P, (valid + LANES - 1) / LANES);
  F16 sums[R][P];
#pragma GCC unroll 4
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int p = 0; p < P; p++) sums[r][p] = zero();
  for (int64_t i = 0; i < rank; i++) {
#pragma GCC unroll 4
    for (int p = 0; p < P; p++) {
      const int64_t index = least(p, count - 1) * rank + i;
      const F16 w = mul(stream.get(index), scale);
      stream.fetch(index);
#pragma GCC unroll 4
      for (int r = 0; r < R; r++) sums[r][p] = fma(all(z[r * stride + i]), w, sums[r][p]);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int p = 0; p < P; p++)
      if (p < count) store_first(y[r] + p * LANES, sums[r][p], (int)least(LANES, valid - p * LANES));
}

// Calls f(Number<format>{}) for the format of a matrix.
template <class Function>
FLOVER_INLINE void lora_format(const LoraMatrix& m, Function&& f) {
  if (m.format == Format::bfloat16) return f(Number<(int)Format::bfloat16>{});
  if (m.format == Format::float16) return f(Number<(int)Format::float16>{});
  f(Number<(int)Format::float32>{});
}

// One part for a tile of R rows, row after row of `rows`.
template <int R>
static void lora_tile(const LoraPart& part, const Lora& l, const int32_t* rows, float* z) {
  constexpr int64_t AT_ONCE = sums_at_once(R);
  const int64_t stride = round_up(part.rank, LORA_RANKS);
  const float* x[R];
  for (int r = 0; r < R; r++) x[r] = l.x + rows[r] * l.inputs;
  lora_format(part.down, [&](auto format) {
    for (int64_t i = 0; i < part.rank; i += AT_ONCE)
      lora_down<R, (Format)format.value>(x, part.down, l.inputs, i, z + i, stride);
  });
  lora_format(part.up, [&](auto format) {
    for (int64_t first = 0; first < part.width; first += AT_ONCE * LANES) {
      float* y[R];
      for (int r = 0; r < R; r++) y[r] = l.y + rows[r] * l.outputs + part.first + first;
      lora_up<R, (Format)format.value>(z, stride, part, first, y);
    }
  });
}

// Where the matrices of a block of rows begin.
static const char* lora_start(const LoraBlock& block, int64_t parts) {
  int64_t first = 0;
  while (first + 1 < parts && block.parts[first].rank == 0) first++;
  return static_cast<const char*>(block.parts[first].down.data);
}

static void run(Pool& pool, const Lora& l) {
  std::vector<int32_t> ends((size_t)l.slots, 0);
  auto largest_rank = [&](int64_t slot) {
    int64_t rank = 0;
    for (int64_t p = 0; p < l.parts; p++) rank = most(rank, l.table[slot * l.parts + p].rank);
    return rank;
  };
  int32_t total = 0;
  int64_t most_ranks = 0;
  for (int64_t row = 0; row < l.rows; row++) {
    const int32_t slot = l.adapters[row];
    const int64_t rank = slot >= 0 ? largest_rank(slot) : 0;
    l.adds[row] = rank > 0;
    if (!l.adds[row]) continue;
    ends[(size_t)slot]++;
    total++;
    most_ranks = most(most_ranks, rank);
  }
  if (total == 0) return;
  std::vector<int32_t> order((size_t)total);
  std::vector<LoraBlock> blocks;
  int32_t end = 0;
  for (int64_t s = 0; s < l.slots; s++) {
    const int32_t count = ends[(size_t)s];
    for (int64_t i = 0; i < count; i += LORA_ROWS)
      blocks.push_back({l.table + s * l.parts, end + i, least(LORA_ROWS, count - i)});
    ends[(size_t)s] = end;
    end += count;
  }
  for (int64_t row = 0; row < l.rows; row++)
    if (l.adds[row]) order[(size_t)ends[(size_t)l.adapters[row]]++] = (int32_t)row;
  auto items = [&](int64_t item, int worker) {
    const LoraBlock& block = blocks[(size_t)item];
    if (item + 1 < (int64_t)blocks.size()) {
      const char* next = lora_start(blocks[(size_t)item + 1], l.parts);
      for (int64_t i = 0; i < LORA_AHEAD; i += 64) prefetch(next + i);
    }
    const int32_t* rows = order.data() + block.first;
    auto* z = static_cast<float*>(
        pool.own_scratch(worker, (size_t)(LORA_TILE * round_up(most_ranks, LORA_RANKS)) * sizeof(float)));
    int64_t written = 0;  // parts do not overlap
    for (int64_t p = 0; p < l.parts; p++) written += block.parts[p].rank > 0 ? block.parts[p].width : 0;
    for (int64_t r = 0; r < block.rows && written < l.outputs; r++) {
      float* y = l.y + rows[r] * l.outputs;
      for (int64_t i = 0; i < l.outputs; i += LANES) store_first(y + i, zero(), (int)least(LANES, l.outputs - i));
    }
    for (int64_t p = 0; p < l.parts; p++)
      for (int64_t r = 0; r < block.rows && block.parts[p].rank > 0; r += LORA_TILE)
        dispatch<1, LORA_TILE>(least(LORA_TILE, block.rows - r),
                               [&](auto count) { lora_tile<count.value>(block.parts[p], l, rows + r, z); });
  };
  parallel(pool, (int64_t)blocks.size(), items);
}

}  // namespace flover::FLOVER_ISA
