// The kernels of an instruction set that has products of bfloat16 beside all of another one, FLOVER_BASE: the linears
// whose weights are in bfloat16, and for the rest the other's.
#include "limits.h"
#include "linears.h"

#define FLOVER_JOIN(a, b) a##b
#define FLOVER_TABLE(isa) FLOVER_JOIN(isa, _kernels)
#define FLOVER_TEXT(isa) #isa
#define FLOVER_NAME(isa) FLOVER_TEXT(isa)

namespace flover {

const Kernels& FLOVER_TABLE(FLOVER_BASE)();

namespace FLOVER_ISA {

static Format format_of(const Linear& l) { return l.weight.format; }
static Format format_of(const ExpertLinear& l) { return l.weights.data[0].format; }

template <class Op>
static void run_or_pass_on(Pool& pool, const Op& op) {
  if (format_of(op) == Format::bfloat16) return run(pool, op);
  std::get<Kernel<Op>>(FLOVER_TABLE(FLOVER_BASE)().table)(pool, op);
}

static double multiply_pairs(Pool& pool, int64_t rounds) {
  const Pairs one{_mm512_set1_epi32(0x3f803f80)}, two{_mm512_set1_epi32(0x40004000)};
  return 4.0 * over_chains<16>(pool, rounds, [=](F16 acc) { return multiply_pairs(one, two, acc); });
}

static Kernels made() {
  Kernels kernels = FLOVER_TABLE(FLOVER_BASE)();
  kernels.name = FLOVER_NAME(FLOVER_ISA);
  kernels.multiply_pairs = multiply_pairs;
  std::get<Kernel<Linear>>(kernels.table) = run_or_pass_on;
  std::get<Kernel<ExpertLinear>>(kernels.table) = run_or_pass_on;
  return kernels;
}

}  // namespace FLOVER_ISA

const Kernels& FLOVER_TABLE(FLOVER_ISA)() {
  static const Kernels kernels = FLOVER_ISA::made();
  return kernels;
}

}  // namespace flover
