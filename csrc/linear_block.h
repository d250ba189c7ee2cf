// Linears whose weights are in blocks of integers (blocks.h).
//
// The activations of every 32 inputs have a scale of their own: x = scale * q, q in -127..127. An output is one chain
// over the blocks of 32 inputs, in order. Of each block
//   part   = the sum of (q of the weight - zero) * q over inputs that share a scale: an exact integer
//   total  = part * scale, for 16 inputs a share fma(part of the second half, its scale, total)
//   output = fma(total, scale of x, output), then fma(offset, scale of x * sum of q, output) for each part's offset
// which is the same for any tile, thread and instruction set.
//
// Tiles of the usual formats read the panels as they are. Of the others a piece of a panel is expanded once, to a byte
// a number and float32 scales, for all tiles that follow.
#pragma once

#include "block_panel.h"
#include "bytes.h"
#include "linear.h"
#include "rows.h"

namespace flover::FLOVER_ISA {

#if defined(FLOVER_EMULATED)
constexpr int64_t BLOCK_TILE = 2;  // no vector registers to fill, and less to compile
#elif defined(FLOVER_AVX512)
constexpr int64_t BLOCK_TILE = 8;
#elif defined(FLOVER_AVX2) || defined(FLOVER_NEON)
constexpr int64_t BLOCK_TILE = 4;
#else
constexpr int64_t BLOCK_TILE = 2;  // likewise
#endif
constexpr int64_t PIECE = 16;   // blocks of 32 inputs that are expanded at once: 8 KiB of numbers
constexpr float TINY = 1e-30f;  // a block of activations that is nowhere larger counts as zero

// Quantized activations of a group of rows: everything [blocks of 32 inputs][…][rows].
struct BlockGroup {
  int32_t* x;  // [steps of 4 inputs]
  float* scales;
  int32_t* starts;  // [parts]: -zero * the sum of the integers, which the products with q of the weight exceed
  float* shares;    // [parts]: scale * the sum; what the offset is multiplied with

  FLOVER_INLINE_MEMBER BlockGroup from(int64_t block, int64_t rows, int64_t parts) const {
    return {x + block * STEPS * rows, scales + block * rows, starts + block * parts * rows,
            shares + block * parts * rows};
  }
};

// A row as a group of its own; `order` as in Weight.
template <Format F>
static void quantize_blocks(const float* x, const int32_t* order, int64_t blocks, BlockGroup out) {
  constexpr int PARTS = BlockTraits<F>::PARTS, ZERO = BlockTraits<F>::FORMAT.zero;
  for (int64_t b = 0; b < blocks; b++) {
    const float* from = x + b * BLOCK_INPUTS;
    float gathered[BLOCK_INPUTS];
    if (order) {
      for (int64_t i = 0; i < BLOCK_INPUTS; i++) gathered[i] = x[order[b * BLOCK_INPUTS + i]];
      from = gathered;
    }
    F16 lower = load(from), upper = load(from + LANES);
    // Numbers that are not finite have no integers: they make the scale, and so the whole row, not a number.
    const uint32_t bits = largest_bits(lower, upper);
    const bool finite = bits < 0x7f800000;
    if (!finite) lower = upper = zero();
    const float reach = finite ? float_of(bits) : 0.0f;
    const float inverse = reach > TINY ? 127.0f / reach : 0.0f;
    const float scale = !finite ? float_of(0x7fc00000) : reach > TINY ? reach / 127.0f : 0.0f;
    const I16 q[2] = {to_int(mul(lower, all(inverse))), to_int(mul(upper, all(inverse)))};
    auto* bytes = reinterpret_cast<int8_t*>(out.x + b * STEPS);
    store_i8(bytes, q[0]);
    store_i8(bytes + LANES, q[1]);
    out.scales[b] = scale;
    const F16 numbers[2] = {to_float(q[0]), to_float(q[1])};
    for (int j = 0; j < PARTS; j++) {
      const float total = sum(PARTS == 2 ? numbers[j] : add(numbers[0], numbers[1]));  // exact: of integers
      out.starts[b * PARTS + j] = -ZERO * (int32_t)total;
      out.shares[b * PARTS + j] = scale * total;
    }
  }
}

// Rows that were quantized alone, as a group.
static void group_blocks(const BlockGroup* alone, int64_t rows, int64_t blocks, int64_t parts, BlockGroup out) {
  const Word* from[BLOCK_TILE] = {};
  auto each = [&](auto* BlockGroup::* member, int64_t words) {
    for (int64_t r = 0; r < rows; r++) from[r] = reinterpret_cast<const Word*>(alone[r].*member);
    interleave(from, rows, words, reinterpret_cast<Word*>(out.*member));
  };
  each(&BlockGroup::x, blocks * STEPS);
  each(&BlockGroup::scales, blocks);
  each(&BlockGroup::starts, blocks * parts);
  each(&BlockGroup::shares, blocks * parts);
}

// Formats whose panels any number of rows reads as they are; the others are expanded from two rows on, which saves
// compiling.
constexpr bool is_usual(Format f) {
  return f == Format::q8_0 || f == Format::q4_0 || f == Format::q5_0 || f == Format::q4_k || f == Format::q6_k ||
         f == Format::int4_g128 || f == Format::int8_g64;
}

// Of 16 inputs that share a scale two parts are added up before they are multiplied: that takes more registers.
template <Format F>
constexpr Tiling TILING{BLOCK_TILE, BlockTraits<F>::PARTS == 2 ? (BLOCK_TILE + 1) / 2 : (BLOCK_TILE * 3 + 3) / 4,
                        is_usual(F) ? BLOCK_TILE + 1 : 4 * BLOCK_TILE + 1};

// Memory of `count` blocks of rows.
FLOVER_INLINE BlockGroup blocks_at(void* memory, int64_t count, int64_t parts) {
  auto* x = static_cast<int32_t*>(memory);
  auto* scales = reinterpret_cast<float*>(x + count * STEPS);
  return {x, scales, reinterpret_cast<int32_t*>(scales + count), scales + count * (1 + parts)};
}
FLOVER_INLINE size_t bytes_of_blocks(int64_t count, int64_t parts) {
  return (size_t)(count * (STEPS + 1 + 2 * parts)) * 4;
}

// All rows, group after group. Where several experts have the same input in the same order, it is quantized once.
template <Format F>
static BlockGroup quantize_to_blocks(Pool& pool, const Product& l) {
  constexpr int64_t PARTS = BlockTraits<F>::PARTS;
  bool shared = l.share > 1;
  for (int64_t i = 0; i < l.num_blocks; i++) shared = shared && !l.blocks[i].weight->order;
  const int64_t inputs = shared ? l.rows / l.share : 0;
  const int64_t blocks = l.like.in / BLOCK_INPUTS, numbers = (l.rows + inputs) * blocks;
  const BlockGroup all_rows = blocks_at(pool.shared_scratch(bytes_of_blocks(numbers, PARTS)), numbers, PARTS);
  const BlockGroup once = all_rows.from(l.rows * blocks, 1, PARTS);
  over_rows(pool, inputs, l.like.in, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; i++)
      quantize_blocks<F>(l.x + i * l.like.in, nullptr, blocks, once.from(i * blocks, 1, PARTS));
  });
  over_groups(pool, l, TILING<F>, 1, [&](const RowBlock& block, int64_t first, int64_t rows, int64_t, int worker) {
    const BlockGroup own =
        blocks_at(pool.own_scratch(worker, bytes_of_blocks(rows * blocks, PARTS)), rows * blocks, PARTS);
    BlockGroup alone[BLOCK_TILE];
    for (int64_t r = 0; r < rows; r++) {
      alone[r] = shared ? once.from(l.order[first + r] / l.share * blocks, 1, PARTS) : own.from(r * blocks, 1, PARTS);
      if (!shared) quantize_blocks<F>(l.input(first + r), block.weight->order, blocks, alone[r]);
    }
    group_blocks(alone, rows, blocks, PARTS, all_rows.from(first * blocks, 1, PARTS));
  });
  return all_rows;
}

// Part J of a block of 32 inputs: its integers for R rows and P panels.
template <int J, int R, int P, class Block>
FLOVER_INLINE void dot_part(const Block* blocks, BlockGroup x, I16 (&dots)[R][P]) {
  constexpr int COUNT = (int)STEPS / Block::PARTS;
  const int32_t *numbers = x.x + J * COUNT * R, *starts = x.starts + J * R;
  auto step = [&](auto s, int p)
                  __attribute__((always_inline)) { return blocks[p].step(Number<J * COUNT + decltype(s)::value>{}); };
  if constexpr (P == 1) {
    I16 own[R];
    dot_steps<COUNT, Block::BITS, R>([&](auto s) __attribute__((always_inline)) { return step(s, 0); }, numbers, starts,
                                     own);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) dots[r][0] = own[r];
  } else {
    dot_steps_of_two<COUNT, R>(step, numbers, starts, dots);
  }
}

// What a block adds to R rows of P panels.
template <int R, int P, class Block>
FLOVER_INLINE void add_block(const Block* blocks, BlockGroup x, F16 (&acc)[R][P]) {
  constexpr int PARTS = Block::PARTS;
  F16 scale[P][PARTS], offset[P][PARTS], total[R][P];
#pragma GCC unroll 2
  for (int p = 0; p < P; p++) blocks[p].factors(scale[p], offset[p]);
  repeat<PARTS>([&](auto j) __attribute__((always_inline)) {
    constexpr int J = decltype(j)::value;
    I16 dots[R][P];
    dot_part<J>(blocks, x, dots);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 2
      for (int p = 0; p < P; p++)
        total[r][p] =
            J == 0 ? mul(to_float(dots[r][p]), scale[p][J]) : fma(to_float(dots[r][p]), scale[p][J], total[r][p]);
  });
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 2
    for (int p = 0; p < P; p++) {
      acc[r][p] = fma(total[r][p], all(x.scales[r]), acc[r][p]);
      if (Block::OFFSET)
        for (int j = 0; j < PARTS; j++) acc[r][p] = fma(offset[p][j], all(x.shares[j * R + r]), acc[r][p]);
    }
}

// Asks for what the next tiles read.
template <int R, class Block>
FLOVER_INLINE void look_ahead(const Block& block, Ahead ahead, int64_t b) {
  if constexpr (R <= Block::FEW)
    fetch_two_pages_on<Block::STEP_BYTES>(block.own);
  else
    fetch(ahead, b);
}

// R rows by P panels over the blocks of a piece.
template <int R, int P, class Panel>
[[gnu::noinline]] static void block_tile(const Panel* panels, BlockGroup x, Piece piece, Sums sums, Ahead ahead) {
  using Block = decltype(panels->block(0));
  const int64_t count = piece.size / BLOCK_INPUTS;
  for (int64_t i = 0, b = 0; i < piece.count; i++) {
    F16 acc[R][P];
    begin_sums(acc, sums, piece);
    for (const int64_t end = b + count; b < end; b++, x = x.from(1, R, Panel::PARTS)) {
      if constexpr (P == 1) {
        const Block blocks[1] = {panels[0].block(b)};
        look_ahead<R>(blocks[0], ahead, b);
        add_block(blocks, x, acc);
      } else {
        const Block blocks[2] = {panels[0].block(b), panels[1].block(b)};
        fetch(ahead, b);
        add_block(blocks, x, acc);
      }
    }
    end_sums(acc, sums, piece, piece.segment + i);
  }
}

template <class Panel, int P>
struct Panels {
  Panel at[P];
};

// Rows of a block of rows by the panels of a unit.
template <Format F>
struct BlockRows {
  using Traits = BlockTraits<F>;
  using Expanded = ExpandedPanel<Traits::PARTS, Traits::OFFSET, Traits::BITS>;
  static constexpr int64_t NUMBERS = PIECE * STEPS * PLANE, SCALES = PIECE * Traits::PARTS * 2 * PANEL;

  const Weight& weight;
  BlockGroup x;  // of the first row
  int64_t rows, blocks;
  const uint8_t* data;
  int64_t stride, panels;
  Sums sums;
  uint8_t* numbers;  // scratch: PIECE blocks of WIDE panels
  float* scales;

  void run() const {
    const int64_t wide = TILING<F>.wide(rows) ? WIDE : 1;
    for (int64_t p = 0; p + wide <= panels; p += wide) {
      if (wide == 1)
        take<1>(p);
      else
        take<WIDE>(p);
    }
    if (panels % wide) take<1>(panels - 1);
  }

  // All rows by P panels, from panel p on.
  template <int P>
  void take(int64_t p) const {
    const Piece all_inputs{0, weight.in / weight.segments, 0, weight.segments, true, true};
    const uint8_t* own = data + p * stride;
    const uint8_t* next = own + P * stride;  // the panels after these, or most likely the next unit
    if constexpr (is_usual(F))
      tiles<P>(packed<P>(own), all_inputs, p, next);
    else if (rows == 1)
      tiles<1, 1>(packed<1>(own), all_inputs, p, next);
    else
      expanded<P>(own, p, next);
  }

  template <int P>
  Panels<PackedPanel<F>, P> packed(const uint8_t* own) const {
    if constexpr (P == 1)
      return {{PackedPanel<F>(own)}};
    else
      return {{PackedPanel<F>(own), PackedPanel<F>(own + stride)}};
  }

  template <int P>
  void expanded(const uint8_t* own, int64_t p, const uint8_t* next) const {
    const bool few = rows <= BLOCK_TILE;
    each_piece(weight, weight.in, PIECE * BLOCK_INPUTS, [&](const Piece& piece) {
      const int64_t b = piece.first / BLOCK_INPUTS, count = piece.inputs() / BLOCK_INPUTS;
      Panels<Expanded, P> made;
      for (int i = 0; i < P; i++) {
        made.at[i] = Expanded{numbers + i * NUMBERS, scales + i * SCALES};
        expand_blocks<F>(PackedPanel<F>(own + i * stride).from(b), count, numbers + i * NUMBERS, scales + i * SCALES,
                         few);
      }
      // Tiles of few rows take too little time to ask for what comes next: expanding does.
      const uint8_t* next_piece = b + count < blocks ? PackedPanel<F>(own).from(b + count).data : next;
      tiles<P>(made, piece, p, few ? nullptr : next_piece);
    });
  }

  template <int P, int64_t MOST = P == 1 ? TILING<F>.few : TILING<F>.many, class Panel>
  void tiles(const Panels<Panel, P>& own, const Piece& piece, int64_t p, const uint8_t* next) const {
    const int64_t first = piece.first / BLOCK_INPUTS, count = piece.inputs() / BLOCK_INPUTS;
    const int64_t groups = TILING<F>.groups(rows);
    for (int64_t g = 0; g < groups; g++) {
      const RowGroup group = group_of(rows, groups, g);
      const BlockGroup mine = x.from(group.start * blocks, 1, Traits::PARTS).from(first, group.size, Traits::PARTS);
      // The next panel is asked for where hardware's own looking ahead is not enough (look_ahead has the rest).
      const int64_t few = Traits::FORMAT.inputs == BLOCK_INPUTS ? 4 : 1;
      const Ahead ahead =
          rows <= few || !next ? NOTHING : share_of(next, P * count * Traits::FORMAT.step_bytes(), count, groups, g);
      dispatch<1, MOST>(group.size,
                        [&](auto r) { block_tile<r.value, P>(own.at, mine, piece, sums.at(group.start, p), ahead); });
    }
  }
};

template <Format F>
static void block_product(Pool& pool, const Product& l) {
  const Weight& w = l.like;
  constexpr int64_t PARTS = BlockTraits<F>::PARTS;
  constexpr size_t SUM_BYTES = SUMS * sizeof(float), NUMBERS = WIDE * BlockRows<F>::NUMBERS;
  const int64_t blocks = w.in / BLOCK_INPUTS, stride = panel_bytes(F, w.in), panels = num_panels(w.out, w.gated);
  const int64_t unit = unit_of(panels, pool.threads()), units = (panels + unit - 1) / unit;
  const BlockGroup x = quantize_to_blocks<F>(pool, l);
  auto body = [&](int64_t item, int worker) {
    const RowBlock& block = l.blocks[item / units];
    const int64_t first_panel = item % units * unit, count = least(unit, panels - first_panel);
    auto* scratch =
        static_cast<uint8_t*>(pool.own_scratch(worker, SUM_BYTES + NUMBERS + WIDE * BlockRows<F>::SCALES * 4));
    const Sums sums = sums_of(w, reinterpret_cast<float*>(scratch), count);
    const uint8_t* data = block.weight->data + first_panel * stride;
    BlockRows<F>{
        .weight = w,
        .x = x.from(block.first * blocks, 1, PARTS),
        .rows = block.rows,
        .blocks = blocks,
        .data = data,
        .stride = stride,
        .panels = count,
        .sums = sums,
        .numbers = scratch + SUM_BYTES,
        .scales = reinterpret_cast<float*>(scratch + SUM_BYTES + NUMBERS),
    }
        .run();
    finish(l, block, sums, first_panel, count);
  };
  parallel(pool, l.num_blocks * units, body);
}

void block_products(Pool& pool, const Product& l) {
  dispatch<(int)FIRST_BLOCK, (int)LAST_INTEGER_BLOCK>(
      (int)l.like.format, [&](auto f) { block_product<(Format) decltype(f)::value>(pool, l); });
}

}  // namespace flover::FLOVER_ISA
