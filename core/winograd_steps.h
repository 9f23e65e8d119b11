// How a Winograd convolution splits into items.
#pragma once

#include <memory>
#include <vector>

#include "plan.h"
#include "steps.h"
#include "winograd.h"

namespace resforward {

// One convolution: what its steps have in common.
class WinogradConv {
 public:
  WinogradConv(std::shared_ptr<const PackedWinograd> weights, const Tensor& in, const Shortcut& shortcut,
               const Outputs& outputs);

  const PackedWinograd& weights() const { return *weights_; }
  const Kernels& kernels() const { return *weights_->kernels; }
  int64_t tiles() const { return tiles_; }
  // Pointers of a run, and a block of tiles whose points and products are yet to be placed.
  WinogradArgs at(const Run& run, int64_t begin, int64_t end) const;
  void clear_guards(const Run& run) const { epilogue_.clear_guards(run); }

 private:
  std::shared_ptr<const PackedWinograd> weights_;
  Tensor in_;
  Shortcut shortcut_;
  EpilogueOf epilogue_;
  int64_t tiles_;
};

// All three parts for one block of tiles after another, points and products in a thread's scratch: no thread waits.
class WinogradFusedStep final : public Step {
 public:
  WinogradFusedStep(std::shared_ptr<const WinogradConv> conv, int64_t block);
  int64_t items() const override;
  void run(Run& run, int64_t item, void* scratch) const override;
  size_t scratch() const override;

 private:
  std::shared_ptr<const WinogradConv> conv_;
  int64_t block_;  // tiles of an item
};

// Steps for one convolution, however it is best split over `threads`.
std::vector<std::unique_ptr<Step>> winograd_steps(std::shared_ptr<const PackedWinograd> weights, const Tensor& in,
                                                  const Shortcut& shortcut, const Outputs& outputs, int threads);

}  // namespace resforward
