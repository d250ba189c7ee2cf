// What Python calls: one operation at a time (KernelRunner), or all of a forward pass in one call (Program).
#pragma once

#include <chrono>
#include <cstdint>
#include <mutex>
#include <string>
#include <variant>
#include <vector>

#include "kernels.h"
#include "pool.h"

namespace flover {

// Names of the instruction sets that are compiled and that this machine can run, the fastest first.
std::vector<std::string> instruction_sets();
// Throws std::invalid_argument if the machine cannot run it.
const Kernels& kernels_named(const std::string& name);

// Kernels of one instruction set on one pool of threads. Calls from several threads wait for each other.
class KernelRunner {
 public:
  KernelRunner(const std::string& isa, int threads) : kernels_(kernels_named(isa)), pool_(threads) {}

  std::string isa() const { return kernels_.name; }
  int threads() const { return pool_.threads(); }

  // Spent in kernels since the start: what is left of a step is the host's.
  double seconds() const { return seconds_; }

  template <class Op>
  void run(const Op& op) {
    Timed timed(*this);
    call(op);
  }

  double multiply_adds(int64_t rounds) {
    Timed timed(*this);
    return kernels_.multiply_adds(pool_, rounds);
  }

  double multiply_pairs(int64_t rounds) {
    Timed timed(*this);
    return kernels_.multiply_pairs(pool_, rounds);
  }

  uint64_t read(const uint8_t* data, int64_t bytes) {
    Timed timed(*this);
    return kernels_.read(pool_, data, bytes);
  }

 private:
  friend class Program;

  // Held around kernels: they have the pool for themselves, and their time counts.
  class Timed {
   public:
    explicit Timed(KernelRunner& runner) : runner_(runner), alone_(runner.pool_.mutex()), began_(Clock::now()) {}
    ~Timed() { runner_.seconds_ += std::chrono::duration<double>(Clock::now() - began_).count(); }

   private:
    using Clock = std::chrono::steady_clock;
    KernelRunner& runner_;
    std::lock_guard<std::mutex> alone_;
    Clock::time_point began_;
  };

  template <class Op>
  void call(const Op& op) {
    std::get<Kernel<Op>>(kernels_.table)(pool_, op);
  }

  const Kernels& kernels_;
  Pool pool_;
  double seconds_ = 0;
};

// The ragged batch that a program runs on (model/batch.py).
struct Batch {
  Tokens tokens;
  Rows rows;
  const int64_t* token_ids;
  const int64_t* positions;
  const int64_t* slots;
  const int32_t* query_starts;
  const int32_t* context_lens;
  const int32_t* page_table;
  TableStride table_stride;
  const int32_t* adapters;  // null where the model has none
  float* workspace;
  FLOVER_FIELDS(Batch, tokens, rows, token_ids, positions, slots, query_starts, context_lens, page_table, table_stride,
                adapters, workspace)
};

// A pointer of a recorded operation is an address, or a reference to be filled in when the program runs: its lowest two
// bits, which are zero in the address of any array of numbers, say of what kind.
enum class Reference : uintptr_t { address, workspace, input };

inline uintptr_t reference(Reference kind, uintptr_t value) { return value << 2 | (uintptr_t)kind; }

// The operations of one forward pass, in order, kept to be run again on other batches.
//
// A buffer of the workspace starts n floats per token into it: buffers are laid out anew for the number of tokens of
// each run, rounded up to whole cache lines.
class Program {
 public:
  template <class Op>
  void append(const Op& op) {
    ops_.emplace_back(op);
  }

  void run(KernelRunner& runner, Batch batch);

 private:
  std::vector<ForAllOps<std::variant>> ops_;
};

}  // namespace flover
