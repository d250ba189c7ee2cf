// The Python module flover._cpu. Arrays come as addresses; who calls (`flover/ops/cpu.py`) has checked types, shapes
// and layout. Every kernel runs without the GIL.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <type_traits>
#include <vector>

#include "merges.h"
#include "runner.h"
#include "weight.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace flover;

namespace {

constexpr auto released = nb::call_guard<nb::gil_scoped_release>();

template <class T>
T* at(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

// The matrices of all experts of a layer, by index.
struct Experts {
  std::vector<Weight> views;
};

template <class T>
std::span<const T> numbers(const nb::bytes& raw) {
  return {(const T*)raw.data(), raw.size() / sizeof(T)};
}

nb::bytes raw(const std::vector<int32_t>& values) { return nb::bytes(values.data(), values.size() * sizeof(int32_t)); }

// Left and right tokens of the merges. Texts are UTF-32, `ends` int64, `ranks` float64, `several` bytes.
nb::tuple merges(nb::bytes text, nb::bytes ends, nb::bytes ranks, nb::bytes several, bool longest_first) {
  const auto characters = numbers<char32_t>(text);
  const Vocabulary tokens{{characters.data(), characters.size()},
                          numbers<int64_t>(ends),
                          numbers<double>(ranks),
                          numbers<uint8_t>(several)};
  const Merges made = [&] {
    nb::gil_scoped_release released;
    return make_merges(tokens, longest_first);
  }();
  return nb::make_tuple(raw(made.left), raw(made.right));
}

// One keyword argument of the constructor of an operation, for the field of its name.
class Argument {
 public:
  Argument(nb::handle owner, const nb::kwargs& values) : owner_(owner), values_(values) {}

  template <class Field>
  void operator()(const char* name, Field& field) {
    using Plain = std::remove_reference_t<Field>;
    if (!values_.contains(name)) throw nb::type_error(("missing field " + std::string(name)).c_str());
    const nb::object value = values_[name];
    if constexpr (std::is_pointer_v<Plain>)
      field = at<std::remove_pointer_t<Plain>>(nb::cast<uintptr_t>(value));
    else if constexpr (std::is_enum_v<Plain>)
      field = (Plain)nb::cast<int>(value);
    else if constexpr (std::is_same_v<Plain, Weight>) {
      field = nb::cast<const PackedWeight&>(value).view();
      owner_.attr("weight") = value;  // kept as long as the operation
    } else if constexpr (std::is_same_v<Plain, WeightList>) {
      const auto& experts = nb::cast<const Experts&>(value);
      field = {experts.views.data(), (int64_t)experts.views.size()};
      owner_.attr("weights") = value;
    } else if constexpr (std::is_same_v<Plain, Pages>)
      field = nb::cast<const Pages&>(value);
    else if constexpr (std::is_arithmetic_v<Plain>)
      field = nb::cast<Plain>(value);
    else
      field = {nb::cast<int64_t>(value)};
    count_++;
  }

  void finish() const {
    if (values_.size() != count_) throw nb::type_error("there is a field that the operation does not have");
  }

 private:
  nb::handle owner_;
  const nb::kwargs& values_;
  size_t count_ = 0;
};

// A class whose constructor takes every field by name. Pointers can be read and written; `pointers` has their names.
template <class Struct>
nb::class_<Struct> bind(nb::module_& m) {
  auto made = nb::class_<Struct>(m, Struct::name, nb::dynamic_attr());
  made.def("__init__", [](nb::pointer_and_handle<Struct> self, nb::kwargs values) {
    new (self.p) Struct{};
    Argument argument(self.h, values);
    self.p->each_field(argument);
    argument.finish();
  });
  nb::list pointers;
  Struct{}.each_field([&](const char* name, auto& field) {
    if constexpr (std::is_pointer_v<std::remove_reference_t<decltype(field)>>) pointers.append(name);
  });
  made.attr("pointers") = nb::tuple(pointers);
  made.def("get", [](Struct& self, const std::string& wanted) {
    uintptr_t found = 0;
    self.each_field([&](const char* name, auto& field) {
      if constexpr (std::is_pointer_v<std::remove_reference_t<decltype(field)>>)
        if (wanted == name) found = (uintptr_t)field;
    });
    return found;
  });
  made.def("set", [](Struct& self, const std::string& wanted, uintptr_t value) {
    self.each_field([&](const char* name, auto& field) {
      using Field = std::remove_reference_t<decltype(field)>;
      if constexpr (std::is_pointer_v<Field>)
        if (wanted == name) field = (Field)value;
    });
  });
  return made;
}

template <class... Ops>
struct Bindings {
  static void add(nb::module_& m, nb::class_<KernelRunner>& runner, nb::class_<Program>& program) {
    (bind<Ops>(m), ...);
    (runner.def("run", [](KernelRunner& self, const Ops& op) { self.run(op); }, released), ...);
    (program.def("append", [](Program& self, const Ops& op) { self.append(op); }, nb::keep_alive<1, 2>()), ...);
  }
};

}  // namespace

NB_MODULE(_cpu, m) {
  nb::set_leak_warnings(false);  // threads and weights may live until the process ends
  m.doc() = "CPU kernels; see csrc/kernels.h for what each takes.";
  m.def("instruction_sets", &instruction_sets, "Those this machine can run, the fastest first.");
  m.def("make_merges", &merges, "text"_a, "ends"_a, "ranks"_a, "several"_a, "longest_first"_a);
  m.def(
      "workspace", [](uintptr_t offset) { return reference(Reference::workspace, offset); },
      "A reference to the buffer that starts `offset` floats per token into the workspace.");
  m.def(
      "input", [](uintptr_t index) { return reference(Reference::input, index); },
      "A reference to one of `Batch.pointers`.");

  nb::class_<PackedWeight>(m, "PackedWeight")
      .def(
          "__init__",
          [](PackedWeight* self, int format, int64_t out, int64_t in, bool gated, int64_t rotation, int64_t segments) {
            new (self) PackedWeight((Format)format, out, in, gated, rotation, segments);
          },
          "format"_a, "out"_a, "in_"_a, "gated"_a, "rotation"_a, "segments"_a)
      .def("store",
           [](PackedWeight& self, int64_t first, int64_t count, uintptr_t values, int64_t width, int64_t start) {
             nb::gil_scoped_release released;
             self.store(first, count, at<const float>(values), width, start);
           })
      .def("store_blocks",
           [](PackedWeight& self, int64_t first, int64_t count, uintptr_t rows, int64_t width, int64_t start) {
             nb::gil_scoped_release released;
             self.store_blocks(first, count, at<const uint8_t>(rows), width, start);
           })
      .def("set_order", [](PackedWeight& self, uintptr_t order) { self.set_order(at<const int32_t>(order)); })
      .def("row", [](const PackedWeight& self, int64_t index, uintptr_t values) { self.row(index, at<float>(values)); })
      .def(
          "packed",
          [](const PackedWeight& self) {
            return nb::bytes(reinterpret_cast<const char*>(self.view().data), self.bytes());
          },
          "The panels as they lie in memory, then what int8 has besides (weight.h).")
      .def_prop_ro("bytes", &PackedWeight::bytes);

  nb::class_<Experts>(m, "Experts")
      .def(
          "__init__",
          [](Experts* self, nb::list weights) {
            new (self) Experts;
            for (nb::handle weight : weights) self->views.push_back(nb::cast<const PackedWeight&>(weight).view());
          },
          nb::keep_alive<1, 2>(), "weights"_a);

  bind<Pages>(m);
  bind<Batch>(m);

  nb::class_<KernelRunner> runner(m, "KernelRunner");
  runner.def(nb::init<const std::string&, int>(), "isa"_a, "threads"_a)
      .def_prop_ro("isa", &KernelRunner::isa)
      .def_prop_ro("threads", &KernelRunner::threads)
      .def_prop_ro("seconds", &KernelRunner::seconds, "Spent in kernels since the start.")
      .def("multiply_adds", &KernelRunner::multiply_adds, released)
      .def("multiply_pairs", &KernelRunner::multiply_pairs, released)
      .def(
          "read",
          [](KernelRunner& self, uintptr_t data, int64_t bytes) { return self.read(at<const uint8_t>(data), bytes); },
          released);

  nb::class_<Program> program(m, "Program");
  program.def(nb::init<>()).def("run", &Program::run, released);
  ForAllOps<Bindings>::add(m, runner, program);
}
