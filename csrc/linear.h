// y = x · wᵀ with weights in panels.
//
// Each output is one chain over the input, in order: fma(x[k], w[k], sum) for float weights, exact integers for int8,
// one integer sum per group of 32 and two fused multiply-adds for int4. Which rows are computed together, in which
// tile, block or thread, never enters the chain: that is the invariance rule.
//
// Beside weights in bfloat16, x is rounded to bfloat16 (nearest even; what is below LEAST_FACTOR is zero, as in the
// weights), and of every two inputs the second comes first: fma(x[1], w[1], sum), then fma(x[0], w[0], sum). That is
// what VDPBF16PS computes (Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2: odd inputs first,
// rounded to nearest even, denormal numbers as zero; here there are none), and plain multiply-adds give the same bits.
//
// Where ranks share the inputs of a weight, these are cut into `segments` of one length: each is a chain of its own,
// and the chains are added as a binary tree, neighbours first. A rank of N has 1 / N of the segments, a subtree; the
// ranks' sums are added as the rest of the tree. So one rank computes the same tree as several (arXiv:2511.17826).
//
// The rows come in groups of up to `tile` rows; a group's inputs are packed step by step, so that a tile reads
// forward in memory, whatever the stride of x. Items of the pool are (block of rows, unit of panels).
#pragma once

#include "dispatch.h"
#include "interleave.h"
#include "kernels.h"
#include "pool.h"
#include "rows.h"
#include "vmath.h"
#include "weight.h"

namespace flover::FLOVER_ISA {

constexpr int64_t ROW_BLOCK = 96;      // rows that pass a unit of panels before the next unit
constexpr int64_t DEPTH = 256;         // inputs of a panel that are expanded to float32 at once: 16 KiB,
constexpr int64_t MOST_DEPTH = 384;    // or up to so many that are one segment, which is not cut for a rest
constexpr int64_t STEPS_PER_TICK = 8;  // steps of a tile between two looks ahead
constexpr int64_t UNIT = 4;            // panels per item, at most

// Panels per item: fewer where the matrix is small, so that no thread waits long for the last item of another. Even,
// because gate and up belong together.
FLOVER_INLINE int64_t unit_of(int64_t panels, int threads) { return panels < 32 * threads ? 2 : UNIT; }

// Rows of a product that one weight multiplies: first..first+rows.
struct RowBlock {
  const Weight* weight;
  const float* bias;  // [out] or null
  int64_t first, rows;
};

// What the kernels of every format compute: blocks of at most ROW_BLOCK rows, each times its own weight. The weights
// are alike in format and shape.
struct Product {
  Weight like;
  const RowBlock* blocks;
  int64_t num_blocks, rows;  // of all blocks; most_rows in the largest
  int64_t most_rows;
  const float* x;        // [.., in]
  const int32_t* order;  // row i is row order[i] of y and row order[i] / share of x; null: row i of both
  int64_t share;
  const float* absmax;  // by row of y, or null
  Activation activation;
  float* y;
  int64_t stride, column;
  const float* added = nullptr;  // by row of y: what is added to it where `adds` says so
  const int32_t* adds = nullptr;
  int64_t added_stride = 0;

  const float* added_to(int64_t place) const { return added && adds[place] ? added + place * added_stride : nullptr; }
  int64_t place(int64_t row) const { return order ? order[row] : row; }
  const float* input(int64_t row) const { return x + (order ? order[row] / share : row) * like.in; }
};

// Rows start..start+size of a block of rows.
struct RowGroup {
  int64_t start, size;
};

FLOVER_INLINE int64_t num_groups(int64_t rows, int64_t tile) { return (rows + tile - 1) / tile; }

#if defined(FLOVER_AVX512)
constexpr int WIDE = 2;
#else
constexpr int WIDE = 1;
#endif

// Rows of a tile: up to `few`. A block with `wide_from` rows of integers or more is in tiles of up to `many`, which
// take WIDE panels at once: their numbers are read once for both, and more chains are under way.
struct Tiling {
  int64_t few, many = few, wide_from = INT64_MAX;

  FLOVER_INLINE_MEMBER bool wide(int64_t rows) const { return WIDE > 1 && rows >= wide_from; }
  FLOVER_INLINE_MEMBER int64_t groups(int64_t rows) const { return num_groups(rows, wide(rows) ? many : few); }
};

// Inputs that a tile takes at once: some whole segments, or a part of one.
struct Piece {
  int64_t first, size;     // of the first segment, or of its part
  int64_t segment, count;  // the first segment, and how many
  bool begins, ends;       // with the segment's first input, with its last

  FLOVER_INLINE_MEMBER int64_t inputs() const { return size * count; }
};

// Calls body(piece) for all inputs of a weight, `depth` of them, in pieces of at most `most`, in order.
template <class Body>
FLOVER_INLINE void each_piece(const Weight& w, int64_t depth, int64_t most, Body&& body) {
  const int64_t length = depth / w.segments, at_once = most / length;
  if (at_once > 0) {
    for (int64_t s = 0; s < w.segments; s += at_once)
      body(Piece{s * length, length, s, least(at_once, w.segments - s), true, true});
    return;
  }
  for (int64_t s = 0; s < w.segments; s++)
    for (int64_t k = 0; k < length; k += most)
      body(Piece{s * length + k, least(most, length - k), s, 1, k == 0, k + most >= length});
}

// Where the sums of a tile are: [rows][panels][levels][16]. The first level has the chain that goes on and in the end
// the root of the tree, the last one a leaf that waits for its neighbour, those between larger subtrees.
struct Sums {
  float* data;         // of the tile's first row and panel
  int64_t row, panel;  // strides

  FLOVER_INLINE_MEMBER Sums at(int64_t r, int64_t p) const { return {data + r * row + p * panel, row, panel}; }
  FLOVER_INLINE_MEMBER float* place(int64_t r, int64_t p) const { return data + r * row + p * panel; }
};

FLOVER_INLINE Sums sums_of(const Weight& w, float* data, int64_t panels) {
  const int64_t panel = (1 + __builtin_ctzll((unsigned long long)w.segments)) * PANEL;
  return {data, panels * panel, panel};
}
constexpr int64_t SUMS = (MOST_LEVELS + 1) * ROW_BLOCK * UNIT * PANEL;  // of any unit

// The sums that a tile of R rows by P panels goes on from.
template <int R, int P>
FLOVER_INLINE void begin_sums(F16 (&acc)[R][P], Sums sums, const Piece& piece) {
#pragma GCC unroll 16
  for (int r = 0; r < R; r++)
#pragma GCC unroll 16
    for (int p = 0; p < P; p++) acc[r][p] = piece.begins ? zero() : load(sums.place(r, p));
}

// Puts those of a segment where they belong: with all subtrees that they complete.
template <int R, int P>
FLOVER_INLINE void end_sums(F16 (&acc)[R][P], Sums sums, const Piece& piece, int64_t segment) {
  int64_t level = piece.ends ? sums.panel - PANEL : 0;
  if (piece.ends)
    for (int64_t s = segment; s & 1; s >>= 1, level -= PANEL)
#pragma GCC unroll 16
      for (int r = 0; r < R; r++)
#pragma GCC unroll 16
        for (int p = 0; p < P; p++) acc[r][p] = add(load(sums.place(r, p) + level), acc[r][p]);
#pragma GCC unroll 16
  for (int r = 0; r < R; r++)
#pragma GCC unroll 16
    for (int p = 0; p < P; p++) store(sums.place(r, p) + level, acc[r][p]);
}

// The subtrees that wait for their neighbours while a tile of R rows by P panels takes all segments at once: few and
// beside each other, where those of `Sums` would be spread over as much memory as the sums of all rows.
template <int R, int P>
struct Subtrees {
  F16 waiting[MOST_LEVELS + 1][R][P];

  // Adds to a segment's sums the subtrees that it completes: after the last segment they are the root.
  FLOVER_INLINE_MEMBER void add_to(F16 (&acc)[R][P], int64_t segment) {
    int level = 0;
    for (int64_t s = segment; s & 1; s >>= 1, level++)
#pragma GCC unroll 16
      for (int r = 0; r < R; r++)
#pragma GCC unroll 16
        for (int p = 0; p < P; p++) acc[r][p] = add(waiting[level][r][p], acc[r][p]);
#pragma GCC unroll 16
    for (int r = 0; r < R; r++)
#pragma GCC unroll 16
      for (int p = 0; p < P; p++) waiting[level][r][p] = acc[r][p];
  }
};

// The rows are spread evenly: 32 rows are 5 5 5 5 6 6 and not 6 6 6 6 6 2.
FLOVER_INLINE RowGroup group_of(int64_t rows, int64_t groups, int64_t index) {
  const int64_t small = rows / groups, larger = rows % groups, first_larger = groups - larger;
  return {index * small + most(index - first_larger, 0), small + (index >= first_larger ? 1 : 0)};
}

// From the sums of a unit to y: bias, adapter, activation, gate. `WHOLE`: all results are there, of each panel.
template <Activation ACTIVATION, bool WHOLE>
[[gnu::noinline]] static void finish_as(const Product& l, const RowBlock& block, Sums sums, int64_t first_panel,
                                        int64_t panels) {
  const bool gated = l.like.gated;
  const int64_t each = gated ? 2 : 1, width = l.like.out / each;  // panels of one result
  const int64_t first = first_panel / each * PANEL, count = panels / each;
  const float* bias = block.bias ? block.bias + first : nullptr;
  for (int64_t r = 0; r < block.rows; r++) {
    const int64_t place = l.place(block.first + r);
    const float* added = l.added_to(place);
    if (added) added += first;
    const float* from = sums.place(r, 0);
    float* y = l.y + place * l.stride + l.column + first;
    for (int64_t i = 0; i < count; i++, from += each * sums.panel) {
      const int64_t column = i * PANEL;
      const int valid = WHOLE ? PANEL : (int)least(PANEL, width - first - column);
      auto term = [&](const float* p) { return WHOLE ? load(p) : load_first(p, valid); };
      F16 value = load(from);
      if (bias) value = add(value, term(bias + column));
      if (added) value = add(value, term(added + column));
      if (gated) {
        F16 up = load(from + sums.panel);
        if (bias) up = add(up, term(bias + width + column));
        if (added) up = add(up, term(added + width + column));
        value = ACTIVATION == Activation::swiglu_oai ? swiglu_oai(value, up) : mul(activate(value, ACTIVATION), up);
      } else {
        value = activate(value, ACTIVATION);
      }
      if (WHOLE)
        store(y + column, value);
      else
        store_first(y + column, value, valid);
    }
  }
}

FLOVER_INLINE void finish(const Product& l, const RowBlock& block, Sums sums, int64_t first_panel, int64_t panels) {
  const bool whole = (first_panel + panels) * PANEL <= l.like.out;
  dispatch<0, (int)Activation::swiglu_oai>((int)l.activation, [&](auto kind) {
    constexpr auto ACTIVATION = (Activation) decltype(kind)::value;
    if (whole)
      finish_as<ACTIVATION, true>(l, block, sums, first_panel, panels);
    else
      finish_as<ACTIVATION, false>(l, block, sums, first_panel, panels);
  });
}

// ---- float32, bfloat16, float16 ----

template <Format F>
struct Panel;  // step k of a panel, as float32

template <>
struct Panel<Format::float32> {
  static constexpr int64_t STEP = 1;
  FLOVER_INLINE void get(const uint8_t* p, F16* w) { w[0] = load(reinterpret_cast<const float*>(p)); }
};
template <>
struct Panel<Format::bfloat16> {  // the second of two inputs comes first
  static constexpr int64_t STEP = 2;
  FLOVER_INLINE void get(const uint8_t* p, F16* w) {
    load_bf16_pairs(reinterpret_cast<const uint16_t*>(p), w[1], w[0]);
  }
};
template <>
struct Panel<Format::float16> {
  static constexpr int64_t STEP = 2;
  FLOVER_INLINE void get(const uint8_t* p, F16* w) { load_f16_pairs(reinterpret_cast<const uint16_t*>(p), w[0], w[1]); }
};
template <>
struct Panel<Format::fp8_e4m3> {  // without the scale; one input at a time, as registers would not hold four
  static constexpr int64_t STEP = 4;
  template <int K>
  FLOVER_INLINE F16 input(const uint8_t* p) {
    return load_fp8<K>(p);
  }
};

// Inputs of fp8 that share a scale, which lies before them: a record of blocks.h.
constexpr int64_t SCALED = block_format(Format::fp8_e4m3).inputs, RECORD_HEAD = PANEL * 4;
constexpr bool is_scaled(Format f) { return f == Format::fp8_e4m3; }
FLOVER_INLINE F16 load_scale(const uint8_t* record) {  // by the factor larger than it is, as numbers are smaller
  return mul(load(reinterpret_cast<const float*>(record)), all(FP8_FACTOR));
}

// Where input k of a panel lies: a whole step, of fp8 a whole record.
template <Format F>
FLOVER_INLINE int64_t place_of(int64_t k) {
  return is_scaled(F) ? block_format(F).record_place(k / BLOCK_INPUTS) : k / Panel<F>::STEP * 64;
}

// Calls body(k, input k of the step at p).
template <Format F, class Body>
FLOVER_INLINE void each_input(const uint8_t* p, Body&& body) {
  constexpr int STEP = Panel<F>::STEP;
  if constexpr (is_scaled(F)) {
    repeat<STEP>([&](auto k) __attribute__((always_inline)) { body(k.value, Panel<F>::template input<k.value>(p)); });
  } else {
    F16 w[STEP];
    Panel<F>::get(p, w);
#pragma GCC unroll 2
    for (int k = 0; k < STEP; k++) body(k, w[k]);
  }
}

// What a tile asks memory for while it computes: `lines` cache lines at each tick. Hardware looks ahead by itself where
// a tile does little else than read (measured: asking costs one row a fifth); the more a tile computes, the less.
struct Ahead {
  const uint8_t* data;
  int64_t lines;

  FLOVER_INLINE_MEMBER Ahead after(int64_t ticks) const { return {data + ticks * lines * 64, lines}; }
};

FLOVER_INLINE void fetch(Ahead ahead, int64_t tick) {
  for (int64_t i = 0; i < ahead.lines; i++) prefetch(ahead.data + (tick * ahead.lines + i) * 64);
}

// The share of tile `index` of `tiles` in fetching `bytes`, in so many ticks.
FLOVER_INLINE Ahead share_of(const uint8_t* next, int64_t bytes, int64_t ticks, int64_t tiles, int64_t index) {
  const int64_t lines = (bytes / 64 + ticks * tiles - 1) / most(ticks * tiles, 1), start = index * lines * ticks * 64;
  return {next + start, start < bytes ? lines : 0};
}

constexpr Ahead NOTHING{nullptr, 0};

// Calls step(0), step(AT_ONCE), … as long as so many steps are left, and looks ahead now and then. Returns how far it
// came.
template <int AT_ONCE, class Lines, class Step>
FLOVER_INLINE int64_t over_steps(int64_t steps, Lines ahead, Step& step) {
  int64_t s = 0;
  for (; s + STEPS_PER_TICK <= steps; s += STEPS_PER_TICK) {
    fetch(ahead, s / STEPS_PER_TICK);
#pragma GCC unroll 8
    for (int i = 0; i < STEPS_PER_TICK; i += AT_ONCE) step(s + i);
  }
  for (; s + AT_ONCE <= steps; s += AT_ONCE) step(s);
  return s;
}

// R rows by P panels over the steps of a piece. `x` is [inputs][R]. Panels of fp8 begin with a record, and are one.
template <int R, int P, Format F>
[[gnu::noinline]] static void float_tile(const float* x, const uint8_t* panels, int64_t panel_stride, Piece piece,
                                         Sums sums, Ahead ahead) {
  constexpr int64_t STEP = Panel<F>::STEP;
  F16 acc[R][P], scale[P];
  if constexpr (is_scaled(F)) {
    for (int p = 0; p < P; p++) scale[p] = load_scale(panels + p * panel_stride);
    panels += RECORD_HEAD;
  }
  const int64_t steps = piece.size / STEP;
  for (int64_t i = 0; i < piece.count; i++, x += piece.size * R, panels += steps * 64) {
    begin_sums(acc, sums, piece);
    auto step = [&](int64_t s) __attribute__((always_inline)) {
#pragma GCC unroll 16
      for (int p = 0; p < P; p++)
        each_input<F>(panels + p * panel_stride + s * 64, [&](int k, F16 w) __attribute__((always_inline)) {
          if constexpr (is_scaled(F)) w = mul(w, scale[p]);
#pragma GCC unroll 16
          for (int r = 0; r < R; r++) acc[r][p] = fma(all(x[(s * STEP + k) * R + r]), w, acc[r][p]);
        });
    };
    over_steps<1>(steps, ahead, step);
    end_sums(acc, sums, piece, piece.segment + i);
    ahead = ahead.after(steps / STEPS_PER_TICK);
  }
}

#if defined(FLOVER_AVX512) && !defined(FLOVER_EMULATED)
constexpr int64_t FLOAT_TILE = 12;
#else
constexpr int64_t FLOAT_TILE = 6;
#endif

// One group of rows by `panels` panels, of which there are as many as panels_at_once says, or fewer.
template <Format F>
static void float_group(int64_t size, const float* x, const uint8_t* data, int64_t stride, int64_t panels,
                        const Piece& piece, Sums sums, Ahead ahead) {
  dispatch<1, FLOAT_TILE>(size, [&](auto rows) {
    constexpr int R = rows.value, P = panels_at_once(R);
    if (P > 1 && panels == P) return float_tile<R, P, F>(x, data, stride, piece, sums, ahead);
    for (int64_t p = 0; p < panels; p++) float_tile<R, 1, F>(x, data + p * stride, stride, piece, sums.at(0, p), ahead);
  });
}

template <Format F>
static void expand(const uint8_t* data, int64_t inputs, float* out) {
  constexpr int64_t STEP = Panel<F>::STEP;
  const int64_t together = is_scaled(F) ? SCALED : inputs;
  for (int64_t first = 0; first < inputs; first += together, data += place_of<F>(together)) {
    const F16 scale = is_scaled(F) ? load_scale(data) : zero();
    const uint8_t* steps = data + (is_scaled(F) ? RECORD_HEAD : 0);
    for (int64_t s = 0; s < together / STEP; s++, steps += 64, out += STEP * PANEL)
      each_input<F>(steps, [&](int k, F16 w) __attribute__((always_inline)) {
        if constexpr (is_scaled(F)) w = mul(w, scale);
        store(out + k * PANEL, w);
      });
  }
}

// Calls body(block, first row, rows, part, worker) for all groups of all blocks of rows, on all threads: for each of so
// many parts of a group.
template <class Body>
static void over_groups(Pool& pool, const Product& l, const Tiling& tiling, int64_t parts, Body&& body) {
  const int64_t most_groups = tiling.groups(l.most_rows);
  auto items = [&](int64_t item, int worker) {
    const int64_t part = item % parts, group_item = item / parts;
    const RowBlock& block = l.blocks[group_item / most_groups];
    const int64_t groups = tiling.groups(block.rows), index = group_item % most_groups;
    if (index >= groups) return;
    const RowGroup group = group_of(block.rows, groups, index);
    body(block, block.first + group.start, group.size, part, worker);
  };
  parallel(pool, l.num_blocks * most_groups * parts, items);
}

constexpr int64_t MOST_TILE = 12;
constexpr int64_t WORDS_AT_ONCE = 256;  // of a row

// x in groups, [words][rows of the group] one group after another. Calls make(x of a row, first, count, out) for
// `count` words of a row from word `first` on.
template <class Make>
static void pack_rows(Pool& pool, const Product& l, int64_t tile, int64_t words, Word* packed, Make&& make) {
  const int64_t pieces = (words + WORDS_AT_ONCE - 1) / WORDS_AT_ONCE;
  const int64_t parts = l.rows * words <= SERIAL_WORK ? 1 : pieces, each = pieces / parts * WORDS_AT_ONCE;
  over_groups(pool, l, {tile}, parts, [&](const RowBlock&, int64_t first_row, int64_t rows, int64_t part, int) {
    Word made[MOST_TILE][WORDS_AT_ONCE];
    const Word* from[MOST_TILE];
    for (int64_t r = 0; r < rows; r++) from[r] = made[r];
    for (int64_t first = part * each, end = least(first + each, words); first < end; first += WORDS_AT_ONCE) {
      const int64_t count = least(WORDS_AT_ONCE, end - first);
      for (int64_t r = 0; r < rows; r++) make(l.input(first_row + r), first, count, made[r]);
      interleave(from, rows, count, packed + first_row * words + first * rows);
    }
  });
}

// x as it is, or rounded to bfloat16 and in the order of its chain: the second of two inputs comes first.
template <Format F>
static void pack_floats(Pool& pool, const Product& l, int64_t tile, float* packed) {
  const int64_t in = l.like.in, depth = padded_in(F, in);
  pack_rows(pool, l, tile, depth, reinterpret_cast<Word*>(packed),
            [&](const float* x, int64_t first, int64_t count, Word* out) {
              const int64_t inputs = least(count, in - first);
              if (F == Format::bfloat16) {
                for (int64_t i = 0; i < inputs; i++) out[i ^ 1] = (uint32_t)bf16_factor(x[first + i]) << 16;
                if (inputs % 2) out[inputs - 1] = 0;
              } else {
                memcpy(out, x + first, (size_t)inputs * sizeof *out);
                for (int64_t i = inputs; i < count; i++) out[i] = 0;
              }
            });
}

template <Format F>
static void float_product(Pool& pool, const Product& l) {
  constexpr int64_t STEP = Panel<F>::STEP;
  const Weight& w = l.like;
  const int64_t depth = padded_in(F, w.in), stride = panel_bytes(F, w.in), panels = num_panels(w.out, w.gated);
  const int64_t unit = unit_of(panels, pool.threads()), units = (panels + unit - 1) / unit;
  const float* packed = l.x;
  if (l.rows > 1 || depth != w.in || l.order || F == Format::bfloat16) {
    auto* scratch = static_cast<float*>(pool.shared_scratch((size_t)(l.rows * depth) * sizeof(float)));
    pack_floats<F>(pool, l, FLOAT_TILE, scratch);
    packed = scratch;
  }
  auto body = [&](int64_t item, int worker) {
    const RowBlock& block = l.blocks[item / units];
    const int64_t first_panel = item % units * unit, count = least(unit, panels - first_panel), rows = block.rows;
    const int64_t groups = num_groups(rows, FLOAT_TILE);
    auto* scratch = static_cast<float*>(pool.own_scratch(worker, (size_t)(SUMS + MOST_DEPTH * PANEL) * sizeof(float)));
    const Sums sums = sums_of(w, scratch, count);
    float* expanded = scratch + SUMS;
    const uint8_t* data = block.weight->data + first_panel * stride;
    const float* x = packed + block.first * depth;
    const uint8_t* next_unit = data + count * stride;  // most likely
    if (groups <= (is_scaled(F) ? 1 : 2)) {  // expanding pays from three groups on, of scaled numbers from two on
      const int64_t wide = panels_at_once(group_of(rows, groups, groups - 1).size),
                    ticks = w.segments * (depth / w.segments / STEP / STEPS_PER_TICK);
      for (int64_t p = 0; p < count; p += wide) {
        const uint8_t* next = data + (p + wide) * stride;  // or the next unit, most likely
        for (int64_t g = 0; g < groups; g++) {
          const RowGroup group = group_of(rows, groups, g);
          const float* rows_x = x + group.start * depth;
          const uint8_t* panel = data + p * stride;
          const int64_t at_once = least(wide, count - p);
          each_piece(w, depth, is_scaled(F) ? SCALED : depth, [&](const Piece& piece) {
            float_group<F>(group.size, rows_x + piece.first * group.size, panel + place_of<F>(piece.first), stride,
                           at_once, piece, sums.at(group.start, p),
                           is_scaled(F) || wide > 1 ? NOTHING : share_of(next, stride, ticks, groups, g));
          });
        }
      }
    } else {
      const int64_t length = depth / w.segments;
      each_piece(w, depth, length > DEPTH && length <= MOST_DEPTH ? length : DEPTH, [&](const Piece& piece) {
        const int64_t k = piece.first, inputs = piece.inputs(), bytes = place_of<F>(inputs);
        for (int64_t p = 0; p < count; p++) {
          const uint8_t* panel = data + p * stride + place_of<F>(k);
          // The next block lies in the next panel, or further down in the first one.
          const uint8_t* next = p + 1 < count        ? panel + stride
                                : k + inputs < depth ? data + place_of<F>(k + inputs)
                                                     : next_unit;
          if (F != Format::float32) {
            expand<F>(panel, inputs, expanded);
            panel = reinterpret_cast<const uint8_t*>(expanded);
          }
          for (int64_t g = 0; g < groups; g++) {
            const RowGroup group = group_of(rows, groups, g);
            float_group<Format::float32>(group.size, x + group.start * depth + k * group.size, panel, 0, 1, piece,
                                         sums.at(group.start, p),
                                         share_of(next, bytes, piece.count * (piece.size / STEPS_PER_TICK), groups, g));
          }
        }
      });
    }
    finish(l, block, sums, first_panel, count);
  };
  parallel(pool, l.num_blocks * units, body);
}

}  // namespace flover::FLOVER_ISA
