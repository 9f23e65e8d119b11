// Convolutions, one or a chain: what a chain's first one makes of a block of pixels, 1x1 convolutions read at once.
//
//   conv3 + shortcut -> sum, preact of the next unit   the first
//   preact -> conv1 of the next unit                   follows
//   preact -> its projection                           follows
//
// The preact of a block is read while it lies in L2, and is never stored if nobody else wants it. What follows with a
// stride reads some pixels of the block, maybe none.
#pragma once

#include <memory>
#include <vector>

#include "plan.h"
#include "steps.h"

namespace resforward {

struct ConvLink {
  // `shape` says what does not depend on where the arena lies, nor on the outputs.
  ConvLink(std::shared_ptr<const PackedConv> conv, const ConvArgs& shape, const Tensor& in, const Shortcut& shortcut,
           const Outputs& outputs);
  // Of a run; what lies in slots has no place yet.
  ConvArgs at(const Run& run) const;

  std::shared_ptr<const PackedConv> conv;
  ConvArgs shape;
  Tensor in;
  EpilogueOf epilogue;
};

class ConvStep final : public Step {
 public:
  ConvStep(ConvLink first, int threads);
  void follow(ConvLink next);
  ConvLink& alone();  // of a step that nothing follows

  int64_t items() const override;
  void run(Run& run, int64_t item, void* scratch) const override;
  size_t scratch() const override;

 private:
  void split();
  int64_t plane() const { return (block_ | 1) * kLanes; }  // floats between planes of a slot
  int64_t slot_floats(int before) const;                   // of the slots before that one
  float* slot(const Tensor& tensor, void* scratch, int64_t begin) const;

  int threads_;
  std::vector<ConvLink> links_;
  std::vector<int64_t> slots_;  // planes of each
  int64_t pixels_, block_ = 0;  // output pixels, and those of one item
  int tiles_ = 0;               // output tiles of one item
};

}  // namespace resforward
