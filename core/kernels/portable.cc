// Any processor: the compiler's own vectors of four floats, which are SSE on x86-64 and NEON on Arm.
#include "../kernels.h"

namespace resforward {
namespace {

struct V {
  typedef float Vec __attribute__((vector_size(16)));
  typedef float Unaligned __attribute__((vector_size(16), aligned(4), may_alias));
  static constexpr int kWidth = 4, kRows = 2, kVectors = 4, kGroup = 2;
  static Vec load(const float* p) { return *reinterpret_cast<const Unaligned*>(p); }
  static void store(float* p, Vec v) { *reinterpret_cast<Unaligned*>(p) = v; }
  static Vec set1(float x) { return Vec{x, x, x, x}; }
  static Vec fma(Vec a, Vec b, Vec c) { return a * b + c; }
  static Vec add(Vec a, Vec b) { return a + b; }
  static Vec sub(Vec a, Vec b) { return a - b; }
  static Vec mul(Vec a, Vec b) { return a * b; }
  static Vec max(Vec a, Vec b) { return a > b ? a : b; }
  static Vec max_or_nan(Vec a, Vec b) { return (a > b) | (a != a) ? a : b; }
  static Vec load_weights(const float* p) { return load(p); }
  static void multiply_row(Vec (&acc)[kVectors], const float* x, const Vec (&b)[kVectors]) {
    const Vec all = set1(*x);
    for (int j = 0; j < kVectors; ++j) acc[j] = fma(all, b[j], acc[j]);
  }
};

#include "conv.inl"
#include "pointwise.inl"
#include "winograd.inl"

}  // namespace

extern const Kernels portable_kernels;
const Kernels portable_kernels = RESFORWARD_TABLE("portable");

}  // namespace resforward
