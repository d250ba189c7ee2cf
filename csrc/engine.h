// What Python calls: one kernel at a time (Engine), or all kernels of a forward pass in one call (Program).
#pragma once

#include <cmath>
#include <cstdint>
#include <functional>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels.h"
#include "pool.h"
#include "weight.h"

namespace flover {

// Names of the instruction sets that this machine can run, the fastest first.
std::vector<std::string> instruction_sets();
// Throws std::invalid_argument if the machine cannot run it.
const Kernels& kernels_named(const std::string& name);

template <class T>
T* at(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

// Kernels of one instruction set on one pool of threads. Calls from several threads wait for each other.
class Engine {
 public:
  Engine(const std::string& isa, int threads) : kernels(kernels_named(isa)), pool(threads) {}

  std::string isa() const { return kernels.name; }
  int threads() const { return pool.threads(); }

  void embed(const PackedWeight& w, uintptr_t ids, int64_t rows, uintptr_t y);
  void angles(uintptr_t positions, int64_t rows, uintptr_t frequencies, int64_t count, float factor, uintptr_t cos,
              uintptr_t sin);
  void add(uintptr_t a, uintptr_t b, int64_t rows, int64_t size, uintptr_t y);
  void norm(uintptr_t x, uintptr_t residual, uintptr_t weight, uintptr_t bias, int64_t rows, int64_t size, float eps,
            uintptr_t total, uintptr_t normed);
  void head_norm(uintptr_t x, int64_t rows, int64_t stride, int64_t query_heads, int64_t key_heads, int64_t dim,
                 uintptr_t query_weight, uintptr_t key_weight, float eps);
  void linear(const PackedWeight& w, uintptr_t x, int64_t rows, uintptr_t reach, uintptr_t bias, int activation,
              uintptr_t y);
  void reach(uintptr_t x, int64_t rows, int64_t size, uintptr_t y);
  void rotary(uintptr_t qkv, int64_t rows, int64_t query_heads, uintptr_t cos, uintptr_t sin, int64_t turning,
              bool interleaved, uintptr_t slots, const Pages& pages);
  void attention(uintptr_t queries, int64_t query_stride, int64_t query_heads, int64_t rows, uintptr_t query_starts,
                 uintptr_t context_lens, uintptr_t page_table, int64_t table_stride, float scale, int64_t window,
                 uintptr_t y, const Pages& pages);
  void largest(uintptr_t logits, int64_t rows, int64_t size, uintptr_t values, uintptr_t ids);
  void draw(uintptr_t logits, int64_t rows, int64_t size, uintptr_t best, uintptr_t temperature, uintptr_t min_p,
            uintptr_t top_k, uintptr_t top_p, uintptr_t uniform, uintptr_t ids);
  double multiply_adds(int64_t rounds);
  uint64_t read(uintptr_t data, int64_t bytes);

  // Spent in kernels since the start: what is left of a step is the host's.
  double seconds() const { return seconds_; }

  const Kernels& kernels;
  Pool pool;

 private:
  friend class Timed;
  double seconds_ = 0;
};

// The ragged batch that a program runs on (model/batch.py).
struct Run {
  int64_t tokens, rows;
  const int64_t* ids;
  const int64_t* positions;
  const int64_t* slots;
  const int32_t* query_starts;
  const int32_t* context_lens;
  const int32_t* page_table;
  int64_t table_stride;
  float* workspace;
};

// The kernels of one forward pass, in order, kept to be run again on other batches.
//
// Places are numbers: an odd one is 2 * n + 1 for the buffer that starts n floats per token into the workspace, an
// even one is an address. Buffers are laid out anew for the number of tokens of each run, rounded up to whole lines.
class Program {
 public:
  void embed(const PackedWeight& w, bool positions, uintptr_t y);
  void angles(uintptr_t frequencies, int64_t count, float factor, uintptr_t cos, uintptr_t sin);
  void add(uintptr_t a, uintptr_t b, int64_t size, uintptr_t y);
  void norm(uintptr_t x, uintptr_t residual, uintptr_t weight, uintptr_t bias, int64_t size, float eps,
            uintptr_t total, uintptr_t normed);
  void head_norm(uintptr_t x, int64_t stride, int64_t query_heads, int64_t key_heads, int64_t dim,
                 uintptr_t query_weight, uintptr_t key_weight, float eps);
  void linear(const PackedWeight& w, uintptr_t x, uintptr_t reach, uintptr_t bias, int activation, uintptr_t y);
  void reach(uintptr_t x, int64_t size, uintptr_t y);
  void rotary(uintptr_t qkv, int64_t query_heads, uintptr_t cos, uintptr_t sin, int64_t turning, bool interleaved,
              const Pages& pages);
  void attention(uintptr_t queries, int64_t query_stride, int64_t query_heads, float scale, int64_t window,
                 uintptr_t y, const Pages& pages);

  void run(Engine& engine, int64_t tokens, int64_t rows, uintptr_t ids, uintptr_t positions, uintptr_t slots,
           uintptr_t query_starts, uintptr_t context_lens, uintptr_t page_table, int64_t table_stride,
           uintptr_t workspace);

 private:
  std::vector<std::function<void(Engine&, const Run&)>> calls_;
};

}  // namespace flover
