// The Python module flover._cpu. Arrays come as addresses; who calls (`flover/ops/cpu.py`) has checked types, shapes
// and layout. Every kernel runs without the GIL.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <vector>

#include "engine.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace flover;

constexpr auto released = nb::call_guard<nb::gil_scoped_release>();

NB_MODULE(_cpu, m) {
  nb::set_leak_warnings(false);  // threads and weights may live until the process ends
  m.doc() = "CPU kernels; see csrc/kernels.h for what each takes.";
  m.def("instruction_sets", &instruction_sets, "Those this machine can run, the fastest first.");

  nb::class_<PackedWeight>(m, "PackedWeight")
      .def("__init__",
           [](PackedWeight* self, int format, int64_t out, int64_t in, bool gated) {
             new (self) PackedWeight((Format)format, out, in, gated);
           },
           "format"_a, "out"_a, "in_"_a, "gated"_a)
      .def("store",
           [](PackedWeight& self, int64_t first, int64_t count, uintptr_t values, int64_t width, int64_t start) {
             nb::gil_scoped_release released;
             self.store(first, count, at<const float>(values), width, start);
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
      .def_prop_ro("seconds", &Engine::seconds, "Spent in kernels since the start.")
      .def("embed", &Engine::embed, released)
      .def("angles", &Engine::angles, released)
      .def("add", &Engine::add, released)
      .def("norm", &Engine::norm, released)
      .def("head_norm", &Engine::head_norm, released)
      .def("linear", &Engine::linear, released)
      .def("reach", &Engine::reach, released)
      .def("rotary", &Engine::rotary, released)
      .def("attention", &Engine::attention, released)
      .def("largest", &Engine::largest, released)
      .def("draw", &Engine::draw, released)
      .def("multiply_adds", &Engine::multiply_adds, released)
      .def("read", &Engine::read, released);

  nb::class_<Program>(m, "Program")
      .def(nb::init<>())
      .def("embed", &Program::embed, nb::keep_alive<1, 2>())
      .def("angles", &Program::angles)
      .def("add", &Program::add)
      .def("norm", &Program::norm)
      .def("head_norm", &Program::head_norm)
      .def("linear", &Program::linear, nb::keep_alive<1, 2>())
      .def("reach", &Program::reach)
      .def("rotary", &Program::rotary)
      .def("attention", &Program::attention)
      .def("run", &Program::run, released);
}
