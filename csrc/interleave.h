// The rows of a tile side by side: a tile takes one step of all its rows after another and so reads forward in memory.
#pragma once

#include <cstring>

#include "dispatch.h"

namespace flover::FLOVER_ISA {

// Four bytes of any type: rows are laid out as words, and read as what they were written as.
typedef uint32_t Word __attribute__((may_alias));
typedef uint32_t FourWords __attribute__((vector_size(16)));

FLOVER_INLINE FourWords load_four(const Word* p) {
  FourWords words;
  memcpy(&words, p, sizeof words);
  return words;
}

// Four words of four rows: word i of row r becomes word r of column i, and columns are `stride` apart.
FLOVER_INLINE void transpose_four(const Word* const* rows, int64_t first, Word* out, int64_t stride) {
  const FourWords a = load_four(rows[0] + first), b = load_four(rows[1] + first);
  const FourWords c = load_four(rows[2] + first), d = load_four(rows[3] + first);
  const FourWords ab = __builtin_shufflevector(a, b, 0, 4, 1, 5), cd = __builtin_shufflevector(c, d, 0, 4, 1, 5);
  const FourWords ab_upper = __builtin_shufflevector(a, b, 2, 6, 3, 7);
  const FourWords cd_upper = __builtin_shufflevector(c, d, 2, 6, 3, 7);
  const FourWords columns[4] = {
      __builtin_shufflevector(ab, cd, 0, 1, 4, 5),
      __builtin_shufflevector(ab, cd, 2, 3, 6, 7),
      __builtin_shufflevector(ab_upper, cd_upper, 0, 1, 4, 5),
      __builtin_shufflevector(ab_upper, cd_upper, 2, 3, 6, 7),
  };
  for (int64_t i = 0; i < 4; i++) memcpy(out + i * stride, &columns[i], sizeof columns[i]);
}

// out[i * count + r] = rows[r][i] for `words` words of `count` rows.
static void interleave(const Word* const* rows, int64_t count, int64_t words, Word* out) {
  if (count == 1) {
    memcpy(out, rows[0], (size_t)words * sizeof *out);
    return;
  }
  int64_t i = 0;
  if (count >= 4)
    for (; i + 4 <= words; i += 4) {
      // The last four rows overlap those before them where the number is no multiple of four.
      for (int64_t r = 0; r < count; r += 4) {
        const int64_t first = least(r, count - 4);
        transpose_four(rows + first, i, out + i * count + first, count);
      }
    }
  for (; i < words; i++)
    for (int64_t r = 0; r < count; r++) out[i * count + r] = rows[r][i];
}

}  // namespace flover::FLOVER_ISA
