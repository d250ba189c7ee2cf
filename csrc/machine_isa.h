// What this machine can run.
#pragma once

#include <string>
#include <vector>

#if defined(__aarch64__)
#include <sys/auxv.h>
#endif

namespace flover {

// The fastest first.
inline std::vector<std::string> machine_instruction_sets() {
  std::vector<std::string> names;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512vnni");
  if (avx512 && __builtin_cpu_supports("avx512bf16")) names.emplace_back("avx512_bf16");
  if (avx512) names.emplace_back("avx512");
  if (avx2) names.emplace_back("avx2");
#elif defined(__aarch64__)
  if (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) names.emplace_back("neon_dotprod");
  names.emplace_back("neon");
#endif
  names.emplace_back("portable");
#if defined(__x86_64__)  // what SIMDe computes, for comparisons
  if (avx2) names.insert(names.end(), {"avx512_bf16_simde", "avx512_simde", "neon_dotprod_simde", "neon_simde"});
#endif
  return names;
}

}  // namespace flover
