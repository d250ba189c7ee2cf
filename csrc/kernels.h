// What the kernels take: one struct for each operation, pointers and sizes. Nothing here knows of Python or torch.
//
// An operation is declared here once: its struct, its fields, its place in the list ForAllOps. Its kernel is a function
// `run(Pool&, const Op&)` in the namespace of every instruction set (isa.cpp); the Python class of the same name is
// made from the fields (bindings.cpp).
#pragma once

#include <cstddef>
#include <cstdint>
#include <tuple>

#include "fields.h"

namespace flover {

class Pool;

enum class Format : int {
  float32,
  bfloat16,
  float16,
  int8,
  int4,
  q8_0,
  q4_0,
  q4_1,
  q5_0,
  q5_1,
  q2_k,
  q3_k,
  q4_k,
  q5_k,
  q6_k,
  iq4_nl,
  iq4_xs,
  mxfp4,  // the last of GGUF's, see blocks.h
  int4_g32,
  int4_g64,
  int4_g128,
  int8_g32,
  int8_g64,
  fp8_e4m3,  // the last of those of quantized safetensors
};
constexpr Format FIRST_BLOCK = Format::q8_0, LAST_INTEGER_BLOCK = Format::int8_g64;
enum class Activation : int { none, silu, gelu, gelu_tanh, relu, relu2, quick_gelu, swiglu_oai };
enum class Cache : int { float32, bfloat16, int8 };

// Sizes of a batch: a program fills in those of the batch that it runs on.
struct Tokens {
  int64_t value;
  operator int64_t() const { return value; }
};
struct Rows {
  int64_t value;
  operator int64_t() const { return value; }
};
struct TableStride {
  int64_t value;
  operator int64_t() const { return value; }
};

// What the sums of 16 outputs in int8 start with, for the inputs of one segment (bytes.h).
struct WeightSums {
  int32_t lanes[16];
};
// For AVX2: of the numbers below 0, without their sign. For AVX-512: 128 times those less the numbers above 0.
enum SumsKind { NEGATIVES, EXCESS, SUMS_KINDS, NO_SUMS = SUMS_KINDS };

// A matrix [out, in] in panels of 16 outputs (weight.h says how they lie).
struct Weight {
  Format format;
  int64_t out, in;
  int64_t rotation;  // inputs of a block that is rotated (weight.h): a power of two; 1: none
  int64_t segments;  // runs of inputs that are summed apart (linear.h): a power of two
  bool gated;        // rows 0..out/2 are the gate, the rest goes up: their panels alternate
  const uint8_t* data;
  const float* scales;     // int8: by output, in the order of the panels
  const WeightSums* sums;  // int8: [panels][SUMS_KINDS][segments]
  const int32_t* order;    // [in]: the inputs in the order in which the panels have them; null: as they come
};

// The matrices of all experts of a layer: alike in format and shape.
struct WeightList {
  const Weight* data;
  int64_t size;
};

// The pages of one layer. A page holds page_size tokens of every key/value head. Keys lie transposed,
// [page, head, dim, page_size]; values [page, head, page_size, dim]. int8 has one scale for each token and head.
struct Pages {
  Cache cache;
  void* keys;
  void* values;
  float* key_scales;    // [page, head, page_size], int8 only
  float* value_scales;  // likewise
  int64_t page_size, heads, dim;
  FLOVER_FIELDS(Pages, cache, keys, values, key_scales, value_scales, page_size, heads, dim)
};

struct Embed {
  Weight weight;       // the table
  const int64_t* ids;  // [rows]
  Tokens rows;
  float factor;
  float* y;  // [rows, in]: factor * rows of the table
  FLOVER_FIELDS(Embed, weight, ids, rows, factor, y)
};

// factor * cosine and sine of position * frequency. The angle is rounded to float32 before, as models were trained.
struct Angles {
  const int64_t* positions;  // [rows]
  Tokens rows;
  const float* frequencies;  // [count]
  int64_t count;
  float factor;
  float* cos;  // [rows, count]
  float* sin;
  FLOVER_FIELDS(Angles, positions, rows, frequencies, count, factor, cos, sin)
};

struct Add {
  const float* a;  // [rows, size]
  const float* b;  // [rows, size], or [size] where b_stride is 0
  Tokens rows;
  int64_t size, b_stride;
  float* y;
  FLOVER_FIELDS(Add, a, b, rows, size, b_stride, y)
};

struct Norm {
  const float* x;         // [rows, size]
  const float* residual;  // [rows, size] or null
  const float* weight;    // [size]
  const float* bias;      // [size]: a layer norm; null: a root mean square norm
  Tokens rows;
  int64_t size;
  float eps;
  float* total;   // [rows, size]: x + residual; null without a residual
  float* normed;  // [rows, size]
  FLOVER_FIELDS(Norm, x, residual, weight, bias, rows, size, eps, total, normed)
};

// Queries and then keys, at the start of rows of `stride` floats, normed in place: so many parts of so many floats
// each, which are heads or all of them at once.
struct HeadNorm {
  float* x;
  Tokens rows;
  int64_t stride, query_parts, query_size, key_parts, key_size;
  const float* query_weight;  // [query_size]
  const float* key_weight;    // [key_size]
  float eps;
  FLOVER_FIELDS(HeadNorm, x, rows, stride, query_parts, query_size, key_parts, key_size, query_weight, key_weight, eps)
};

struct Linear {
  Weight weight;
  const float* x;  // [rows, in]
  Tokens rows;
  const float* absmax;  // [rows]: AbsMax of the wider row that x is a shard of; null: x is all of it
  const float* bias;    // [column + out] or null
  const float* added;   // [rows, added_stride], added before the activation from `column` on (Lora); null: nothing
  const int32_t* adds;  // [rows]: 0 where nothing is added
  int64_t added_stride;
  Activation activation;
  float* y;  // [rows, stride]: out columns from `column` on, or out / 2 if gated: activation(gate) * up
  int64_t stride, column;
  FLOVER_FIELDS(Linear, weight, x, rows, absmax, bias, added, adds, added_stride, activation, y, stride, column)
};

// A matrix of an adapter in the type that its file has: float32, bfloat16 or float16.
struct LoraMatrix {
  const void* data;
  Format format;
};

// Two small matrices of one adapter, for `width` outputs of a linear from `first` on (Hu et al., arXiv:2106.09685).
// They lie in the order in which they are read (lora.h), padded with zeros.
struct LoraPart {
  LoraMatrix down;  // [rank / 4][in / 16][4][16]
  LoraMatrix up;    // [width / 16][rank][16], still to be scaled
  int64_t rank;     // 0: the adapter has nothing for these outputs
  int64_t first, width;
  float scale;  // alpha / rank
};

// What adapters add to the outputs of a linear: up * (down * x) for every row, by the matrices of its own adapter.
struct Lora {
  const LoraPart* table;  // [slots, parts]
  int64_t slots, parts, inputs, outputs;
  const int32_t* adapters;  // [rows]: a slot; -1: the row has no adapter
  const float* x;           // [rows, inputs]
  Tokens rows;
  float* y;       // [rows, outputs]; rows to which nothing is added are not written
  int32_t* adds;  // [rows]: whether anything is
  FLOVER_FIELDS(Lora, table, slots, parts, inputs, outputs, adapters, x, rows, y, adds)
};

struct AbsMax {
  const float* x;  // [rows, parts, size]
  Tokens rows;
  int64_t parts, size, rotation;
  float* y;  // [rows, parts]: the largest magnitude of each part, rotated
  FLOVER_FIELDS(AbsMax, x, rows, parts, size, rotation, y)
};

// The experts of each token: the `chosen` ones of the largest scores, the largest first; of equal scores the lower
// index.
struct Route {
  const float* scores;  // [rows, experts]
  Tokens rows;
  int64_t experts, chosen;
  bool normalized;  // weights are the softmax over the chosen scores; else over all
  int32_t* ids;     // [rows, chosen]
  float* weights;   // [rows, chosen]
  FLOVER_FIELDS(Route, scores, rows, experts, chosen, normalized, ids, weights)
};

// Every token times the matrices of its own experts.
struct ExpertLinear {
  WeightList weights;
  const float* x;  // [rows, in], or [rows, chosen, in] with an input for each
  Tokens rows;
  int64_t chosen;
  bool input_each;
  const int32_t* ids;   // [rows, chosen]
  const float* bias;    // [experts, out] or null
  const float* absmax;  // [rows, chosen]: as in Linear, or null
  Activation activation;
  float* y;  // [rows, chosen, out], or out / 2 if gated
  FLOVER_FIELDS(ExpertLinear, weights, x, rows, chosen, input_each, ids, bias, absmax, activation, y)
};

struct ExpertSum {
  const float* x;        // [rows, chosen, size]
  const float* weights;  // [rows, chosen]
  Tokens rows;
  int64_t chosen, size;
  const int32_t* ids;  // [rows, chosen]
  const float* bias;   // [experts, size], added to x before; or null
  float* y;            // [rows, size]: the sum of weight * x, in the order in which the experts were chosen
  FLOVER_FIELDS(ExpertSum, x, weights, rows, chosen, size, ids, bias, y)
};

struct AddGated {
  const float* a;     // [rows, size]
  const float* b;     // [rows, size]
  const float* gate;  // [rows]
  Tokens rows;
  int64_t size;
  float* y;  // [rows, size]: a + sigmoid(gate) * b
  FLOVER_FIELDS(AddGated, a, b, gate, rows, size, y)
};

struct Rotary {
  float* qkv;  // [rows, query heads + 2 * key/value heads, dim]: queries and keys are rotated in place
  Tokens rows;
  int64_t query_heads;
  const float* cos;  // [rows, rotary_dim / 2]
  const float* sin;
  int64_t rotary_dim;  // of the dim dimensions of a head; 0: none
  bool interleaved;
  const float* query_norm;  // [dim]: weights of a root mean square norm of every query after that; null: no norm
  const float* key_norm;    // [dim], likewise
  float eps;
  const int64_t* slots;  // [rows]: page * page_size + offset
  Pages pages;           // keys and values are written there
  FLOVER_FIELDS(Rotary, qkv, rows, query_heads, cos, sin, rotary_dim, interleaved, query_norm, key_norm, eps, slots,
                pages)
};

struct Attention {
  const float* queries;  // [tokens, ...]: query_stride floats from token to token, heads * dim of them are queries
  int64_t query_stride, query_heads;
  Rows rows;
  const int32_t* query_starts;  // [rows + 1]: tokens of a row
  const int32_t* context_lens;  // [rows]: the last token of a row is at position context_len - 1
  const int32_t* page_table;    // [rows, table_stride]
  TableStride table_stride;
  float scale;
  int64_t window;       // tokens that a token sees, itself included; 0: all
  float softcap;        // c: scores are c * tanh(score / c); 0: as they are
  const float* slopes;  // [heads]: for each position that a key lies before its query, so much less; null: nothing
  const float* sinks;   // [heads]: scores of a key without a value that every query sees; null: there is none
  float* y;             // [tokens, heads * dim]
  Pages pages;
  FLOVER_FIELDS(Attention, queries, query_stride, query_heads, rows, query_starts, context_lens, page_table,
                table_stride, scale, window, softcap, slopes, sinks, y, pages)
};

// Numbers x of rows of `size`, in place: cap * tanh(x / cap).
struct SoftCap {
  float* x;
  Tokens rows;
  int64_t size;
  float cap;
  FLOVER_FIELDS(SoftCap, x, rows, size, cap)
};

struct ArgMax {
  float* logits;  // [rows, size]
  Tokens rows;
  int64_t size;
  const uint32_t* masks;  // [rows, size / 32, rounded up] or null; what bit i % 32 of word i / 32 does not allow
                          // becomes -inf in logits
  float* values;          // [rows]: not a number if any of a row is none, infinite if any is, allowed or not
  int64_t* ids;           // [rows]: the first that has the value; with masks -1 where it is not finite
  FLOVER_FIELDS(ArgMax, logits, rows, size, masks, values, ids)
};

struct LogSumExp {
  const float* logits;  // [rows, size]
  Tokens rows;
  int64_t size;
  double* y;  // [rows]: log(sum(exp(logits)))
  FLOVER_FIELDS(LogSumExp, logits, rows, size, y)
};

struct Sample {
  const float* logits;  // [rows, size]
  Tokens rows;
  int64_t size;
  const float* best;         // [rows]: the largest logit of each row
  const float* temperature;  // [rows]
  const double* min_p;       // [rows]: least weight, as a share of the largest; 0: all
  const int64_t* top_k;      // [rows]; below 1: all
  const double* top_p;       // [rows]; 1: all
  const double* uniform;     // [rows], in (0, 1)
  int64_t* ids;              // [rows]
  FLOVER_FIELDS(Sample, logits, rows, size, best, temperature, min_p, top_k, top_p, uniform, ids)
};

template <template <class...> class List>
using ForAllOps = List<Embed, Angles, Add, AddGated, Norm, HeadNorm, Linear, Lora, AbsMax, Route, ExpertLinear,
                       ExpertSum, Rotary, Attention, SoftCap, ArgMax, LogSumExp, Sample>;

template <class Op>
using Kernel = void (*)(Pool&, const Op&);
template <class... Ops>
using KernelTable = std::tuple<Kernel<Ops>...>;

struct Kernels {
  const char* name;
  ForAllOps<KernelTable> table;
  double (*multiply_adds)(Pool&, int64_t rounds);               // FLOP done: the float32 peak, for benchmarks
  double (*multiply_pairs)(Pool&, int64_t rounds);              // likewise of factors in bfloat16
  uint64_t (*read)(Pool&, const uint8_t* data, int64_t bytes);  // reads everything once: the bandwidth, likewise
};

}  // namespace flover
