// Everything that is not a convolution, over the 16 lanes of a pixel. Plain loops where the compiler vectorises them
// for the instruction set of the including file, whose traits are `V` (conv.inl), and V::max_or_nan(a, b).

constexpr int kPixelVectors = kLanes / V::kWidth;

// The epilogue of steps that have no accumulators: 16 lanes of one output pixel.
static inline void finish(const Epilogue& e, int plane, int64_t pixel, const typename V::Vec (&value)[kPixelVectors]) {
  if (e.out)
    for (int j = 0; j < kPixelVectors; ++j)
      V::store(e.out + plane * e.plane + pixel * kLanes + j * V::kWidth, value[j]);
  if (e.preact)
    for (int j = 0; j < kPixelVectors; ++j) {
      const int channel = plane * kLanes + j * V::kWidth;
      const typename V::Vec normed = V::fma(value[j], V::load(e.scale + channel), V::load(e.shift + channel));
      V::store(e.preact + plane * e.preact_plane + pixel * kLanes + j * V::kWidth, V::max(V::set1(0.0f), normed));
    }
}

static void max_pool(const PoolArgs& a, int plane, int64_t row_begin, int64_t row_end) {
  for (int64_t row = row_begin; row < row_end; ++row) {
    const int64_t n = row / a.out_h;
    const int y0 = int(row % a.out_h) * a.stride - a.pad_y;
    const float* image = a.in + plane * a.in_plane + n * a.in_h * a.in_w * kLanes;
    for (int x = 0; x < a.out_w; ++x) {
      const int x0 = x * a.stride - a.pad_x;
      const bool padded = y0 < 0 || x0 < 0 || y0 + a.kernel > a.in_h || x0 + a.kernel > a.in_w;
      typename V::Vec value[kPixelVectors];
      for (auto& v : value) v = V::set1(padded ? a.fill : -__builtin_inff());
      for (int r = y0 < 0 ? 0 : y0; r < y0 + a.kernel && r < a.in_h; ++r)
        for (int s = x0 < 0 ? 0 : x0; s < x0 + a.kernel && s < a.in_w; ++s)
          for (int j = 0; j < kPixelVectors; ++j)
            value[j] = V::max_or_nan(value[j], V::load(image + (int64_t(r) * a.in_w + s) * kLanes + j * V::kWidth));
      finish(a.epilogue, plane, row * a.out_w + x, value);
    }
  }
}

static void avg_pool(const PoolArgs& a, int plane, int64_t row_begin, int64_t row_end) {
  for (int64_t row = row_begin; row < row_end; ++row) {
    const int64_t n = row / a.out_h;
    const int y0 = int(row % a.out_h) * a.stride - a.pad_y;
    const int y_begin = y0 < 0 ? 0 : y0, y_end = y0 + a.kernel < a.in_h ? y0 + a.kernel : a.in_h;
    const float* image = a.in + plane * a.in_plane + n * a.in_h * a.in_w * kLanes;
    for (int x = 0; x < a.out_w; ++x) {
      const int x0 = x * a.stride - a.pad_x;
      const int x_begin = x0 < 0 ? 0 : x0, x_end = x0 + a.kernel < a.in_w ? x0 + a.kernel : a.in_w;
      typename V::Vec value[kPixelVectors];
      for (auto& v : value) v = V::set1(0.0f);
      for (int r = y_begin; r < y_end; ++r)
        for (int s = x_begin; s < x_end; ++s)
          for (int j = 0; j < kPixelVectors; ++j)
            value[j] = V::add(value[j], V::load(image + (int64_t(r) * a.in_w + s) * kLanes + j * V::kWidth));
      const typename V::Vec count = V::set1(1.0f / float((y_end - y_begin) * (x_end - x_begin)));
      for (auto& v : value) v = V::mul(v, count);
      finish(a.epilogue, plane, row * a.out_w + x, value);
    }
  }
}

// Sums of few enough values that float keeps them, added up in double.
static void group_norm(const GroupNormArgs& a, double* scratch) {
  constexpr int64_t kPixels = 64;
  const int channels = a.planes * kLanes;
  double *const mean = scratch, *const around = scratch + channels;  // of each channel; around its mean: squares
  for (int plane = 0; plane < a.planes; ++plane) {
    const float* in = a.in + plane * a.in_plane;
    double *const m = mean + plane * kLanes, *const s = around + plane * kLanes;
    for (int i = 0; i < kLanes; ++i) m[i] = s[i] = 0;
    for (int64_t begin = 0; begin < a.pixels; begin += kPixels) {
      const int64_t end = begin + kPixels < a.pixels ? begin + kPixels : a.pixels;
      float sum[kLanes] = {};
      for (int64_t p = begin; p < end; ++p)
        for (int i = 0; i < kLanes; ++i) sum[i] += in[p * kLanes + i];
      for (int i = 0; i < kLanes; ++i) m[i] += sum[i];
    }
    float center[kLanes];
    for (int i = 0; i < kLanes; ++i) center[i] = float(m[i] /= double(a.pixels));
    for (int64_t begin = 0; begin < a.pixels; begin += kPixels) {
      const int64_t end = begin + kPixels < a.pixels ? begin + kPixels : a.pixels;
      float sum[kLanes] = {};
      for (int64_t p = begin; p < end; ++p)
        for (int i = 0; i < kLanes; ++i) {
          const float d = in[p * kLanes + i] - center[i];
          sum[i] += d * d;
        }
      for (int i = 0; i < kLanes; ++i) s[i] += sum[i];
    }
  }
  for (int first = 0; first < channels; first += a.depth) {
    const int end = first + a.depth < channels ? first + a.depth : channels;
    double center = 0, squares = 0;
    for (int c = first; c < end; ++c) center += mean[c];
    center /= end - first;
    for (int c = first; c < end; ++c) squares += around[c] + double(a.pixels) * (mean[c] - center) * (mean[c] - center);
    const double scale = 1 / __builtin_sqrt(squares / (double(a.pixels) * (end - first)) + a.epsilon);
    for (int c = first; c < end; ++c) {
      around[c] = scale * a.gamma[c];
      mean[c] = a.beta[c] - center * around[c];
    }
  }
  const typename V::Vec zero = V::set1(0.0f);
  for (int plane = 0; plane < a.planes; ++plane) {
    float scale[kLanes], shift[kLanes];
    for (int i = 0; i < kLanes; ++i)
      scale[i] = float(around[plane * kLanes + i]), shift[i] = float(mean[plane * kLanes + i]);
    const float* in = a.in + plane * a.in_plane;
    float* out = a.out + plane * a.out_plane;
    for (int64_t p = 0; p < a.pixels; ++p, in += kLanes, out += kLanes)
      for (int j = 0; j < kLanes; j += V::kWidth)
        V::store(out + j, V::max(zero, V::fma(V::load(in + j), V::load(scale + j), V::load(shift + j))));
  }
}

static void mean(const float* in, int n, int64_t pixels, float* out) {
  for (int image = 0; image < n; ++image, out += kLanes) {
    float sum[kLanes] = {};
    for (int64_t p = 0; p < pixels; ++p, in += kLanes)
      for (int i = 0; i < kLanes; ++i) sum[i] += in[i];
    for (int i = 0; i < kLanes; ++i) out[i] = sum[i] / float(pixels);
  }
}

static bool load(const LoadArgs& a, int64_t begin, int64_t end) {
  const int64_t row_floats = int64_t(a.w) * a.c;
  uint32_t all_ones = 0;  // grows past the exponent's range when a value has all exponent bits set: NaN, infinite
  for (int64_t row = begin; row < end; ++row) {
    const float* from = a.images + row * row_floats;
    for (int64_t i = 0; i < row_floats; ++i) {
      uint32_t bits;
      __builtin_memcpy(&bits, from + i, 4);
      all_ones |= (bits & 0x7f800000u) + 0x00800000u;
    }
    if (a.rows) {
      const int64_t n = row / a.h, y = row % a.h, stride = (int64_t(a.w) + 2 * a.margin) * a.c;
      float* to = a.rows + (n * (a.h + 2 * a.margin) + y + a.margin) * stride + int64_t(a.margin) * a.c;
      __builtin_memcpy(to, from, row_floats * sizeof(float));
      continue;
    }
    for (int x = 0; x < a.w; ++x, from += a.c)
      for (int first = 0; first < a.c; first += kLanes) {
        float lanes[kLanes] = {};
        for (int i = 0; i < kLanes && first + i < a.c; ++i) lanes[i] = from[first + i];
        typename V::Vec value[kPixelVectors];
        for (int j = 0; j < kPixelVectors; ++j) value[j] = V::load(lanes + j * V::kWidth);
        finish(a.epilogue, first / kLanes, row * a.w + x, value);
      }
  }
  return (all_ones & 0x80000000u) == 0;
}

static void store(const float* in, int64_t plane, int c, int64_t begin, int64_t end, float* out) {
  for (int64_t pixel = begin; pixel < end; ++pixel) {
    float* to = out + pixel * c;
    const float* from = in + pixel * kLanes;
    int channel = 0;
    for (; channel + kLanes <= c; channel += kLanes, from += plane)
      for (int i = 0; i < kLanes; ++i) to[channel + i] = from[i];
    for (int i = 0; channel + i < c; ++i) to[channel + i] = from[i];
  }
}

static void softmax(const float* in, int c, float* out) {
  float largest = in[0];
  for (int i = 1; i < c; ++i) largest = in[i] > largest ? in[i] : largest;
  double sum = 0;
  for (int i = 0; i < c; ++i) {
    out[i] = __builtin_expf(in[i] - largest);
    sum += out[i];
  }
  for (int i = 0; i < c; ++i) out[i] = float(out[i] / sum);
}

// Independent multiply-adds, enough of them to hide the latency of two FMA units: what this core can do at most.
static double fma_loop(int64_t iterations) {
  constexpr int kChains = V::kRows * V::kVectors < 12 ? V::kRows * V::kVectors : 12;
  typename V::Vec acc[kChains];
  for (int j = 0; j < kChains; ++j) acc[j] = V::set1(float(j));
  const typename V::Vec x = V::set1(0.5f), y = V::set1(1.0f);
  for (int64_t i = 0; i < iterations; ++i)
#pragma GCC unroll 16
    for (int j = 0; j < kChains; ++j) acc[j] = V::fma(acc[j], x, y);
  float sink[V::kWidth];
  for (int j = 0; j < kChains; ++j) {
    V::store(sink, acc[j]);
    asm volatile("" : : "m"(sink) : "memory");  // keeps the chains alive
  }
  return 2.0 * V::kWidth * kChains * double(iterations);
}

#define RESFORWARD_TABLE(name)     \
  {name,                           \
   V::kVectors * V::kWidth,        \
   {V::kRows, conv_scratch, conv}, \
   {V::kRows, conv_scratch, conv}, \
   winograd_in,                    \
   winograd_multiply,              \
   winograd_out,                   \
   max_pool,                       \
   avg_pool,                       \
   group_norm,                     \
   mean,                           \
   load,                           \
   store,                          \
   softmax,                        \
   fma_loop}
