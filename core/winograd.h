// Weights of a Winograd convolution: a 3x3 kernel of stride 1 or 2, transformed once at load.
//
// Along an axis, a tile of m outputs is m + 2 products instead of 3 m: the values of three polynomials at m + 2 points,
// multiplied, and interpolated. Tiles of 4 x 4 outputs: 36 products for 16 of them instead of 144.
//
//   points          0, 1/sqrt2, -1/sqrt2, infinity, sqrt2, -sqrt2: squares and most coefficients are exact in binary
//   nested tiles    a tile of k outputs uses the first k + 2 points. So the last tile of an axis covers what remains
//                   and nothing more (14 = 4 + 4 + 4 + 2), with the same transformed weights; what differs, the
//                   scale of each point, goes into the tile's input
//
// Of stride 2, the outer two of three weights meet even inputs, and are such a polynomial of m + 1 points; the middle
// one meets odd inputs, which are multiplied as they are: 2 m + 1 products instead of 3 m.
//
// Measured against double precision, RMS over RMS of the output, 64 to 512 channels: direct 3.0e-7 to 8.4e-7, tiles of
// two 3.4e-7 to 8.7e-7, of three, of four and of 4 x 3 6.4e-7 to 1.7e-6; the largest difference is 7 to 12 times
// that.
//
// Transformed weights are rounded once, after batch norm's scale, and lie as the products read them.
#pragma once

#include <memory>

#include "kernels.h"
#include "memory.h"

namespace resforward {

struct PackedWinograd {
  const Kernels* kernels;
  WinogradTile tile;
  int depth_in, depth;
  Buffer weights;  // [output tile][weight y][weight x], `pitch` apart, [plane][lane][tile_width]
  Buffer bias, zeros;

  // Floats from one of them to the next: a cache line more than they are, or all would fall into one cache set.
  int64_t pitch() const { return int64_t(planes_in()) * kLanes * kernels->tile_width + kLanes; }
  int planes_in() const { return (depth_in + kLanes - 1) / kLanes; }
  int planes_out() const { return (depth + kLanes - 1) / kLanes; }
  int tiles() const { return (depth + kernels->tile_width - 1) / kernels->tile_width; }
};

constexpr int kLargestTile = 4;

// weights (3, 3, depth_in, depth), scale (depth) or null for ones, bias (depth); tile: 1 to kLargestTile
// along either axis.
std::shared_ptr<const PackedWinograd> pack_winograd(const Kernels* kernels, WinogradTile tile, int depth_in, int depth,
                                                    const float* weights, const double* scale, const double* bias);

}  // namespace resforward
