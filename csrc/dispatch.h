// Tiles are compiled for each number of rows: from a number that is known while running to one of them.
#pragma once

#include "simd.h"

namespace flover::FLOVER_ISA {

// Few rows take several panels at once: one alone has too few chains to hide the latency of a multiply-add.
FLOVER_INLINE constexpr int64_t panels_at_once(int64_t rows) { return rows == 1 ? 4 : rows <= 3 ? 2 : 1; }

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
