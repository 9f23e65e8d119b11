#include "steps.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <numeric>

namespace resforward {

namespace {

constexpr int64_t kRowsPerItem = 8;     // image rows of a load or pool item
constexpr int64_t kPixelsPerItem = 64;  // pixels of a store item

Outputs only(const Tensor& out) {
  Outputs outputs;
  outputs.out = out;
  return outputs;
}

}  // namespace

EpilogueOf::EpilogueOf(const Outputs& o, int multiple, const Shortcut& added)
    : linear(o.linear),
      out(o.out),
      preact(o.preact),
      shortcut(added),
      relu_(o.relu),
      scale_(pad_channels(o.scale.data(), int(o.scale.size()), multiple)),
      shift_(pad_channels(o.shift.data(), int(o.shift.size()), multiple)) {}

Epilogue EpilogueOf::at(const Run& run) const {
  Epilogue e;
  e.relu = relu_;
  e.scale = scale_.data();
  e.shift = shift_.data();
  e.linear = run.at(linear);
  e.out = run.at(out);
  e.preact = run.at(preact);
  e.plane = e.preact_plane = geometry().plane();
  if (shortcut.tensor) {
    e.residual = run.at(shortcut.tensor);
    e.residual_plane = shortcut.tensor.plane();
    e.residual_stride = shortcut.stride;
    e.residual_h = shortcut.tensor.h;
    e.residual_w = shortcut.tensor.w;
  }
  return e;
}

void EpilogueOf::clear_guards(const Run& run) const {
  for (const Tensor* t : {&linear, &out, &preact})
    if (t->in_arena())
      for (int plane = 0; plane < t->planes(); ++plane)
        std::memset(run.at(*t) + plane * t->plane() + t->pixels() * kLanes, 0, kLanes * sizeof(float));
}

LoadStep::LoadStep(const Kernels* kernels, int n, int h, int w, int c, const Outputs& outputs)
    : kernels_(kernels), n_(n), h_(h), w_(w), c_(c), epilogue_(outputs) {}

int64_t LoadStep::items() const { return ceil_div(int64_t(n_) * h_, kRowsPerItem); }

void LoadStep::run(Run& run, int64_t item, void*) const {
  if (item == 0) epilogue_.clear_guards(run);
  LoadArgs a;
  a.images = run.images;
  a.n = n_, a.h = h_, a.w = w_, a.c = c_;
  a.epilogue = epilogue_.at(run);
  const int64_t begin = item * kRowsPerItem;
  if (!kernels_->load(a, begin, std::min(begin + kRowsPerItem, int64_t(n_) * h_)))
    run.finite.store(false, std::memory_order_relaxed);
}

LoadRowsStep::LoadRowsStep(const Kernels* kernels, int n, int h, int w, int c, int margin, int64_t offset,
                           const std::vector<double>& scale, const std::vector<double>& shift)
    : kernels_(kernels), n_(n), h_(h), w_(w), c_(c), margin_(margin), offset_(offset) {
  if (scale.empty()) return;
  for (int x = 0; x < w; ++x) {
    scale_.insert(scale_.end(), scale.begin(), scale.end());
    shift_.insert(shift_.end(), shift.begin(), shift.end());
  }
}

int64_t LoadRowsStep::items() const { return ceil_div(int64_t(n_) * (h_ + 2 * margin_), kRowsPerItem); }

void LoadRowsStep::run(Run& run, int64_t item, void*) const {
  LoadArgs a;
  a.images = run.images;
  a.n = n_, a.h = h_, a.w = w_, a.c = c_;
  a.rows = run.arena + offset_;
  a.margin = margin_;
  const int64_t padded_h = h_ + 2 * margin_, side = int64_t(margin_) * c_, length = 2 * side + int64_t(w_) * c_;
  const int64_t begin = item * kRowsPerItem, end = std::min(begin + kRowsPerItem, n_ * padded_h);
  for (int64_t row = begin; row < end; ++row) {
    float* to = a.rows + row * length;
    const int64_t n = row / padded_h, y = row % padded_h - margin_;
    if (y < 0 || y >= h_) {
      std::memset(to, 0, length * sizeof(float));
      continue;
    }
    std::memset(to, 0, side * sizeof(float));
    std::memset(to + length - side, 0, side * sizeof(float));
    if (!kernels_->load(a, n * h_ + y, n * h_ + y + 1)) run.finite.store(false, std::memory_order_relaxed);
    for (size_t i = 0; i < scale_.size(); ++i) to[side + i] = to[side + i] * scale_[i] + shift_[i];
  }
}

PoolStep::PoolStep(const Kernels* kernels, Kind kind, const Tensor& in, int kernel, int stride, int pad_y, int pad_x,
                   const Outputs& outputs)
    : in_(in), pool_(kind == Kind::kAverage ? kernels->avg_pool : kernels->max_pool), epilogue_(outputs) {
  const Tensor& out = epilogue_.geometry();
  shape_.in_plane = in.plane();
  shape_.n = in.n, shape_.in_h = in.h, shape_.in_w = in.w, shape_.out_h = out.h, shape_.out_w = out.w;
  shape_.kernel = kernel, shape_.stride = stride, shape_.pad_y = pad_y, shape_.pad_x = pad_x;
  shape_.fill = kind == Kind::kMaxOverZeros ? 0.0f : -std::numeric_limits<float>::infinity();
}

int64_t PoolStep::items() const { return in_.planes() * ceil_div(int64_t(shape_.n) * shape_.out_h, kRowsPerItem); }

void PoolStep::run(Run& run, int64_t item, void*) const {
  if (item == 0) epilogue_.clear_guards(run);
  PoolArgs a = shape_;
  a.in = run.at(in_);
  a.epilogue = epilogue_.at(run);
  const int64_t begin = item / in_.planes() * kRowsPerItem;
  pool_(a, int(item % in_.planes()), begin, std::min(begin + kRowsPerItem, int64_t(a.n) * a.out_h));
}

void PoolStep::pool(const Run& run, const float* in, int64_t in_plane, int64_t row_begin, int64_t row_end) const {
  PoolArgs a = shape_;
  a.in = in, a.in_plane = in_plane;
  a.epilogue = epilogue_.at(run);
  for (int plane = 0; plane < in_.planes(); ++plane) pool_(a, plane, row_begin, row_end);
}

GroupNormStep::GroupNormStep(const Kernels* kernels, const Tensor& in, int groups, const std::vector<double>& gamma,
                             const std::vector<double>& beta, double epsilon, const Tensor& out)
    : kernels_(kernels),
      in_(in),
      depth_(in.c / groups),
      planes_(depth_ / std::gcd(depth_, kLanes)),
      gamma_(pad_channels(gamma.data(), in.c, kLanes)),
      beta_(pad_channels(beta.data(), in.c, kLanes)),
      epsilon_(epsilon),
      epilogue_(only(out)) {}

void GroupNormStep::run(Run& run, int64_t item, void* scratch) const {
  if (item == 0) epilogue_.clear_guards(run);
  const int64_t image = item % in_.n;
  const int first = int(item / in_.n) * planes_;
  const Tensor& out = epilogue_.out;
  GroupNormArgs a;
  a.pixels = int64_t(in_.h) * in_.w;
  a.in = run.at(in_) + first * in_.plane() + image * a.pixels * kLanes;
  a.in_plane = in_.plane();
  a.planes = std::min(planes_, in_.planes() - first);
  a.depth = depth_, a.epsilon = epsilon_;
  a.gamma = gamma_.data() + first * kLanes, a.beta = beta_.data() + first * kLanes;
  a.out = run.at(out) + first * out.plane() + image * a.pixels * kLanes;
  a.out_plane = out.plane();
  kernels_->group_norm(a, static_cast<double*>(scratch));
}

void MeanStep::run(Run& run, int64_t item, void*) const {
  kernels_->mean(run.at(in_) + item * in_.plane(), in_.n, int64_t(in_.h) * in_.w, run.at(out_) + item * out_.plane());
}

int64_t StoreStep::items() const { return ceil_div(in_.pixels(), kPixelsPerItem); }

void StoreStep::run(Run& run, int64_t item, void*) const {
  const int64_t begin = item * kPixelsPerItem, end = std::min(begin + kPixelsPerItem, in_.pixels());
  float* out = run.outputs[output_];
  kernels_->store(run.at(in_), in_.plane(), in_.c, begin, end, out);
  if (softmax_)
    for (int64_t pixel = begin; pixel < end; ++pixel)
      kernels_->softmax(out + pixel * in_.c, in_.c, out + pixel * in_.c);
}

}  // namespace resforward
