// Adapters of low rank beside each other in one batch.
//
// Rows are grouped by adapter, so that a step reads each adapter in use once per block of rows. A row's chains are its
// own: a sum over the inputs goes lane by lane and then through a fixed tree, an output is one chain over the ranks.
// Neither other rows nor their adapters enter it.
#pragma once

#include <vector>

#include "dispatch.h"
#include "rows.h"

namespace flover::FLOVER_ISA {

constexpr int64_t LORA_ROWS = 8;    // rows of a block
constexpr int64_t LORA_RANKS = 4;   // sums at once: as many as keep multiply-adds busy and fit into registers
constexpr int64_t LORA_PANELS = 4;  // likewise

// Rows order[first] .. order[first + rows - 1], all of one adapter.
struct LoraBlock {
  const LoraPart* parts;
  int64_t first, rows;
};

// z[i] = the product of row i of `down` with x.
template <int RANKS>
[[gnu::noinline]] static void lora_down(const float* x, const float* down, int64_t in, float* z) {
  const int64_t depth = round_up(in, LANES), whole = in / LANES * LANES;
  F16 sums[RANKS];
  for (int i = 0; i < RANKS; i++) sums[i] = zero();
  auto step = [&](int64_t k, F16 inputs) __attribute__((always_inline)) {
#pragma GCC unroll 4
    for (int i = 0; i < RANKS; i++) {
      prefetch(down + (RANKS + i) * depth + k);  // the next ranks: rows are too short for hardware to look ahead
      sums[i] = fma(inputs, load(down + i * depth + k), sums[i]);
    }
  };
  for (int64_t k = 0; k < whole; k += LANES) step(k, load(x + k));
  if (whole < in) step(whole, load_first(x + whole, (int)(in - whole)));
  for (int i = 0; i < RANKS; i++) z[i] = sum(sums[i]);
}

// y = `PANELS` panels of `up` times z; `valid` of the last panel's outputs are there.
template <int PANELS>
[[gnu::noinline]] static void lora_up(const float* z, const float* up, int64_t rank, float* y, int64_t valid) {
  F16 sums[PANELS];
  for (int p = 0; p < PANELS; p++) sums[p] = zero();
  for (int64_t i = 0; i < rank; i++)
#pragma GCC unroll 4
    for (int p = 0; p < PANELS; p++) sums[p] = fma(all(z[i]), load(up + (p * rank + i) * LANES), sums[p]);
  for (int p = 0; p < PANELS; p++) store_first(y + p * LANES, sums[p], (int)(p + 1 < PANELS ? LANES : valid));
}

static void lora_part(const LoraPart& part, const Lora& l, const int32_t* rows, int64_t num_rows, float* z) {
  const int64_t depth = round_up(l.inputs, LANES), panels = (part.width + LANES - 1) / LANES;
  for (int64_t i = 0; i < part.rank; i += LORA_RANKS)
    for (int64_t r = 0; r < num_rows; r++)
      dispatch<1, LORA_RANKS>(least(LORA_RANKS, part.rank - i), [&](auto ranks) {
        lora_down<ranks.value>(l.x + rows[r] * l.inputs, part.down + i * depth, l.inputs, z + r * part.rank + i);
      });
  for (int64_t p = 0; p < panels; p += LORA_PANELS)
    for (int64_t r = 0; r < num_rows; r++)
      dispatch<1, LORA_PANELS>(least(LORA_PANELS, panels - p), [&](auto count) {
        const int64_t last = p + count.value - 1, valid = least(LANES, part.width - last * LANES);
        lora_up<count.value>(z + r * part.rank, part.up + p * part.rank * LANES, part.rank,
                             l.y + rows[r] * l.outputs + part.first + p * LANES, valid);
      });
}

static void run(Pool& pool, const Lora& l) {
  std::vector<int32_t> ends((size_t)l.slots, 0);
  std::vector<int64_t> ranks((size_t)l.slots, 0);  // the largest of an adapter
  for (int64_t s = 0; s < l.slots; s++)
    for (int64_t p = 0; p < l.parts; p++) ranks[(size_t)s] = most(ranks[(size_t)s], l.table[s * l.parts + p].rank);
  int32_t total = 0;
  int64_t most_ranks = 0;
  for (int64_t row = 0; row < l.rows; row++) {
    const int32_t slot = l.adapters[row];
    l.adds[row] = slot >= 0 && ranks[(size_t)slot] > 0;
    if (!l.adds[row]) continue;
    ends[(size_t)slot]++;
    total++;
    most_ranks = most(most_ranks, ranks[(size_t)slot]);
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
    const int32_t* rows = order.data() + block.first;
    auto* z = static_cast<float*>(pool.own_scratch(worker, (size_t)(LORA_ROWS * most_ranks) * sizeof(float)));
    int64_t written = 0;  // parts do not overlap
    for (int64_t p = 0; p < l.parts; p++) written += block.parts[p].rank > 0 ? block.parts[p].width : 0;
    for (int64_t r = 0; r < block.rows && written < l.outputs; r++) {
      float* y = l.y + rows[r] * l.outputs;
      for (int64_t i = 0; i < l.outputs; i += LANES) store_first(y + i, zero(), (int)least(LANES, l.outputs - i));
    }
    for (int64_t p = 0; p < l.parts; p++)
      if (block.parts[p].rank > 0) lora_part(block.parts[p], l, rows, block.rows, z);
  };
  parallel(pool, (int64_t)blocks.size(), items);
}

}  // namespace flover::FLOVER_ISA
