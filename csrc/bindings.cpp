// The Python module flover._cpu. Arrays come as addresses; who calls (`flover/ops/cpu.py`) has checked types, shapes
// and layout. Every kernel runs without the GIL.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <cmath>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels.h"
#include "pool.h"
#include "weight.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace flover;

namespace {

template <class T>
T* at(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

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

// factor * cos and factor * sin of position * frequency, [rows, count]. The angle is rounded to float32 before its
// cosine is taken, as models were trained.
void angles(uintptr_t positions, int64_t rows, uintptr_t frequencies, int64_t count, float factor, uintptr_t cos,
            uintptr_t sin) {
  nb::gil_scoped_release released;
  for (int64_t row = 0; row < rows; row++)
    for (int64_t i = 0; i < count; i++) {
      const float angle = (float)at<const int64_t>(positions)[row] * at<const float>(frequencies)[i];
      at<float>(cos)[row * count + i] = (float)std::cos((double)angle) * factor;
      at<float>(sin)[row * count + i] = (float)std::sin((double)angle) * factor;
    }
}

// Kernels of one instruction set on one pool of threads. Calls from several threads wait for each other.
class Engine {
 public:
  Engine(const std::string& isa, int threads) : kernels_(kernels_named(isa)), pool_(threads) {}

  std::string isa() const { return kernels_.name; }
  int threads() const { return pool_.threads(); }

  void linear(const PackedWeight& w, uintptr_t x, int64_t rows, uintptr_t bias, int activation, uintptr_t y) {
    Linear a{at<const float>(x), rows, at<const float>(bias), (Activation)activation, at<float>(y)};
    call([&] { kernels_.linear(pool_, w.view(), a); });
  }

  void norm(uintptr_t x, uintptr_t residual, uintptr_t weight, uintptr_t bias, int64_t rows, int64_t size, float eps,
            uintptr_t total, uintptr_t normed) {
    Norm a{at<const float>(x), at<const float>(residual), at<const float>(weight), at<const float>(bias), rows, size,
           eps, at<float>(total), at<float>(normed)};
    call([&] { kernels_.norm(pool_, a); });
  }

  void head_norm(uintptr_t x, int64_t rows, int64_t stride, int64_t query_heads, int64_t key_heads, int64_t dim,
                 uintptr_t query_weight, uintptr_t key_weight, float eps) {
    HeadNorm a{at<float>(x), rows, stride, query_heads, key_heads, dim, at<const float>(query_weight),
               at<const float>(key_weight), eps};
    call([&] { kernels_.head_norm(pool_, a); });
  }

  void embed(const PackedWeight& w, uintptr_t ids, int64_t rows, uintptr_t y) {
    Embed a{at<const int64_t>(ids), rows, at<float>(y)};
    call([&] { kernels_.embed(w.view(), a); });
  }

  void rotary(uintptr_t qkv, int64_t rows, int64_t query_heads, uintptr_t cos, uintptr_t sin, int64_t turning,
              bool interleaved, uintptr_t slots, const Pages& pages) {
    Rotary a{at<float>(qkv), rows, query_heads, at<const float>(cos), at<const float>(sin), turning, interleaved,
             at<const int64_t>(slots)};
    call([&] { kernels_.rotary(pool_, a, pages); });
  }

  void attention(uintptr_t queries, int64_t query_stride, int64_t query_heads, int64_t rows, uintptr_t query_starts,
                 uintptr_t context_lens, uintptr_t page_table, int64_t table_stride, float scale, int64_t window,
                 uintptr_t y, const Pages& pages) {
    Attention a{at<const float>(queries), query_stride, query_heads, rows, at<const int32_t>(query_starts),
                at<const int32_t>(context_lens), at<const int32_t>(page_table), table_stride, scale, window,
                at<float>(y)};
    call([&] { kernels_.attention(pool_, a, pages); });
  }

  double multiply_adds(int64_t rounds) {
    double flop = 0;
    call([&] { flop = kernels_.multiply_adds(pool_, rounds); });
    return flop;
  }

  uint64_t read(uintptr_t data, int64_t bytes) {
    uint64_t sum = 0;
    call([&] { sum = kernels_.read(pool_, at<const uint8_t>(data), bytes); });
    return sum;
  }

 private:
  template <class Body>
  void call(Body&& body) {
    nb::gil_scoped_release released;
    std::lock_guard<std::mutex> alone(pool_.mutex());
    body();
  }

  const Kernels& kernels_;
  Pool pool_;
};

}  // namespace

NB_MODULE(_cpu, m) {
  m.doc() = "CPU kernels; see csrc/kernels.h for what each takes.";
  m.def("instruction_sets", &instruction_sets, "Those this machine can run, the fastest first.");

  m.def("angles", &angles);

  nb::class_<PackedWeight>(m, "PackedWeight")
      .def("__init__",
           [](PackedWeight* self, int format, int64_t out, int64_t in, bool gated) {
             new (self) PackedWeight((Format)format, out, in, gated);
           },
           "format"_a, "out"_a, "in_"_a, "gated"_a)
      .def("store",
           [](PackedWeight& self, int64_t first, int64_t count, uintptr_t values) {
             nb::gil_scoped_release released;
             self.store(first, count, at<const float>(values));
           })
      .def("row", [](const PackedWeight& self, int64_t index, uintptr_t values) { self.row(index, at<float>(values)); })
      .def_prop_ro("bytes", &PackedWeight::bytes);

  nb::class_<Pages>(m, "Pages")
      .def("__init__", [](Pages* self, int cache, uintptr_t keys, uintptr_t values, uintptr_t key_scales,
                          uintptr_t value_scales, int64_t page_size, int64_t heads, int64_t dim) {
        new (self) Pages{(Cache)cache, at<void>(keys), at<void>(values), at<float>(key_scales), at<float>(value_scales),
                         page_size, heads, dim};
      });

  nb::class_<Engine>(m, "Engine")
      .def(nb::init<const std::string&, int>(), "isa"_a, "threads"_a)
      .def_prop_ro("isa", &Engine::isa)
      .def_prop_ro("threads", &Engine::threads)
      .def("linear", &Engine::linear)
      .def("norm", &Engine::norm)
      .def("head_norm", &Engine::head_norm)
      .def("embed", &Engine::embed)
      .def("rotary", &Engine::rotary)
      .def("attention", &Engine::attention)
      .def("multiply_adds", &Engine::multiply_adds)
      .def("read", &Engine::read);
}
