// Threads that compute one job at a time. The caller works too. Each has a run of items of its own, one after another,
// because memory is read fastest from front to back; who is done takes from the others, so a thread that the system
// takes away holds up no more than the item in its hands. Who computes an item never changes its result.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace flover {

class Pool {
 public:
  explicit Pool(int threads);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int threads() const { return (int)workers_.size() + 1; }

  // Calls function(context, item, worker) for items 0..count-1; worker is below threads(). Returns when all are done.
  using Function = void (*)(void* context, int64_t item, int worker);
  void run(int64_t count, Function function, void* context);

  // Memory for one job, 64-byte aligned, undefined content: shared by all workers, or private to one.
  void* shared_scratch(size_t bytes) { return shared_.grow(bytes); }
  void* own_scratch(int worker, size_t bytes) { return own_[(size_t)worker].grow(bytes); }

  // Held around a whole kernel: the pool and its scratch serve one caller at a time.
  std::mutex& mutex() { return mutex_; }

 private:
  struct Scratch {
    void* grow(size_t bytes);
    ~Scratch();
    void* data = nullptr;
    size_t size = 0;
  };

  void work(int worker);
  void take_items(int worker);

  std::mutex mutex_;
  Scratch shared_;
  std::vector<Scratch> own_;
  std::vector<std::thread> workers_;
  Function function_ = nullptr;
  void* context_ = nullptr;
  struct alignas(64) Range {  // items of one worker that are not taken yet
    std::atomic<int64_t> next{0};
    int64_t end = 0;
  };
  std::vector<Range> ranges_;
  alignas(64) std::atomic<uint32_t> job_{0};   // number of the newest job; what sleepers wait on
  alignas(64) std::atomic<uint32_t> open_{0};  // number of the job that may be entered; 0: none
  alignas(64) std::atomic<int> inside_{0};     // workers that may hold an item
  std::atomic<bool> stop_{false};
};

// parallel(pool, count, [&](int64_t item, int worker) {...})
template <class Body>
[[gnu::always_inline]] static inline void parallel(Pool& pool, int64_t count, Body& body) {
  pool.run(count, [](void* context, int64_t item, int worker) { (*static_cast<Body*>(context))(item, worker); }, &body);
}

}  // namespace flover
