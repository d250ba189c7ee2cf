// Rows of numbers, shared out among the threads of a pool.
#pragma once

#include "pool.h"
#include "simd.h"

namespace flover::FLOVER_ISA {

constexpr int64_t SERIAL_WORK = 16384;  // numbers below which waking other threads costs more than it saves

// Calls body(first, last) for ranges that cover 0..rows: one range if there is little to do.
template <class Body>
static void over_rows(Pool& pool, int64_t rows, int64_t numbers_per_row, Body&& body) {
  if (rows * numbers_per_row <= SERIAL_WORK) return body((int64_t)0, rows);
  const int64_t chunk = most(1, least((rows + pool.threads() - 1) / pool.threads(), SERIAL_WORK / numbers_per_row));
  auto items = [&](int64_t item, int) { body(item * chunk, least(rows, (item + 1) * chunk)); };
  parallel(pool, (rows + chunk - 1) / chunk, items);
}

}  // namespace flover::FLOVER_ISA
