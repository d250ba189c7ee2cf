// Rotary embedding with the write to the pages, and attention over the pages.
//
// The keys of a row are seen in blocks of 64 positions that start at multiples of 64, whatever the page size, the
// chunk or the window. A token goes through the blocks it sees in order, with a running maximum (M. Milakov,
// N. Gimelshein: Online normalizer calculation for softmax, arXiv:1805.02867): a score is one chain over the
// dimensions of the head (of exact integers where keys are int8), an output one chain over the keys. Which tokens,
// heads or rows share a tile never enters.
#pragma once

#include "attention_int.h"
#include "dispatch.h"
#include "norm.h"
#include "vmath.h"

namespace flover::FLOVER_ISA {

constexpr int64_t BLOCK = 64;  // keys
constexpr int64_t BLOCK_PANELS = BLOCK / LANES;
constexpr int64_t QUERY_TILE = 6;  // queries in registers at once
constexpr int64_t QUERIES = 48;    // queries (tokens times heads that share a key head) of one item, about
constexpr float NEVER = -__builtin_inff();

// How many panels of 16 keys, or chunks of 16 dimensions, so many queries take at once: what leaves room in the
// registers. A number that is widened, and one that is broadcast, then serves several multiply-adds.
FLOVER_INLINE constexpr int64_t keys_at_once(int64_t queries) {
#if defined(FLOVER_AVX512)
  return queries <= QUERY_TILE ? 4 : 1;
#else
  return panels_at_once(queries);
#endif
}

// ---- the three types of keys and values ----

template <Cache C>
struct Stored;
template <>
struct Stored<Cache::float32> {
  using Type = float;
  FLOVER_INLINE F16 get(const float* p) { return load(p); }
  FLOVER_INLINE F16 get_first(const float* p, int n) { return load_first(p, n); }
};
template <>
struct Stored<Cache::bfloat16> {
  using Type = uint16_t;
  FLOVER_INLINE F16 get(const uint16_t* p) { return load_bf16(p); }
  FLOVER_INLINE F16 get_first(const uint16_t* p, int n) {
    uint16_t part[LANES] = {};
    memcpy(part, p, (size_t)n * 2);
    return load_bf16(part);
  }
};
template <>
struct Stored<Cache::int8> {
  using Type = int8_t;
  FLOVER_INLINE F16 get(const int8_t* p) { return load_i8(p); }
  FLOVER_INLINE F16 get_first(const int8_t* p, int n) {
    int8_t part[LANES] = {};
    memcpy(part, p, (size_t)n);
    return load_i8(part);
  }
};

// ---- rotary and write ----

FLOVER_INLINE void rotate(float* x, const float* cos, const float* sin, int64_t rotary_dim, bool interleaved) {
  const int64_t half = rotary_dim / 2, step = interleaved ? 2 : 1, apart = interleaved ? 1 : half;
  for (int64_t i = 0; i < half; i++) {
    const float first = x[i * step], second = x[i * step + apart];
    x[i * step] = first * cos[i] - second * sin[i];
    x[i * step + apart] = second * cos[i] + first * sin[i];
  }
}

// One head's vector to `out`, `step` apart.
template <Cache C>
FLOVER_INLINE void write_head(const float* x, int64_t dim, typename Stored<C>::Type* out, int64_t step, float* scale) {
  if constexpr (C == Cache::float32) {
    for (int64_t i = 0; i < dim; i++) out[i * step] = x[i];
  } else if constexpr (C == Cache::bfloat16) {
    for (int64_t i = 0; i < dim; i++) out[i * step] = narrow_bf16(x[i]);
  } else {
    *scale = quantize_head(x, dim, [&](int64_t i, int8_t number) { out[i * step] = number; });
  }
}

template <Cache C>
static void rotary_of(Pool& pool, const Rotary& a) {
  const Pages& pages = a.pages;
  using Type = typename Stored<C>::Type;
  const int64_t dim = pages.dim, heads = pages.heads, size = pages.page_size;
  const int64_t stride = (a.query_heads + 2 * heads) * dim;
  over_rows(pool, a.rows, stride, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; row++) {
      float* x = a.qkv + row * stride;
      if (a.rotary_dim)
        for (int64_t head = 0; head < a.query_heads + heads; head++)
          rotate(x + head * dim, a.cos + row * a.rotary_dim / 2, a.sin + row * a.rotary_dim / 2, a.rotary_dim,
                 a.interleaved);
      if (a.query_norm)
        for (int64_t head = 0; head < a.query_heads + heads; head++)
          rms_row(x + head * dim, head < a.query_heads ? a.query_norm : a.key_norm, dim, a.eps, x + head * dim);
      const int64_t page = a.slots[row] / size, offset = a.slots[row] % size;
      for (int64_t head = 0; head < heads; head++) {
        const int64_t base = (page * heads + head) * dim * size, scale = (page * heads + head) * size + offset;
        const float* key = x + (a.query_heads + head) * dim;
        write_head<C>(key, dim, static_cast<Type*>(pages.keys) + base + offset, size,
                      C == Cache::int8 ? pages.key_scales + scale : nullptr);
        write_head<C>(key + heads * dim, dim, static_cast<Type*>(pages.values) + base + offset * dim, 1,
                      C == Cache::int8 ? pages.value_scales + scale : nullptr);
      }
    }
  });
}

// ---- attention ----

// 16 tokens: dimension d of all their keys is at keys + d * step, their values follow each other.
template <class S>
struct TokenPanel {
  const typename S::Type* keys;
  int64_t step;
  const typename S::Type* values;
  const float* key_scales;
  const float* value_scales;
};

// Both tiles fetch, 16 numbers for each key and dimension, what they read in the next head or block: two tiles ahead,
// since memory takes longer than one. It lies in other pages, where hardware does not look by itself.
template <class S>
constexpr int64_t IN_LINE = 4 / (int64_t)sizeof(typename S::Type);  // how often 16 numbers go into a cache line

// Into the second cache: a core waits for fewer lines of the first one at once than memory can send. Bytes come slower
// than that, since widening them takes long, and are wanted in the first.
template <class S>
FLOVER_INLINE void fetch(const typename S::Type* p) {
  if constexpr (IN_LINE<S> == 4)
    prefetch_near(p);
  else
    prefetch(p);
}

// R queries by P panels of 16 keys: scores before the scale. `x` is [dim][R]. `next`: keys of the panels to come.
template <int R, int P, class S>
FLOVER_INLINE void score_tile(const float* x, const TokenPanel<S>* panels, const typename S::Type* const* next,
                              int64_t dim, float* scores) {
  F16 acc[R][P];
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 8
    for (int p = 0; p < P; p++) acc[r][p] = zero();
  const typename S::Type* keys[P];
#pragma GCC unroll 8
  for (int p = 0; p < P; p++) keys[p] = panels[p].keys;
  auto step = [&](int64_t d) __attribute__((always_inline)) {
#pragma GCC unroll 8
    for (int p = 0; p < P; p++) {
      const F16 key = S::get(keys[p]);
      keys[p] += panels[p].step;
#pragma GCC unroll 8
      for (int r = 0; r < R; r++) acc[r][p] = fma(all(x[d * R + r]), key, acc[r][p]);
    }
  };
  int64_t d = 0;
  for (; d + 4 <= dim; d += 4) {
#pragma GCC unroll 4
    for (int64_t line = 0; line < 4; line += IN_LINE<S>)
#pragma GCC unroll 8
      for (int p = 0; p < P; p++) fetch<S>(next[p] + (d + line) * LANES);
#pragma GCC unroll 4
    for (int64_t i = 0; i < 4; i++) step(d + i);
  }
  for (; d < dim; d++) step(d);
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 8
    for (int p = 0; p < P; p++) store(scores + r * BLOCK + p * LANES, acc[r][p]);
}

template <int R, int P, class S>
[[gnu::noinline]] static void score_rows(const float* x, const TokenPanel<S>* panels,
                                         const typename S::Type* const* next, int64_t count, int64_t dim,
                                         float* scores) {
  int64_t p = 0;
  for (; p + P <= count; p += P) score_tile<R, P, S>(x, panels + p, next + p, dim, scores + p * LANES);
  if constexpr (P > 1)
    for (; p < count; p++) score_tile<R, 1, S>(x, panels + p, next + p, dim, scores + p * LANES);
}

// R queries, C chunks of 16 dimensions: outputs go on over keys first..last of the block. `next`: values of the four
// panels to come.
template <int R, int C, class S>
FLOVER_INLINE void value_tile(const float* weights, const TokenPanel<S>* panels, const typename S::Type* const* next,
                              int64_t first, int64_t last, int64_t dim, int64_t start, int last_lanes, float* outputs,
                              int64_t stride) {
  F16 acc[R][C];
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 8
    for (int c = 0; c < C; c++) acc[r][c] = load(outputs + r * stride + start + c * LANES);
  const typename S::Type* ahead[C];
  const int64_t chunks = (dim + LANES - 1) / LANES;
#pragma GCC unroll 8
  for (int c = 0; c < C; c++) {
    const int64_t chunk = start / LANES + c, panel = chunk * BLOCK_PANELS / chunks;
    ahead[c] = next[panel] + most(0, chunk * BLOCK - panel * dim) * LANES;
  }
  auto step = [&](const typename S::Type* values, int64_t j) __attribute__((always_inline)) {
    F16 value[C];
#pragma GCC unroll 8
    for (int c = 0; c < C; c++) {
      const auto* p = values + start + c * LANES;
      value[c] = c == C - 1 && last_lanes < LANES ? S::get_first(p, last_lanes) : S::get(p);
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      const F16 weight = all(weights[r * BLOCK + j]);
#pragma GCC unroll 8
      for (int c = 0; c < C; c++) acc[r][c] = fma(weight, value[c], acc[r][c]);
    }
  };
  for (int64_t begin = first, end; begin < last; begin = end) {
    const int64_t panel = begin / LANES;
    end = least(last, (panel + 1) * LANES);
    const auto* values = panels[panel].values + begin % LANES * dim;
    int64_t j = begin;
    for (; j + 4 <= end; j += 4) {
#pragma GCC unroll 4
      for (int64_t line = 0; line < 4; line += IN_LINE<S>)
#pragma GCC unroll 8
        for (int c = 0; c < C; c++) fetch<S>(ahead[c] + (j + line) * LANES);
#pragma GCC unroll 4
      for (int64_t i = 0; i < 4; i++, values += dim) step(values, j + i);
    }
    for (; j < end; j++, values += dim) step(values, j);
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 8
    for (int c = 0; c < C; c++) store(outputs + r * stride + start + c * LANES, acc[r][c]);
}

template <int R, int C, class S>
[[gnu::noinline]] static void value_rows(const float* weights, const TokenPanel<S>* panels,
                                         const typename S::Type* const* next, int64_t first, int64_t last, int64_t dim,
                                         float* outputs, int64_t stride) {
  int64_t start = 0;
  if constexpr (C > 1)
    for (; start + C * LANES <= dim; start += C * LANES)
      value_tile<R, C, S>(weights, panels, next, first, last, dim, start, LANES, outputs, stride);
  for (; start + LANES <= dim; start += LANES)
    value_tile<R, 1, S>(weights, panels, next, first, last, dim, start, LANES, outputs, stride);
  if (start < dim)
    value_tile<R, 1, S>(weights, panels, next, first, last, dim, start, (int)(dim - start), outputs, stride);
}

// One item: some tokens of a row, with some key heads and the query heads that share each of them. All the heads go
// through a block before any goes on: what lies together in a page is read together. Scores are PLAIN, or have a cap,
// slopes or sinks.
template <Cache C, bool PLAIN>
class Attender {
  using S = Stored<C>;
  using Type = typename S::Type;

 public:
  Attender(const Attention& a, const Pages& pages, int64_t row, int64_t head, int64_t heads, int64_t first,
           int64_t tokens, void* scratch)
      : a_(a),
        pages_(pages),
        table_(a.page_table + row * a.table_stride),
        first_head_(head),
        heads_(heads),
        tokens_(tokens),
        sharing_(a.query_heads / pages.heads),
        count_(tokens * sharing_),
        stride_(round_up(pages.dim, LANES)) {
    const int64_t start = a.query_starts[row], length = a.query_starts[row + 1] - start;
    token_ = start + first;
    position_ = a.context_lens[row] - length + first;
    scores_ = static_cast<float*>(scratch);
    states_ = scores_ + count_ * BLOCK;
    gathered_scales_ = states_ + heads * state_floats(count_, pages.dim);
    gathered_ = reinterpret_cast<Type*>(gathered_scales_ + 2 * BLOCK);
  }

  static size_t scratch_bytes(const Attention& a, const Pages& pages, int64_t heads, int64_t tokens) {
    const int64_t count = tokens * a.query_heads / pages.heads;
    const int64_t gathered = 2 * BLOCK * (1 + pages.dim);
    return (size_t)(count * BLOCK + heads * state_floats(count, pages.dim) + gathered) * sizeof(float);
  }

  void run() {
    for (int64_t h = 0; h < heads_; h++) {
      enter(h);
      pack_queries();
      for (int64_t i = 0; i < count_ * stride_; i++) outputs_[i] = 0.0f;
      for (int64_t m = 0; m < count_; m++) {
        const bool sink = !PLAIN && a_.sinks;
        maxima_[m] = sink ? a_.sinks[query_head(m)] : NEVER;
        sums_[m] = sink ? 1.0f : 0.0f;
      }
    }
    const int64_t end = position_ + tokens_;
    for (int64_t block = first_seen(position_) / BLOCK; block * BLOCK < end; block++)
      for (int64_t h = 0; h < heads_; h++) {
        enter(h);
        see(block * BLOCK, end);
      }
    for (int64_t h = 0; h < heads_; h++) {
      enter(h);
      write();
    }
  }

 private:
  // What is kept of one key head from block to block.
  static int64_t state_floats(int64_t count, int64_t dim) { return count * (dim + round_up(dim, LANES) + 4); }

  void enter(int64_t h) {
    head_ = first_head_ + h;
    queries_ = states_ + h * state_floats(count_, pages_.dim);
    outputs_ = queries_ + count_ * pages_.dim;
    maxima_ = outputs_ + count_ * stride_;
    sums_ = maxima_ + count_;
    scales_ = sums_ + count_;
    starts_ = reinterpret_cast<int32_t*>(scales_ + count_);
  }

  int64_t query_head(int64_t m) const { return head_ * sharing_ + m % sharing_; }

  int64_t first_seen(int64_t position) const { return a_.window ? most(0, position - a_.window + 1) : 0; }

  // [dim][rows of the group], group after group.
  void pack_queries() {
    if constexpr (C == Cache::int8) return pack_bytes();
    const int64_t groups = (count_ + QUERY_TILE - 1) / QUERY_TILE;
    for (int64_t g = 0; g < groups; g++) {
      const int64_t first = g * QUERY_TILE, size = least(QUERY_TILE, count_ - first);
      float* out = queries_ + first * pages_.dim;
      for (int64_t r = 0; r < size; r++) {
        const int64_t m = first + r;
        const float* q = a_.queries + (token_ + m / sharing_) * a_.query_stride + query_head(m) * pages_.dim;
        for (int64_t d = 0; d < pages_.dim; d++) out[d * size + r] = q[d];
      }
    }
  }

  // [dim / 4][rows of the group][4] in int8.
  void pack_bytes() {
    const int64_t quads = (pages_.dim + 3) / 4;
    memset(queries_, 0, (size_t)(count_ * quads * 4));
    for (int64_t m = 0; m < count_; m++) {
      const int64_t first = m / QUERY_TILE * QUERY_TILE, size = least(QUERY_TILE, count_ - first);
      auto* out = reinterpret_cast<int8_t*>(queries_) + (first * quads + m - first) * 4;
      const float* q = a_.queries + (token_ + m / sharing_) * a_.query_stride + query_head(m) * pages_.dim;
      int32_t total = 0;
      scales_[m] = quantize_head(q, pages_.dim, [&](int64_t d, int8_t number) {
        out[d / 4 * size * 4 + d % 4] = number;
        total += number;
      });
      starts_[m] = -128 * total;
    }
  }

  // Scores of `size` queries from `first` on and so many panels.
  void score(int64_t first, int64_t size, const TokenPanel<S>* panels, const Type* const* next, int64_t count,
             float* scores) const {
    dispatch<1, QUERY_TILE>(size, [&](auto rows) {
      constexpr int R = rows.value;
      if constexpr (C == Cache::int8) {
        const auto* x = reinterpret_cast<const int32_t*>(queries_) + first * ((pages_.dim + 3) / 4);
        const ByteQueries queries{x, starts_ + first, scales_ + first};
        for (int64_t p = 0; p < count; p++)
          score_bytes<R>(queries, panels[p].keys, panels[p].step, next[p], pages_.dim, scores + p * LANES, BLOCK);
      } else {
        score_rows<R, keys_at_once(R), S>(queries_ + first * pages_.dim, panels, next, count, pages_.dim, scores);
      }
    });
  }

  void see(int64_t start, int64_t end) {
    // What the tokens of this item see of the block, all together.
    const int64_t from = most(start, first_seen(position_)) - start, to = least(BLOCK, end - start);
    const int64_t first_panel = from / LANES, panels = (to + LANES - 1) / LANES - first_panel;
    TokenPanel<S> block[BLOCK_PANELS];
    const Type *next_keys[BLOCK_PANELS], *next_values[BLOCK_PANELS];
    locate(start, from, to, block);
    look_ahead(start, end, next_keys, next_values);
    const int64_t groups = (count_ + QUERY_TILE - 1) / QUERY_TILE;
    for (int64_t g = 0; g < groups; g++) {
      const int64_t first = g * QUERY_TILE, size = least(QUERY_TILE, count_ - first);
      score(first, size, block + first_panel, next_keys + first_panel, panels,
            scores_ + first * BLOCK + first_panel * LANES);
      int64_t ranges[QUERY_TILE][2];
      for (int64_t r = 0; r < size; r++) {
        const int64_t position = position_ + (first + r) / sharing_;
        ranges[r][0] = least(BLOCK, most(0, first_seen(position) - start));
        ranges[r][1] = most(ranges[r][0], least(BLOCK, position + 1 - start));
      }
      weigh(first, size, ranges, start, block);
      add_values(first, size, ranges, block, next_values);
    }
  }

  // Where the panels of the block lie that have keys from..to. A page whose size is not a multiple of 16 has none.
  void locate(int64_t start, int64_t from, int64_t to, TokenPanel<S>* block) {
    if (pages_.page_size % LANES) return gather(start, from, to, block);
    const int64_t dim = pages_.dim;
    for (int64_t j = from / LANES * LANES; j < to; j += LANES) {
      const int64_t token = token_place(start + j, head_);
      TokenPanel<S>& panel = block[j / LANES];
      panel.keys = static_cast<const Type*>(pages_.keys) + key_place(start + j, head_);
      panel.step = pages_.page_size;
      panel.values = static_cast<const Type*>(pages_.values) + token * dim;
      if (C != Cache::int8) continue;
      panel.key_scales = pages_.key_scales + token;
      panel.value_scales = pages_.value_scales + token;
    }
  }

  void gather(int64_t start, int64_t from, int64_t to, TokenPanel<S>* block) {
    const int64_t dim = pages_.dim;
    Type *keys = gathered_, *values = gathered_ + BLOCK * dim;
    float *key_scales = gathered_scales_, *value_scales = gathered_scales_ + BLOCK;
    for (int64_t p = from / LANES; p * LANES < to; p++)
      block[p] = {keys + p * LANES * dim, LANES, values + p * LANES * dim, key_scales + p * LANES,
                  value_scales + p * LANES};
    for (int64_t j = from; j < to; j++) {
      const int64_t token = token_place(start + j, head_);
      const Type* key = static_cast<const Type*>(pages_.keys) + key_place(start + j, head_);
      Type* out = keys + j / LANES * LANES * dim + j % LANES;
      for (int64_t d = 0; d < dim; d++) out[d * LANES] = key[d * pages_.page_size];
      memcpy(values + j * dim, static_cast<const Type*>(pages_.values) + token * dim, (size_t)dim * sizeof(Type));
      if (C == Cache::int8) key_scales[j] = pages_.key_scales[token], value_scales[j] = pages_.value_scales[token];
    }
  }

  // Number of that position's token of a head in the pool; times dim, where its values begin.
  int64_t token_place(int64_t position, int64_t head) const {
    const int64_t size = pages_.page_size;
    return (table_[position / size] * pages_.heads + head) * size + position % size;
  }

  // Where its key begins in the pool.
  int64_t key_place(int64_t position, int64_t head) const {
    const int64_t offset = position % pages_.page_size;
    return (token_place(position, head) - offset) * pages_.dim + offset;
  }

  // Keys and values of the four panels that come after this block of this head. In a page that holds several panels the
  // keys of one lie scattered: quarters of the page stand for them, all together the same bytes. Fetches their scales.
  void look_ahead(int64_t start, int64_t end, const Type** keys, const Type** values) const {
    const bool last = head_ + 1 == first_head_ + heads_;
    const int64_t position = last ? start + BLOCK : start, head = last ? first_head_ : head_ + 1;
    for (int64_t p = 0; p < BLOCK_PANELS; p++) {
      const int64_t place = token_place(least(position + p * LANES, end - 1), head);
      keys[p] = static_cast<const Type*>(pages_.keys) + place * pages_.dim;
      values[p] = static_cast<const Type*>(pages_.values) + place * pages_.dim;
      if (C != Cache::int8) continue;
      prefetch_near(pages_.key_scales + place);
      prefetch_near(pages_.value_scales + place);
    }
  }

  // From the scores of a group of queries, each with its range of the keys from `start` on, to weights; what was summed
  // before shrinks if there is a new maximum. One step after another for all of them: a single query would wait for
  // each.
  void weigh(int64_t first, int64_t size, const int64_t (*ranges)[2], int64_t start, const TokenPanel<S>* block) {
    F16 found[QUERY_TILE], totals[QUERY_TILE];
    float now[QUERY_TILE];
    for (int64_t r = 0; r < size; r++) {
      const auto [from, to] = ranges[r];
      const int64_t distance = start - position_ - (first + r) / sharing_;
      found[r] = from == 0 && to == BLOCK ? scale_scores<true>(first + r, from, to, distance, block)
                                          : scale_scores<false>(first + r, from, to, distance, block);
    }
    for (int64_t r = 0; r < size; r++) {
      const float top = largest(found[r]);
      now[r] = top > maxima_[first + r] ? top : maxima_[first + r];
    }
    for (int64_t r = 0; r < size; r++) {
      const auto [from, to] = ranges[r];
      totals[r] = from == 0 && to == BLOCK ? exponentials<true>(first + r, from, to, now[r], block)
                                           : exponentials<false>(first + r, from, to, now[r], block);
    }
    for (int64_t r = 0; r < size; r++)
      if (ranges[r][0] < ranges[r][1]) add_weights(first + r, now[r], sum(totals[r]));
  }

  void add_weights(int64_t m, float now, float total) {
    const float before = maxima_[m];
    maxima_[m] = now;
    if (before == now) {
      sums_[m] += total;
      return;
    }
    float lanes[LANES];
    store(lanes, exponential(all(before - now)));
    const float shrink = lanes[0];
    sums_[m] = fma_one(sums_[m], shrink, total);
    float* out = outputs_ + m * stride_;
    for (int64_t d = 0; d < stride_; d++) out[d] *= shrink;
  }

  // Scores times the scale, those outside from..to never the largest. Returns the largest of each lane.
  template <bool WHOLE>
  FLOVER_INLINE_MEMBER F16 scale_scores(int64_t m, int64_t from, int64_t to, int64_t distance,
                                        const TokenPanel<S>* block) {
    float* scores = scores_ + m * BLOCK;
    const F16 scale = all(a_.scale);
    F16 top = all(NEVER);
#pragma GCC unroll 4
    for (int64_t p = 0; p < BLOCK_PANELS; p++) {
      const int64_t start = p * LANES;
      if (!WHOLE && (start >= to || start + LANES <= from)) continue;
      F16 s = mul(load(scores + start), scale);
      if (C == Cache::int8) s = mul(s, load(block[p].key_scales));
      if constexpr (!PLAIN) s = shaped(s, query_head(m), distance + start);
      if (!WHOLE) {
        if (to < start + LANES) s = keep_first(s, (int)(to - start), NEVER);
        if (from > start) s = skip_first(s, (int)(from - start), NEVER);
      }
      store(scores + start, s);
      top = max(s, top);
    }
    return top;
  }

  // Scores with cap and slope; the first key lies `distance` from the query.
  FLOVER_INLINE_MEMBER F16 shaped(F16 s, int64_t head, int64_t distance) const {
    if (a_.softcap > 0.0f) s = softcap(s, all(a_.softcap));
    if (!a_.slopes) return s;
    float distances[LANES];
    for (int64_t i = 0; i < LANES; i++) distances[i] = (float)(distance + i);
    return fma(all(a_.slopes[head]), load(distances), s);
  }

  // e^(score - largest), 0 outside from..to, in place of the scores. Returns their sum for each lane.
  template <bool WHOLE>
  FLOVER_INLINE_MEMBER F16 exponentials(int64_t m, int64_t from, int64_t to, float largest_score,
                                        const TokenPanel<S>* block) {
    float* scores = scores_ + m * BLOCK;
    F16 total = zero();
#pragma GCC unroll 4
    for (int64_t p = 0; p < BLOCK_PANELS; p++) {
      const int64_t start = p * LANES;
      if (!WHOLE && (start >= to || start + LANES <= from)) continue;
      F16 weight = exponential(sub(load(scores + start), all(largest_score)));
      if (!WHOLE) {
        if (to < start + LANES) weight = keep_first(weight, (int)(to - start), 0.0f);
        if (from > start) weight = skip_first(weight, (int)(from - start), 0.0f);
      }
      total = add(total, weight);
      if (C == Cache::int8) weight = mul(weight, load(block[p].value_scales));
      store(scores + start, weight);
    }
    return total;
  }

  // Each query sees its own range of keys in order: what all of the group see together in one tile, the rest alone.
  void add_values(int64_t first, int64_t size, const int64_t (*ranges)[2], const TokenPanel<S>* block,
                  const Type* const* next) {
    int64_t from = 0, to = BLOCK;
    for (int64_t r = 0; r < size; r++) from = most(from, ranges[r][0]), to = least(to, ranges[r][1]);
    if (from >= to) from = to = 0;
    for (int64_t r = 0; r < size; r++)
      add_alone(first + r, ranges[r][0], to > from ? least(from, ranges[r][1]) : ranges[r][1], block, next);
    if (to <= from) return;
    float* out = outputs_ + first * stride_;
    const float* weights = scores_ + first * BLOCK;
    dispatch<1, QUERY_TILE>(size, [&](auto rows) {
      constexpr int R = rows.value;
      value_rows<R, keys_at_once(R), S>(weights, block, next, from, to, pages_.dim, out, stride_);
    });
    for (int64_t r = 0; r < size; r++) add_alone(first + r, most(to, ranges[r][0]), ranges[r][1], block, next);
  }

  void add_alone(int64_t m, int64_t from, int64_t to, const TokenPanel<S>* block, const Type* const* next) {
    if (from < to)
      value_rows<1, 4, S>(scores_ + m * BLOCK, block, next, from, to, pages_.dim, outputs_ + m * stride_, stride_);
  }

  void write() {
    for (int64_t m = 0; m < count_; m++) {
      float* y = a_.y + ((token_ + m / sharing_) * a_.query_heads + query_head(m)) * pages_.dim;
      for (int64_t d = 0; d < pages_.dim; d++) y[d] = outputs_[m * stride_ + d] / sums_[m];
    }
  }

  const Attention& a_;
  const Pages& pages_;
  const int32_t* table_;
  int64_t first_head_, heads_, tokens_, sharing_, count_, stride_, token_, position_;
  float* scores_;           // [count][BLOCK]: scores, then weights
  float* states_;           // of every head
  int64_t head_;            // the one in hand, with its state
  float* queries_;          // packed
  float* outputs_;          // [count][stride]
  float* maxima_;           // [count]
  float* sums_;             // [count]
  float* scales_;           // [count]: int8 queries'
  int32_t* starts_;         // [count]: likewise, see ByteQueries
  float* gathered_scales_;  // of keys, of values: [BLOCK] each
  Type* gathered_;          // keys [BLOCK / 16][dim][16], values [BLOCK][dim]
};

// Into how many parts the key heads of a page go: few, as long as every thread has enough to do.
static int64_t head_groups(int64_t items, int64_t threads, int64_t heads) {
  return most(1, least(heads, 8 * threads / most(1, items)));
}

template <Cache C, bool PLAIN>
static void attention_of(Pool& pool, const Attention& a) {
  const Pages& pages = a.pages;
  const int64_t tile = most(1, QUERIES / (a.query_heads / pages.heads));
  int64_t items = 0;
  for (int64_t row = 0; row < a.rows; row++) items += (a.query_starts[row + 1] - a.query_starts[row] + tile - 1) / tile;
  auto* places = static_cast<int64_t*>(pool.shared_scratch((size_t)items * 2 * sizeof(int64_t)));
  int64_t item = 0;
  for (int64_t row = 0; row < a.rows; row++)
    for (int64_t first = 0; first < a.query_starts[row + 1] - a.query_starts[row]; first += tile, item++)
      places[2 * item] = row, places[2 * item + 1] = first;
  const int64_t groups = head_groups(items, pool.threads(), pages.heads), heads = (pages.heads + groups - 1) / groups;
  auto body = [&](int64_t index, int worker) {
    const int64_t row = places[2 * (index / groups)], first = places[2 * (index / groups) + 1];
    const int64_t tokens = least(tile, a.query_starts[row + 1] - a.query_starts[row] - first);
    const int64_t head = index % groups * heads, count = least(heads, pages.heads - head);
    if (count <= 0) return;
    void* scratch = pool.own_scratch(worker, Attender<C, PLAIN>::scratch_bytes(a, pages, count, tokens));
    Attender<C, PLAIN>(a, pages, row, head, count, first, tokens, scratch).run();
  };
  parallel(pool, items * groups, body);
}

static void run(Pool& pool, const Rotary& a) {
  switch (a.pages.cache) {
    case Cache::float32: return rotary_of<Cache::float32>(pool, a);
    case Cache::bfloat16: return rotary_of<Cache::bfloat16>(pool, a);
    case Cache::int8: return rotary_of<Cache::int8>(pool, a);
  }
}

template <Cache C>
static void attention_in(Pool& pool, const Attention& a) {
  const bool plain = a.softcap == 0.0f && !a.slopes && !a.sinks;
  return plain ? attention_of<C, true>(pool, a) : attention_of<C, false>(pool, a);
}

static void run(Pool& pool, const Attention& a) {
  switch (a.pages.cache) {
    case Cache::float32: return attention_in<Cache::float32>(pool, a);
    case Cache::bfloat16: return attention_in<Cache::bfloat16>(pool, a);
    case Cache::int8: return attention_in<Cache::int8>(pool, a);
  }
}

}  // namespace flover::FLOVER_ISA
