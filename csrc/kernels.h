// What the kernels take: pointers and sizes. Nothing here knows of Python or torch.
#pragma once

#include <cstddef>
#include <cstdint>

namespace flover {

class Pool;

enum class Format : int { float32, bfloat16, float16, int8, int4 };
enum class Activation : int { none, silu, gelu, gelu_tanh, relu };
enum class Cache : int { float32, bfloat16, int8 };

// A matrix [out, in] in panels of 16 outputs (weight.h says how they lie).
struct Weight {
  Format format;
  int64_t out, in;
  bool gated;            // rows 0..out/2 are the gate, the rest goes up: their panels alternate
  const uint8_t* data;
  const float* scales;   // int8: by output, in the order of the panels
  const int32_t* sums;   // int8: sum over the input, by output, in the order of the panels
};

struct Linear {
  const float* x;  // [rows, in]
  int64_t rows;
  const float* reach;  // [rows]: the largest magnitude of the wider row that x is a part of; null: x is all of it
  const float* bias;   // [out] or null
  Activation activation;
  float* y;  // [rows, out], or [rows, out / 2] if gated: activation(gate) * up
};

struct Reach {
  const float* x;  // [rows, size]
  int64_t rows, size;
  float* y;  // [rows]: the largest magnitude of each row
};

struct Norm {
  const float* x;         // [rows, size]
  const float* residual;  // [rows, size] or null
  const float* weight;    // [size]
  const float* bias;      // [size]: a layer norm; null: a root mean square norm
  int64_t rows, size;
  float eps;
  float* total;   // [rows, size]: x + residual; null without a residual
  float* normed;  // [rows, size]
};

// Queries and keys [rows, heads, dim] inside rows of `stride` floats, normed head by head in place.
struct HeadNorm {
  float* x;
  int64_t rows, stride, query_heads, key_heads, dim;
  const float* query_weight;  // [dim]
  const float* key_weight;    // [dim]
  float eps;
};

struct Embed {
  const int64_t* ids;  // [rows]
  int64_t rows;
  float* y;  // [rows, in]
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
};

struct Rotary {
  float* qkv;  // [rows, query heads + 2 * key/value heads, dim]: queries and keys turn in place
  int64_t rows, query_heads;
  const float* cos;  // [rows, turning / 2]
  const float* sin;
  int64_t turning;  // of the dim dimensions of a head; 0: none
  bool interleaved;
  const int64_t* slots;  // [rows]: page * page_size + offset
};

struct Attention {
  const float* queries;  // [tokens, ...]: query_stride floats from token to token, heads * dim of them are queries
  int64_t query_stride, query_heads;
  int64_t rows;
  const int32_t* query_starts;  // [rows + 1]: tokens of a row
  const int32_t* context_lens;  // [rows]: the last token of a row is at position context_len - 1
  const int32_t* page_table;    // [rows, table_stride]
  int64_t table_stride;
  float scale;
  int64_t window;  // tokens that a token sees, itself included; 0: all
  float* y;        // [tokens, heads * dim]
};

struct Largest {
  const float* logits;  // [rows, size]
  int64_t rows, size;
  float* values;  // [rows]: not a number if any of a row is none
  int64_t* ids;   // [rows]: the first that has the value
};

struct Draw {
  const float* logits;  // [rows, size]
  int64_t rows, size;
  const float* best;         // [rows]: the largest logit of each row
  const float* temperature;  // [rows]
  const double* min_p;       // [rows]: least weight, as a share of the largest; 0: all
  const int64_t* top_k;      // [rows]; below 1: all
  const double* top_p;       // [rows]; 1: all
  const double* uniform;     // [rows], in (0, 1)
  int64_t* ids;              // [rows]
};

struct Kernels {
  const char* name;
  void (*linear)(Pool&, const Weight&, const Linear&);
  void (*reach)(Pool&, const Reach&);
  void (*norm)(Pool&, const Norm&);
  void (*head_norm)(Pool&, const HeadNorm&);
  void (*embed)(const Weight&, const Embed&);
  void (*rotary)(Pool&, const Rotary&, const Pages&);
  void (*attention)(Pool&, const Attention&, const Pages&);
  void (*largest)(Pool&, const Largest&);
  void (*draw)(Pool&, const Draw&);
  double (*multiply_adds)(Pool&, int64_t rounds);               // FLOP done: the float32 peak, for benchmarks
  uint64_t (*read)(Pool&, const uint8_t* data, int64_t bytes);  // reads everything once: the bandwidth, likewise
};

const Kernels& portable_kernels();
#ifdef FLOVER_X86
const Kernels& avx2_kernels();
const Kernels& avx512_kernels();
#endif

}  // namespace flover
