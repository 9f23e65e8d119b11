#include "isa.h"

namespace resforward {

#if defined(__x86_64__)
extern const Kernels avx512_kernels, avx2_kernels;
#endif
extern const Kernels portable_kernels;

const std::vector<Isa>& compiled_isas() {
  static const std::vector<Isa> isas = [] {
    std::vector<Isa> list;
#if defined(__x86_64__)
    __builtin_cpu_init();  // reads cpuid, and XGETBV: an old kernel may not save the wide registers
    list.push_back({&avx512_kernels, __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                                         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")});
    list.push_back({&avx2_kernels, __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")});
#endif
    list.push_back({&portable_kernels, true});
    return list;
  }();
  return isas;
}

const Kernels* find_kernels(const std::string& isa) {
  for (const Isa& each : compiled_isas())
    if (each.supported && isa == each.kernels->isa) return each.kernels;
  return nullptr;
}

}  // namespace resforward
