// All kernels for one instruction set but those of isa_blocks.cpp: compiled once for each, with FLOVER_ISA set to its
// name.
#include "attention.h"
#include "elementwise.h"
#include "embed.h"
#include "experts.h"
#include "limits.h"
#include "linears.h"
#include "lora.h"
#include "norm.h"
#include "sampling.h"

#define FLOVER_JOIN(a, b) a##b
#define FLOVER_TABLE(isa) FLOVER_JOIN(isa, _kernels)
#define FLOVER_TEXT(isa) #isa
#define FLOVER_NAME(isa) FLOVER_TEXT(isa)

namespace flover {

namespace FLOVER_ISA {

// The overload of `run` for each operation, in the order of the list.
template <class... Ops>
struct Overloads {
  static KernelTable<Ops...> table() { return {static_cast<Kernel<Ops>>(&run)...}; }
};

}  // namespace FLOVER_ISA

const Kernels& FLOVER_TABLE(FLOVER_ISA)() {
  using namespace FLOVER_ISA;
  static const Kernels kernels = {
      .name = FLOVER_NAME(FLOVER_ISA),
      .table = ForAllOps<Overloads>::table(),
      .multiply_adds = multiply_adds,
      .multiply_pairs = multiply_adds,
      .read = read_all,
  };
  return kernels;
}

}  // namespace flover
