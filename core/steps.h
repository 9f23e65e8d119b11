// The kinds of step but convolutions. Each knows how its work splits into items; the kernels know how an item is
// computed.
#pragma once

#include <memory>

#include "plan.h"

namespace resforward {

constexpr int64_t kItemsPerThread = 4;  // enough that threads finish together, few enough that counting is free

// Owns the padded per-channel vectors of an epilogue and fills in the pointers for a run, of all but the bias.
class EpilogueOf {
 public:
  explicit EpilogueOf(const Outputs& outputs, int multiple = kLanes, const Shortcut& shortcut = Shortcut());
  Epilogue at(const Run& run) const;
  // The pixel of zeros that follows every plane, for a convolution with padding that reads this tensor.
  void clear_guards(const Run& run) const;
  const Tensor& geometry() const { return out ? out : preact ? preact : linear; }

  const Tensor linear, out, preact;
  const Shortcut shortcut;

 private:
  bool relu_;
  Buffer scale_, shift_;
};

class LoadStep final : public Step {
 public:
  LoadStep(const Kernels* kernels, int n, int h, int w, int c, const Outputs& outputs);
  int64_t items() const override;
  void run(Run& run, int64_t item, void* scratch) const override;

 private:
  const Kernels* kernels_;
  int n_, h_, w_, c_;
  EpilogueOf epilogue_;
};

class LoadRowsStep final : public Step {
 public:
  // scale, shift: of each channel, or empty; the margin is zeros all the same.
  LoadRowsStep(const Kernels* kernels, int n, int h, int w, int c, int margin, int64_t offset,
               const std::vector<double>& scale, const std::vector<double>& shift);
  int64_t items() const override;
  void run(Run& run, int64_t item, void* scratch) const override;

 private:
  const Kernels* kernels_;
  int n_, h_, w_, c_, margin_;
  int64_t offset_;
  std::vector<float> scale_, shift_;  // of a row's values
};

class PoolStep final : public Step {
 public:
  enum class Kind { kMax, kMaxOverZeros, kAverage };  // kMaxOverZeros: what lies outside the map counts as zeros
  PoolStep(const Kernels* kernels, Kind kind, const Tensor& in, int kernel, int stride, int pad_y, int pad_x,
           const Outputs& outputs);
  int64_t items() const override;
  void run(Run& run, int64_t item, void* scratch) const override;

  const PoolArgs& shape() const { return shape_; }
  int planes() const { return in_.planes(); }
  // Output rows (n, y) in [row_begin, row_end) of all planes, from `in`, whose planes lie so many floats apart.
  void pool(const Run& run, const float* in, int64_t in_plane, int64_t row_begin, int64_t row_end) const;
  void clear_guards(const Run& run) const { epilogue_.clear_guards(run); }

 private:
  Tensor in_;
  void (*pool_)(const PoolArgs&, int plane, int64_t row_begin, int64_t row_end);
  PoolArgs shape_;
  EpilogueOf epilogue_;
};

// An item is one image's planes that hold whole groups.
class GroupNormStep final : public Step {
 public:
  GroupNormStep(const Kernels* kernels, const Tensor& in, int groups, const std::vector<double>& gamma,
                const std::vector<double>& beta, double epsilon, const Tensor& out);
  int64_t items() const override { return in_.n * ceil_div(in_.planes(), planes_); }
  void run(Run& run, int64_t item, void* scratch) const override;
  size_t scratch() const override { return size_t(planes_) * kLanes * 2 * sizeof(double); }

 private:
  const Kernels* kernels_;
  Tensor in_;
  int depth_, planes_;  // channels of a group, planes of an item
  Buffer gamma_, beta_;
  double epsilon_;
  EpilogueOf epilogue_;
};

class MeanStep final : public Step {
 public:
  MeanStep(const Kernels* kernels, const Tensor& in, const Tensor& out) : kernels_(kernels), in_(in), out_(out) {}
  int64_t items() const override { return in_.planes(); }
  void run(Run& run, int64_t item, void* scratch) const override;

 private:
  const Kernels* kernels_;
  Tensor in_, out_;
};

class StoreStep final : public Step {
 public:
  StoreStep(const Kernels* kernels, const Tensor& in, int output, bool softmax)
      : kernels_(kernels), in_(in), output_(output), softmax_(softmax) {}
  int64_t items() const override;
  void run(Run& run, int64_t item, void* scratch) const override;

 private:
  const Kernels* kernels_;
  Tensor in_;
  int output_;
  bool softmax_;
};

}  // namespace resforward
