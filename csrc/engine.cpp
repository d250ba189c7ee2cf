#include "engine.h"

#include <chrono>

namespace flover {

std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
#ifdef FLOVER_X86
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni"))
    names.emplace_back("avx512");
  if (avx2) names.emplace_back("avx2");
#endif
  names.emplace_back("portable");
  return names;
}

const Kernels& kernels_named(const std::string& name) {
  for (const auto& known : instruction_sets()) {
    if (known != name) continue;
#ifdef FLOVER_X86
    if (name == "avx512") return avx512_kernels();
    if (name == "avx2") return avx2_kernels();
#endif
    return portable_kernels();
  }
  throw std::invalid_argument("this machine cannot run " + name);
}

namespace {

// The angle is rounded to float32 before its cosine is taken, as models were trained.
void compute_angles(const int64_t* positions, int64_t rows, const float* frequencies, int64_t count, float factor,
                    float* cos, float* sin) {
  for (int64_t row = 0; row < rows; row++)
    for (int64_t i = 0; i < count; i++) {
      const float angle = (float)positions[row] * frequencies[i];
      cos[row * count + i] = (float)std::cos((double)angle) * factor;
      sin[row * count + i] = (float)std::sin((double)angle) * factor;
    }
}

void compute_sums(const float* a, const float* b, int64_t count, float* y) {
  for (int64_t i = 0; i < count; i++) y[i] = a[i] + b[i];
}

float* place(uintptr_t value, const Run& run) {
  if (value % 2 == 0) return at<float>(value);
  return run.workspace + (int64_t)(value / 2) * ((run.tokens + 15) / 16 * 16);
}

}  // namespace

// Held around a kernel: it has the pool for itself, and its time counts.
class Timed {
 public:
  explicit Timed(Engine& engine) : engine_(engine), alone_(engine.pool.mutex()), began_(Clock::now()) {}
  ~Timed() { engine_.seconds_ += std::chrono::duration<double>(Clock::now() - began_).count(); }

 private:
  using Clock = std::chrono::steady_clock;
  Engine& engine_;
  std::lock_guard<std::mutex> alone_;
  Clock::time_point began_;
};

void Engine::embed(const PackedWeight& w, uintptr_t ids, int64_t rows, uintptr_t y) {
  kernels.embed(w.view(), {at<const int64_t>(ids), rows, at<float>(y)});
}

void Engine::angles(uintptr_t positions, int64_t rows, uintptr_t frequencies, int64_t count, float factor,
                    uintptr_t cos, uintptr_t sin) {
  compute_angles(at<const int64_t>(positions), rows, at<const float>(frequencies), count, factor, at<float>(cos),
                 at<float>(sin));
}

void Engine::add(uintptr_t a, uintptr_t b, int64_t rows, int64_t size, uintptr_t y) {
  compute_sums(at<const float>(a), at<const float>(b), rows * size, at<float>(y));
}

void Engine::norm(uintptr_t x, uintptr_t residual, uintptr_t weight, uintptr_t bias, int64_t rows, int64_t size,
                  float eps, uintptr_t total, uintptr_t normed) {
  Timed timed(*this);
  kernels.norm(pool, {at<const float>(x), at<const float>(residual), at<const float>(weight), at<const float>(bias),
                      rows, size, eps, at<float>(total), at<float>(normed)});
}

void Engine::head_norm(uintptr_t x, int64_t rows, int64_t stride, int64_t query_heads, int64_t key_heads, int64_t dim,
                       uintptr_t query_weight, uintptr_t key_weight, float eps) {
  Timed timed(*this);
  kernels.head_norm(pool, {at<float>(x), rows, stride, query_heads, key_heads, dim, at<const float>(query_weight),
                           at<const float>(key_weight), eps});
}

void Engine::linear(const PackedWeight& w, uintptr_t x, int64_t rows, uintptr_t reach, uintptr_t bias, int activation,
                    uintptr_t y) {
  Timed timed(*this);
  kernels.linear(pool, w.view(),
                 {at<const float>(x), rows, at<const float>(reach), at<const float>(bias), (Activation)activation,
                  at<float>(y)});
}

void Engine::reach(uintptr_t x, int64_t rows, int64_t size, uintptr_t y) {
  Timed timed(*this);
  kernels.reach(pool, {at<const float>(x), rows, size, at<float>(y)});
}

void Engine::rotary(uintptr_t qkv, int64_t rows, int64_t query_heads, uintptr_t cos, uintptr_t sin, int64_t turning,
                    bool interleaved, uintptr_t slots, const Pages& pages) {
  Timed timed(*this);
  kernels.rotary(pool,
                 {at<float>(qkv), rows, query_heads, at<const float>(cos), at<const float>(sin), turning, interleaved,
                  at<const int64_t>(slots)},
                 pages);
}

void Engine::attention(uintptr_t queries, int64_t query_stride, int64_t query_heads, int64_t rows,
                       uintptr_t query_starts, uintptr_t context_lens, uintptr_t page_table, int64_t table_stride,
                       float scale, int64_t window, uintptr_t y, const Pages& pages) {
  Timed timed(*this);
  kernels.attention(pool,
                    {at<const float>(queries), query_stride, query_heads, rows, at<const int32_t>(query_starts),
                     at<const int32_t>(context_lens), at<const int32_t>(page_table), table_stride, scale, window,
                     at<float>(y)},
                    pages);
}

void Engine::largest(uintptr_t logits, int64_t rows, int64_t size, uintptr_t values, uintptr_t ids) {
  Timed timed(*this);
  kernels.largest(pool, {at<const float>(logits), rows, size, at<float>(values), at<int64_t>(ids)});
}

void Engine::draw(uintptr_t logits, int64_t rows, int64_t size, uintptr_t best, uintptr_t temperature,
                  uintptr_t min_p, uintptr_t top_k, uintptr_t top_p, uintptr_t uniform, uintptr_t ids) {
  Timed timed(*this);
  kernels.draw(pool, {at<const float>(logits), rows, size, at<const float>(best), at<const float>(temperature),
                      at<const double>(min_p), at<const int64_t>(top_k), at<const double>(top_p),
                      at<const double>(uniform), at<int64_t>(ids)});
}

double Engine::multiply_adds(int64_t rounds) {
  Timed timed(*this);
  return kernels.multiply_adds(pool, rounds);
}

uint64_t Engine::read(uintptr_t data, int64_t bytes) {
  Timed timed(*this);
  return kernels.read(pool, at<const uint8_t>(data), bytes);
}

void Program::embed(const PackedWeight& w, bool positions, uintptr_t y) {
  calls_.emplace_back([=, w = w.view()](Engine& engine, const Run& run) {
    engine.kernels.embed(w, {positions ? run.positions : run.ids, run.tokens, place(y, run)});
  });
}

void Program::angles(uintptr_t frequencies, int64_t count, float factor, uintptr_t cos, uintptr_t sin) {
  calls_.emplace_back([=](Engine&, const Run& run) {
    compute_angles(run.positions, run.tokens, place(frequencies, run), count, factor, place(cos, run), place(sin, run));
  });
}

void Program::add(uintptr_t a, uintptr_t b, int64_t size, uintptr_t y) {
  calls_.emplace_back([=](Engine&, const Run& run) {
    compute_sums(place(a, run), place(b, run), run.tokens * size, place(y, run));
  });
}

void Program::norm(uintptr_t x, uintptr_t residual, uintptr_t weight, uintptr_t bias, int64_t size, float eps,
                   uintptr_t total, uintptr_t normed) {
  calls_.emplace_back([=](Engine& engine, const Run& run) {
    engine.kernels.norm(engine.pool, {place(x, run), place(residual, run), place(weight, run), place(bias, run),
                                      run.tokens, size, eps, place(total, run), place(normed, run)});
  });
}

void Program::head_norm(uintptr_t x, int64_t stride, int64_t query_heads, int64_t key_heads, int64_t dim,
                        uintptr_t query_weight, uintptr_t key_weight, float eps) {
  calls_.emplace_back([=](Engine& engine, const Run& run) {
    engine.kernels.head_norm(engine.pool, {place(x, run), run.tokens, stride, query_heads, key_heads, dim,
                                           place(query_weight, run), place(key_weight, run), eps});
  });
}

void Program::linear(const PackedWeight& w, uintptr_t x, uintptr_t reach, uintptr_t bias, int activation,
                     uintptr_t y) {
  calls_.emplace_back([=, w = w.view()](Engine& engine, const Run& run) {
    engine.kernels.linear(engine.pool, w, {place(x, run), run.tokens, place(reach, run), place(bias, run),
                                           (Activation)activation, place(y, run)});
  });
}

void Program::reach(uintptr_t x, int64_t size, uintptr_t y) {
  calls_.emplace_back([=](Engine& engine, const Run& run) {
    engine.kernels.reach(engine.pool, {place(x, run), run.tokens, size, place(y, run)});
  });
}

void Program::rotary(uintptr_t qkv, int64_t query_heads, uintptr_t cos, uintptr_t sin, int64_t turning,
                     bool interleaved, const Pages& pages) {
  calls_.emplace_back([=](Engine& engine, const Run& run) {
    engine.kernels.rotary(engine.pool,
                          {place(qkv, run), run.tokens, query_heads, place(cos, run), place(sin, run), turning,
                           interleaved, run.slots},
                          pages);
  });
}

void Program::attention(uintptr_t queries, int64_t query_stride, int64_t query_heads, float scale, int64_t window,
                        uintptr_t y, const Pages& pages) {
  calls_.emplace_back([=](Engine& engine, const Run& run) {
    engine.kernels.attention(engine.pool,
                             {place(queries, run), query_stride, query_heads, run.rows, run.query_starts,
                              run.context_lens, run.page_table, run.table_stride, scale, window, place(y, run)},
                             pages);
  });
}

void Program::run(Engine& engine, int64_t tokens, int64_t rows, uintptr_t ids, uintptr_t positions, uintptr_t slots,
                  uintptr_t query_starts, uintptr_t context_lens, uintptr_t page_table, int64_t table_stride,
                  uintptr_t workspace) {
  Timed timed(engine);
  const Run run{tokens, rows, at<const int64_t>(ids), at<const int64_t>(positions), at<const int64_t>(slots),
                at<const int32_t>(query_starts), at<const int32_t>(context_lens), at<const int32_t>(page_table),
                table_stride, at<float>(workspace)};
  for (auto& call : calls_) call(engine, run);
}

}  // namespace flover
