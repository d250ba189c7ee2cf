// Linears of every format: the choice by the format of the weights.
#pragma once

#include <vector>

#if defined(FLOVER_PAIRS)
#include "linear_pairs.h"
#else
#include "linear_int.h"
#endif

namespace flover::FLOVER_ISA {

#if defined(FLOVER_PAIRS)
static void run_product(Pool& pool, const Product& l) { pair_product(pool, l); }  // of bfloat16 alone: isa_pairs.cpp
#else
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
#endif

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

// Rows are grouped by expert, so that a step reads each expert in use once and no other.
static void run(Pool& pool, const ExpertLinear& l) {
  const int64_t rows = l.rows * l.chosen;
  if (rows == 0) return;
  std::vector<int32_t> ends((size_t)l.weights.size, 0), order((size_t)rows);
  for (int64_t i = 0; i < rows; i++) ends[(size_t)l.ids[i]]++;
  std::vector<RowBlock> blocks;
  int32_t end = 0, most_rows = 0;
  for (size_t e = 0; e < ends.size(); e++) {
    const int32_t count = ends[e];
    add_blocks(blocks, l.weights.data[e], l.bias ? l.bias + (int64_t)e * l.weights.data[e].out : nullptr, end, count);
    most_rows = count > most_rows ? count : most_rows;
    ends[e] = end;
    end += count;
  }
  for (int64_t i = 0; i < rows; i++) order[(size_t)ends[(size_t)l.ids[i]]++] = (int32_t)i;
  const Weight& like = l.weights.data[0];
  run_product(pool, {.like = like,
                     .blocks = blocks.data(),
                     .num_blocks = (int64_t)blocks.size(),
                     .rows = rows,
                     .most_rows = least(most_rows, ROW_BLOCK),
                     .x = l.x,
                     .order = order.data(),
                     .share = l.input_each ? 1 : l.chosen,
                     .absmax = l.absmax,
                     .activation = l.activation,
                     .y = l.y,
                     .stride = like.gated ? like.out / 2 : like.out,
                     .column = 0});
}

}  // namespace flover::FLOVER_ISA
