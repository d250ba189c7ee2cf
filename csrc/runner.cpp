#include "runner.h"

#include <stdexcept>
#include <type_traits>

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
