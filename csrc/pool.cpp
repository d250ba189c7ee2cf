#include "pool.h"

#include <chrono>
#include <cstdlib>
#include <new>

namespace flover {

namespace {

// Between two kernels of a forward pass lie a few microseconds of Python; between two passes a scheduler. A worker
// stays awake for the first and sleeps through the second.
constexpr auto SPIN = std::chrono::microseconds(100);
constexpr int SPINS_PER_LOOK = 64;

inline void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

void* Pool::Scratch::grow(size_t bytes) {
  if (bytes > size) {
    std::free(data);
    size = (bytes + 4095) / 4096 * 4096;
    data = std::aligned_alloc(64, size);
    if (data == nullptr) {
      size = 0;
      throw std::bad_alloc();
    }
  }
  return data;
}

Pool::Scratch::~Scratch() { std::free(data); }

Pool::Pool(int threads) : own_((size_t)(threads < 1 ? 1 : threads)), ranges_(own_.size()) {
  for (int worker = 1; worker < threads; worker++) workers_.emplace_back([this, worker] { work(worker); });
}

Pool::~Pool() {
  stop_.store(true);
  job_.fetch_add(1);
  job_.notify_all();
  for (auto& worker : workers_) worker.join();
}

void Pool::take_items(int worker) {
  for (size_t i = 0; i < ranges_.size(); i++) {
    Range& range = ranges_[((size_t)worker + i) % ranges_.size()];
    for (;;) {
      const int64_t item = range.next.fetch_add(1, std::memory_order_relaxed);
      if (item >= range.end) break;
      function_(context_, item, worker);
    }
  }
}

void Pool::run(int64_t count, Function function, void* context) {
  if (workers_.empty() || count <= 1) {
    for (int64_t item = 0; item < count; item++) function(context, item, 0);
    return;
  }
  function_ = function;
  context_ = context;
  const auto workers = (int64_t)ranges_.size();
  for (int64_t w = 0; w < workers; w++) {
    ranges_[(size_t)w].next.store(count * w / workers, std::memory_order_relaxed);
    ranges_[(size_t)w].end = count * (w + 1) / workers;
  }
  uint32_t job = job_.load(std::memory_order_relaxed) + 1;
  if (job == 0) job = 1;
  open_.store(job);
  job_.store(job);
  job_.notify_all();
  take_items(0);
  // Nobody enters any more; wait for those who did. A worker that still sleeps is not waited for.
  open_.store(0);
  int looks = 0;
  while (inside_.load() != 0) {
    pause();
    if (++looks % (16 * SPINS_PER_LOOK) == 0) std::this_thread::yield();
  }
}

void Pool::work(int worker) {
  uint32_t seen = 0;
  for (;;) {
    auto since = std::chrono::steady_clock::now();
    for (int looks = 1; job_.load() == seen; looks++) {
      pause();
      if (looks % SPINS_PER_LOOK == 0 && std::chrono::steady_clock::now() - since > SPIN) {
        job_.wait(seen);
        break;
      }
    }
    if (stop_.load()) return;
    seen = job_.load();
    inside_.fetch_add(1);
    // The order of these two is what `run` relies on: it sees us inside, or we see that it has closed.
    if (open_.load() == seen) take_items(worker);
    inside_.fetch_sub(1);
  }
}

}  // namespace flover
