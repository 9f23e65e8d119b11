#include "root_step.h"

#include <algorithm>
#include <stdexcept>

namespace resforward {

namespace {

constexpr int64_t kMapBytes = 512 << 10;  // of the convolution's rows in an item: they stay in L2
constexpr int64_t kTilesAtOnce = 16;      // of pixels, while their input and pointers lie in L1 and L2

// `conv`, if the pool can read what it writes.
ConvLink&& checked(ConvLink&& conv, const PoolStep& pool) {
  const EpilogueOf& e = conv.epilogue;
  if (!e.out || e.linear || e.preact || e.shortcut.tensor)
    throw std::invalid_argument("a pooled convolution has one output and no shortcut");
  const PoolArgs& p = pool.shape();
  if (e.out.n != p.n || e.out.h != p.in_h || e.out.w != p.in_w || e.out.planes() != pool.planes())
    throw std::invalid_argument("the pool reads another map than the convolution writes");
  return std::move(conv);
}

}  // namespace

RootStep::RootStep(ConvLink&& conv, PoolStep&& pool, int threads)
    : conv_(checked(std::move(conv), pool)), pool_(std::move(pool)) {
  const PoolArgs& p = pool_.shape();
  const int64_t row_bytes = int64_t(pool_.planes()) * p.in_w * kLanes * sizeof(float);
  const int64_t shares = ceil_div(int64_t(p.n) * p.out_h, kItemsPerThread * threads);
  const int64_t most = (kMapBytes / row_bytes - p.kernel) / p.stride + 1;
  rows_ = std::clamp<int64_t>(std::min(most, shares), 1, p.out_h);
  rows_ = ceil_div(p.out_h, ceil_div(p.out_h, rows_));  // alike
}

int64_t RootStep::items() const { return pool_.shape().n * ceil_div(pool_.shape().out_h, rows_); }

// The map first, then the kernel's own.
size_t RootStep::scratch() const {
  const ConvKernel& kernel = conv_.conv->kernel();
  return plane() * pool_.planes() * sizeof(float) + kernel.scratch(conv_.shape, kTilesAtOnce * kernel.tile_rows);
}

void RootStep::run(Run& run, int64_t item, void* scratch) const {
  if (item == 0) pool_.clear_guards(run);
  const PoolArgs& p = pool_.shape();
  const int64_t items = ceil_div(p.out_h, rows_), n = item / items;
  const int64_t first = item % items * rows_, last = std::min<int64_t>(first + rows_, p.out_h) - 1;
  const int64_t top = std::max<int64_t>(first * p.stride - p.pad_y, 0);
  const int64_t bottom = std::min<int64_t>(last * p.stride - p.pad_y + p.kernel, p.in_h);
  const int64_t begin = (n * p.in_h + top) * p.in_w, end = (n * p.in_h + bottom) * p.in_w;
  const ConvKernel& kernel = conv_.conv->kernel();
  float* const map = static_cast<float*>(scratch);
  float* const origin = map - begin * kLanes;  // where pixel 0 would lie
  ConvArgs a = conv_.at(run);
  a.epilogue.out = origin, a.epilogue.plane = plane();
  const int64_t block = kTilesAtOnce * kernel.tile_rows;
  for (int64_t pixel = begin; pixel < end; pixel += block)
    kernel.run(a, pixel, std::min(pixel + block, end), 0, conv_.conv->tiles(), map + plane() * pool_.planes());
  pool_.pool(run, origin, plane(), n * p.out_h + first, n * p.out_h + last + 1);
}

}  // namespace resforward
