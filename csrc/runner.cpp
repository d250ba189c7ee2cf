#include "runner.h"

#include <stdexcept>
#include <type_traits>

#include "machine_isa.h"

namespace flover {

// FLOVER_SETS is FLOVER_SET(isa) for each that is compiled (CMakeLists.txt).
#define FLOVER_SET(isa) const Kernels& isa##_kernels();
FLOVER_SETS
#undef FLOVER_SET

namespace {

// What was compiled.
const std::vector<const Kernels*>& compiled_kernels() {
  static const std::vector<const Kernels*> compiled{
#define FLOVER_SET(isa) &isa##_kernels(),
      FLOVER_SETS
#undef FLOVER_SET
  };
  return compiled;
}

}  // namespace

std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  for (const auto& name : machine_instruction_sets())
    for (const Kernels* kernels : compiled_kernels())
      if (kernels->name == name) names.push_back(name);
  return names;
}

const Kernels& kernels_named(const std::string& name) {
  for (const auto& known : instruction_sets())
    for (const Kernels* kernels : compiled_kernels())
      if (known == name && kernels->name == name) return *kernels;
  throw std::invalid_argument("this machine cannot run " + name);
}

namespace {

// Fills in what an operation takes from the batch: sizes, and pointers that are references.
class Resolver {
 public:
  explicit Resolver(Batch& batch) : batch_(batch), lines_((batch.tokens + 15) / 16 * 16) {
    batch.each_field([this](const char*, auto& field) {
      if constexpr (std::is_pointer_v<std::remove_reference_t<decltype(field)>>) inputs_.push_back((uintptr_t)field);
    });
  }

  void operator()(const char*, Tokens& tokens) const { tokens = batch_.tokens; }
  void operator()(const char*, Rows& rows) const { rows = batch_.rows; }
  void operator()(const char*, TableStride& stride) const { stride = batch_.table_stride; }

  template <class T>
  void operator()(const char*, T*& pointer) const {
    const auto value = (uintptr_t)pointer;
    switch ((Reference)(value & 3)) {
      case Reference::workspace: pointer = (T*)(batch_.workspace + (int64_t)(value >> 2) * lines_); break;
      case Reference::input: pointer = (T*)inputs_[value >> 2]; break;
      case Reference::address: break;
    }
  }

  template <class T>
  void operator()(const char*, T&) const {}

 private:
  const Batch& batch_;
  int64_t lines_;
  std::vector<uintptr_t> inputs_;  // the pointers of the batch, in the order of its fields
};

}  // namespace

void Program::run(KernelRunner& runner, Batch batch) {
  KernelRunner::Timed timed(runner);
  const Resolver resolve(batch);
  for (const auto& recorded : ops_)
    std::visit(
        [&](auto op) {
          op.each_field(resolve);
          runner.call(op);
        },
        recorded);
}

}  // namespace flover
