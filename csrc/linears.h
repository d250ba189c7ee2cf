// Linears of every format: the choice by the format of the weights.
#pragma once

#include <vector>

#include "linear_int.h"

namespace flover::FLOVER_ISA {

void block_products(Pool& pool, const Product& l);  // isa_blocks.cpp

static void run_product(Pool& pool, const Product& l) {
  switch (l.like.format) {
    case Format::float32: return float_product<Format::float32>(pool, l);
    case Format::bfloat16: return float_product<Format::bfloat16>(pool, l);
    case Format::float16: return float_product<Format::float16>(pool, l);
    case Format::int8:
    case Format::int4: return int_product(pool, l);
    case Format::fp8_e4m3: return float_product<Format::fp8_e4m3>(pool, l);
    default: return block_products(pool, l);
  }
}

// Rows first..first+rows, cut into blocks.
static void add_blocks(std::vector<RowBlock>& blocks, const Weight& w, const float* bias, int64_t first, int64_t rows) {
  for (int64_t i = 0; i < rows; i += ROW_BLOCK) blocks.push_back({&w, bias, first + i, least(ROW_BLOCK, rows - i)});
}

static void run(Pool& pool, const Linear& l) {
  if (l.rows == 0) return;
  const float* bias = l.bias ? l.bias + l.column : nullptr;
  const RowBlock whole{&l.weight, bias, 0, l.rows};
  std::vector<RowBlock> blocks;
  if (l.rows > ROW_BLOCK) add_blocks(blocks, l.weight, bias, 0, l.rows);
  run_product(pool, {.like = l.weight,
                     .blocks = blocks.empty() ? &whole : blocks.data(),
                     .num_blocks = blocks.empty() ? 1 : (int64_t)blocks.size(),
                     .rows = l.rows,
                     .most_rows = least(l.rows, ROW_BLOCK),
                     .x = l.x,
                     .order = nullptr,
                     .share = 1,
                     .absmax = l.absmax,
                     .activation = l.activation,
                     .y = l.y,
                     .stride = l.stride,
                     .column = l.column,
                     .added = l.added ? l.added + l.column : nullptr,
                     .adds = l.adds,
                     .added_stride = l.added_stride});
}

}  // namespace flover::FLOVER_ISA
