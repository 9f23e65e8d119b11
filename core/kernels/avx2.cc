// AVX2 with FMA: a tile of 6 pixels x 16 channels holds 12 of the 16 registers as accumulators.
#include <immintrin.h>

#include "../kernels.h"

namespace resforward {
namespace {

struct V {
  using Vec = __m256;
  static constexpr int kWidth = 8, kRows = 6, kVectors = 2, kGroup = 6;
  static Vec load(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, Vec v) { _mm256_storeu_ps(p, v); }
  static Vec set1(float x) { return _mm256_set1_ps(x); }
  static Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
  static Vec add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
  static Vec sub(Vec a, Vec b) { return _mm256_sub_ps(a, b); }
  static Vec mul(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
  static Vec max(Vec a, Vec b) { return _mm256_max_ps(a, b); }
  static Vec max_or_nan(Vec a, Vec b) { return _mm256_blendv_ps(max(a, b), a, _mm256_cmp_ps(a, a, _CMP_UNORD_Q)); }
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

extern const Kernels avx2_kernels;
const Kernels avx2_kernels = RESFORWARD_TABLE("avx2");

}  // namespace resforward
