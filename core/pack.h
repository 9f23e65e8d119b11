// Convolution weights in the order in which a kernel reads them: [tile][plane][tap][lane][tile_width].
//
// Packed once at load, whatever the number of threads or images. Batch norm is folded here: the output channel's scale
// is multiplied in double precision and rounded once.
#pragma once

#include <memory>

#include "kernels.h"
#include "memory.h"

namespace resforward {

struct PackedConv {
  const Kernels* kernels;
  int kernel_h, kernel_w, depth_in, depth;
  bool interleaved;  // reads NHWC rows with a margin (the root block) instead of planes
  Buffer weights, bias;

  const ConvKernel& kernel() const {
    return kernel_h * kernel_w == 1 && !interleaved ? kernels->pointwise : kernels->conv;
  }

  int taps_h() const { return kernel_h; }
  int taps_w() const { return interleaved ? 1 : kernel_w; }
  int lanes() const { return interleaved ? kernel_w * depth_in : kLanes; }
  int planes_in() const { return interleaved ? 1 : (depth_in + kLanes - 1) / kLanes; }
  int planes_out() const { return (depth + kLanes - 1) / kLanes; }
  int tiles() const { return (depth + kernels->tile_width - 1) / kernels->tile_width; }
};

// weights (kernel_h, kernel_w, depth_in, depth), scale (depth) or null for ones, bias (depth).
std::shared_ptr<const PackedConv> pack_conv(const Kernels* kernels, int kernel_h, int kernel_w, int depth_in, int depth,
                                            bool interleaved, const float* weights, const double* scale,
                                            const double* bias);

// Per-channel values padded with zeros to whole planes, and to whole tiles.
Buffer pad_channels(const double* values, int count, int multiple);

}  // namespace resforward
