#include "isa.h"

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

namespace resforward {

#if defined(__x86_64__)
extern const Kernels avx512_kernels, avx2_kernels;
extern const ConvKernel amx_kernels;  // of 1x1 convolutions; everything else is AVX-512's

namespace {

// Whether this process may use tiles: the kernel grants their 8 KiB of state to those that ask. From then on it refuses
// alternate signal stacks too small for them, and while a thread has one, the permission.
bool has_amx() {
#if defined(__linux__)
  unsigned a, b, c, d;
  constexpr unsigned kBfloat16 = 1u << 22, kTiles = 1u << 24;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & (kBfloat16 | kTiles)) != (kBfloat16 | kTiles)) return false;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

}  // namespace
#endif
extern const Kernels portable_kernels;

const std::vector<Isa>& compiled_isas() {
  static const std::vector<Isa> isas = [] {
    std::vector<Isa> list;
#if defined(__x86_64__)
    __builtin_cpu_init();  // reads cpuid, and XGETBV: an old kernel may not save the wide registers
    static Kernels with_amx = avx512_kernels;
    with_amx.isa = "amx", with_amx.pointwise = amx_kernels;
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
    list.push_back({&with_amx, avx512 && has_amx()});
    list.push_back({&avx512_kernels, avx512});
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
