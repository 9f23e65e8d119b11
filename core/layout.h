// How a batch of feature maps lies in memory: [planes][pixels][16], float32.
//
// A plane holds 16 neighbouring channels of every pixel of every image, pixels in (n, y, x) order. So the pixels of one
// kernel tile are contiguous, whatever the number of channels. Channels are padded with zeros to a multiple of 16.
// After its last pixel every plane holds one pixel of zeros: what a convolution reads outside the image.
#pragma once

#include <cstdint>

#include "kernels.h"

namespace resforward {

// A tensor that one chain of convolutions both writes and reads need not lie in the arena: each thread keeps only its
// block of pixels, in a numbered slot of its scratch.
struct Tensor {
  int64_t offset = -1;  // in the arena, floats; -1: not there
  int n = 0, h = 0, w = 0, c = 0;
  int slot = -1;  // -1: in none

  int64_t pixels() const { return int64_t(n) * h * w; }
  int planes() const { return (c + kLanes - 1) / kLanes; }
  // Floats from one plane to the next. An odd number of pixels keeps planes from falling into the same cache sets.
  int64_t plane() const { return ((pixels() + 1) | 1) * kLanes; }
  int64_t floats() const { return plane() * planes(); }
  bool in_arena() const { return offset >= 0; }
  bool in_slot() const { return slot >= 0; }
  explicit operator bool() const { return in_arena() || in_slot(); }
};

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace resforward
