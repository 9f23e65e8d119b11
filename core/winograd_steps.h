// How a Winograd convolution splits into items: one step, or three.
#pragma once

#include <memory>
#include <vector>

#include "plan.h"
#include "steps.h"
#include "winograd.h"

namespace resforward {

// One convolution, and how points and products of a block of tiles lie behind each other.
class WinogradConv {
 public:
  WinogradConv(std::shared_ptr<const PackedWinograd> weights, const Tensor& in, const Shortcut& shortcut,
               const Outputs& outputs);

  const PackedWinograd& weights() const { return *weights_; }
  const Kernels& kernels() const { return *weights_->kernels; }
  int64_t tiles() const { return tiles_; }
  int64_t floats(int64_t tiles, int product_planes) const;
  // A block of tiles, its points and products in `memory`; these for so many planes, at first from 0 on.
  WinogradArgs at(const Run& run, int64_t begin, int64_t end, float* memory, int product_planes) const;
  void clear_guards(const Run& run) const { epilogue_.clear_guards(run); }

 private:
  std::shared_ptr<const PackedWinograd> weights_;
  Tensor in_;
  EpilogueOf epilogue_;
  int64_t tiles_;
};

// All three parts for one block of tiles after another, points and products in a thread's scratch: no thread waits.
class WinogradFusedStep final : public Step {
 public:
  WinogradFusedStep(std::shared_ptr<const WinogradConv> conv, int64_t block) : conv_(std::move(conv)), block_(block) {}
  int64_t items() const override;
  void run(Run& run, int64_t item, void* scratch) const override;
  size_t scratch() const override;

 private:
  std::shared_ptr<const WinogradConv> conv_;
  int64_t block_;  // tiles of an item
};

// One part for many tiles, which share their points and products: each weight is read by one thread only.
class WinogradPartStep final : public Step {
 public:
  enum class Part { kIn, kMultiply, kOut };
  // Tiles [begin, end).
  WinogradPartStep(std::shared_ptr<const WinogradConv> conv, Part part, int64_t begin, int64_t end, int threads);
  int64_t items() const override { return ranges_ * splits_; }
  void run(Run& run, int64_t item, void* scratch) const override;
  size_t shared() const override;

 private:
  std::shared_ptr<const WinogradConv> conv_;
  Part part_;
  int64_t begin_, end_;
  int64_t ranges_;  // rows of points, points, or tiles
  int splits_;      // of planes, or of output tiles
};

// Steps for one convolution, however it is best split over `threads`.
std::vector<std::unique_ptr<Step>> winograd_steps(std::shared_ptr<const PackedWinograd> weights, const Tensor& in,
                                                  const Shortcut& shortcut, const Outputs& outputs, int threads);

}  // namespace resforward
