// Tiles are compiled for each number of rows: from a number that is known while running to one of them.
#pragma once

#include "simd.h"

namespace flover::FLOVER_ISA {

#if defined(FLOVER_AVX512)
constexpr int WIDE = 2;
#else
constexpr int WIDE = 1;
#endif

// Few rows take several panels at once: one alone has too few chains to hide the latency of a multiply-add.
FLOVER_INLINE constexpr int64_t panels_at_once(int64_t rows) { return rows == 1 ? 4 : rows <= 3 ? 2 : 1; }

// One or two rows read panel after panel from front to back. Hardware looks ahead to the end of a page, which is enough
// where a number is a byte; of smaller ones, which take longer to unpack, what comes two pages later is asked for.
// Measured on Zen 5, one row: of 4 bits with superblocks 1.4 to 1.7 times as fast, of others 1.1 to 1.2; of bytes 0.8.
template <int64_t BYTES>
FLOVER_INLINE void fetch_two_pages_on(const uint8_t* p) {
#pragma GCC unroll 8
  for (int64_t i = 0; i < BYTES; i += 64) prefetch(p + 8192 + i);
}

// Rows of a tile of integers. A block with more rows than `few` is in tiles of at most `many`, which take WIDE panels
// at once: their numbers are read once for both, and more chains are under way.
struct Tiling {
  int64_t few, many, wide_from;

  FLOVER_INLINE_MEMBER bool wide(int64_t rows) const { return WIDE > 1 && rows >= wide_from; }
  FLOVER_INLINE_MEMBER int64_t groups(int64_t rows) const {
    const int64_t tile = wide(rows) ? many : few;
    return (rows + tile - 1) / tile;
  }
};

template <int N>
struct Number {
  static constexpr int value = N;
};

// Calls f(Number<n>{}); n is one of FIRST..LAST.
template <int FIRST, int LAST, class Function>
FLOVER_INLINE void dispatch(int64_t n, Function&& f) {
  if constexpr (FIRST < LAST) {
    if (n != FIRST) return dispatch<FIRST + 1, LAST>(n, f);
  }
  f(Number<FIRST>{});
}

// Calls f(Number<0>{}), …, f(Number<COUNT - 1>{}).
template <int COUNT, int FIRST = 0, class Function>
FLOVER_INLINE void repeat(Function&& f) {
  if constexpr (FIRST < COUNT) {
    f(Number<FIRST>{});
    repeat<COUNT, FIRST + 1>(f);
  }
}

}  // namespace flover::FLOVER_ISA
