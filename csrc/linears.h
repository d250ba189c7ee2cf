// The choice between all linears, by the format of the weights.
#pragma once

#include "linear_int.h"

namespace flover::FLOVER_ISA {

void block_linears(Pool& pool, const Linear& l);  // isa_blocks.cpp

static void run(Pool& pool, const Linear& l) {
  const Weight& w = l.weight;
  if (l.rows == 0) return;
  switch (w.format) {
    case Format::float32: return float_linear<Format::float32>(pool, w, l);
    case Format::bfloat16: return float_linear<Format::bfloat16>(pool, w, l);
    case Format::float16: return float_linear<Format::float16>(pool, w, l);
    case Format::int8:
    case Format::int4: return int_linear(pool, w, l);
    case Format::fp8_e4m3: return float_linear<Format::fp8_e4m3>(pool, w, l);
    default: return block_linears(pool, l);
  }
}

}  // namespace flover::FLOVER_ISA
