// The root block: its convolution and max-pool, some rows of the pool at a time.
//
//   image rows -> convolution, in a thread's scratch -> max-pool
//
// What lies between is the largest map of a network, and is never stored. Where two items meet, each computes the rows
// of the convolution that both read.
#pragma once

#include "conv_step.h"

namespace resforward {

class RootStep final : public Step {
 public:
  // `conv` writes `out` alone, which nobody else reads: it needs no place. What is refused has not been moved from.
  RootStep(ConvLink&& conv, PoolStep&& pool, int threads);
  int64_t items() const override;
  void run(Run& run, int64_t item, void* scratch) const override;
  size_t scratch() const override;

 private:
  int64_t plane() const { return (conv_rows(rows_) * conv_.shape.out_w | 1) * kLanes; }  // floats between planes
  int64_t conv_rows(int64_t rows) const { return (rows - 1) * pool_.shape().stride + pool_.shape().kernel; }

  ConvLink conv_;
  PoolStep pool_;
  int64_t rows_ = 1;  // of the pool, in an item
};

}  // namespace resforward
