// What this machine can do at most: the marks that the benchmarks measure kernels against.
#pragma once

#include "pool.h"
#include "simd.h"

namespace flover::FLOVER_ISA {

// Takes so many chains at once, on every thread, to the next step `rounds` times; gives the number of lanes' steps.
template <int CHAINS, class Step>
static double over_chains(Pool& pool, int64_t rounds, Step&& step) {
  auto body = [&](int64_t, int worker) {
    F16 acc[CHAINS];
    for (int c = 0; c < CHAINS; c++) acc[c] = all((float)c);
    for (int64_t i = 0; i < rounds; i++) {
#pragma GCC unroll 16
      for (int c = 0; c < CHAINS; c++) acc[c] = step(acc[c]);
    }
    auto* sink = static_cast<float*>(pool.own_scratch(worker, CHAINS * LANES * sizeof(float)));
    for (int c = 0; c < CHAINS; c++) store(sink + c * LANES, acc[c]);
  };
  parallel(pool, pool.threads(), body);
  return (double)CHAINS * LANES * (double)rounds * pool.threads();
}

[[maybe_unused]] static double multiply_adds(Pool& pool, int64_t rounds) {
#if defined(FLOVER_AVX512)
  constexpr int CHAINS = 12;  // as many as a core that starts two in a cycle can have under way, and more
#else
  constexpr int CHAINS = 6;  // what the registers hold
#endif
  const F16 factor = all(0.5f), term = all(1.0f);
  return 2.0 * over_chains<CHAINS>(pool, rounds, [=](F16 acc) { return fma(acc, factor, term); });
}

[[maybe_unused]] static uint64_t read_all(Pool& pool, const uint8_t* data, int64_t bytes) {
  constexpr int64_t CHUNK = 1 << 18;
  auto* sums = static_cast<uint64_t*>(pool.shared_scratch((size_t)pool.threads() * 64));
  for (int t = 0; t < pool.threads(); t++) sums[t * 8] = 0;
  auto body = [&](int64_t item, int worker) {
    const uint8_t* p = data + item * CHUNK;
    const int64_t size = least(CHUNK, bytes - item * CHUNK) / 128 * 128;
    I16 a = all_int(0), b = all_int(0);
    for (int64_t i = 0; i < size; i += 128) {
      a = add(a, load_int(reinterpret_cast<const int32_t*>(p + i)));
      b = add(b, load_int(reinterpret_cast<const int32_t*>(p + i + 64)));
    }
    int32_t lanes[LANES];
    store_int(lanes, add(a, b));
    uint64_t sum = 0;
    for (int i = 0; i < LANES; i++) sum += (uint32_t)lanes[i];
    sums[worker * 8] += sum;
  };
  parallel(pool, (bytes + CHUNK - 1) / CHUNK, body);
  uint64_t sum = 0;
  for (int t = 0; t < pool.threads(); t++) sum += sums[t * 8];
  return sum;
}

}  // namespace flover::FLOVER_ISA
