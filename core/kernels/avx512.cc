// AVX-512: a tile of 14 pixels x 32 channels holds 28 of the 32 registers as accumulators.
#include <immintrin.h>

#include "../kernels.h"

namespace resforward {
namespace {

struct V {
  using Vec = __m512;
  static constexpr int kWidth = 16, kRows = 14, kVectors = 2, kGroup = 7;
  static Vec load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, Vec v) { _mm512_storeu_ps(p, v); }
  static Vec set1(float x) { return _mm512_set1_ps(x); }
  static Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
  static Vec add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
  static Vec sub(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
  static Vec mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
  static Vec max(Vec a, Vec b) { return _mm512_max_ps(a, b); }
  static Vec max_or_nan(Vec a, Vec b) {
    return _mm512_mask_mov_ps(max(a, b), _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), a);
  }
  // The order of these instructions is ours (volatile): left to itself the compiler loads weights so far ahead that
  // accumulators no longer fit in registers.
  static Vec load_weights(const float* p) {
    Vec v;
    asm volatile("vmovups %1, %0" : "=v"(v) : "m"(*reinterpret_cast<const float (*)[kWidth]>(p)));
    return v;
  }
  static void multiply_row(Vec (&acc)[kVectors], const float* x, const Vec (&b)[kVectors]) {
    Vec all;
    asm volatile("vbroadcastss %1, %0" : "=v"(all) : "m"(*x));
    for (int j = 0; j < kVectors; ++j) asm volatile("vfmadd231ps %1, %2, %0" : "+v"(acc[j]) : "v"(all), "v"(b[j]));
  }
};

#include "conv.inl"
#include "pointwise.inl"
#include "winograd.inl"

}  // namespace

extern const Kernels avx512_kernels;
const Kernels avx512_kernels = RESFORWARD_TABLE("avx512");

}  // namespace resforward
