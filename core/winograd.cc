#include "winograd.h"

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "pack.h"
#include "threads.h"

namespace resforward {

namespace {

constexpr double kA = 0.70710678118654752440, kB = 1.41421356237309504880;
constexpr int kMostWeights = kLargestTile + 2;  // along an axis

// One axis: a polynomial at each point, over the derivative of x (x^2 - 1/2) (x^2 - 2) there. Each coefficient is
// kLanes values, of neighbouring output channels.
using Lanes = double[kLanes];

void to_points(const Lanes (&g)[3], const Lanes& last, int points, Lanes* t) {
  for (int i = 0; i < kLanes; ++i) {
    const double even_a = (g[0][i] + g[2][i] * 0.5) / -1.5, odd_a = g[1][i] * (kA / -1.5);
    t[0][i] = g[0][i];
    t[1][i] = even_a + odd_a;
    if (points > 2) t[2][i] = even_a - odd_a;
    if (points > 3) t[3][i] = last[i];
    if (points > 4) t[4][i] = (g[0][i] + g[2][i] * 2) * (1 / 6.0) + g[1][i] * (kB / 6);
    if (points > 5) t[5][i] = (g[0][i] + g[2][i] * 2) * (1 / 6.0) - g[1][i] * (kB / 6);
  }
}

// All weights of an axis: of a kernel's three values, or, of stride 2, of the two that meet even inputs and the one
// that meets odd ones.
void to_weights(const Lanes (&g)[3], int stride, int outputs, Lanes* t) {
  if (stride == 1) return to_points(g, g[2], outputs + 2, t);
  Lanes even[3] = {};
  std::copy_n(g[0], kLanes, even[0]);
  std::copy_n(g[2], kLanes, even[1]);
  to_points(even, even[1], outputs + 1, t);
  std::copy_n(g[1], kLanes, t[outputs + 1]);
}

}  // namespace

std::shared_ptr<const PackedWinograd> pack_winograd(const Kernels* kernels, WinogradTile tile, int depth_in, int depth,
                                                    const float* weights, const double* scale, const double* bias) {
  if (std::min(tile.h, tile.w) < 1 || std::max(tile.h, tile.w) > kLargestTile || tile.stride < 1 || tile.stride > 2)
    throw std::invalid_argument("no Winograd tile of that size");
  const FlushDenormals flush;
  auto packed =
      std::make_shared<PackedWinograd>(PackedWinograd{kernels, tile, depth_in, depth, Buffer(), Buffer(), Buffer()});
  const int width = kernels->tile_width, weights_of_tile = tile.weights();
  packed->bias = pad_channels(bias, depth, width);
  packed->zeros = Buffer(width);
  const int64_t pitch = packed->pitch();
  packed->weights = Buffer(size_t(packed->tiles()) * weights_of_tile * pitch);
  std::vector<double> factors(size_t(packed->tiles()) * width, 0.0);
  for (int k = 0; k < depth; ++k) factors[k] = scale ? scale[k] : 1.0;

  for (int out = 0; out < packed->tiles(); ++out)
    for (int channel = 0; channel < depth_in; ++channel)
      for (int first = out * width; first < std::min((out + 1) * width, depth); first += kLanes) {
        const int count = std::min(kLanes, depth - first);
        Lanes rows[3][kMostWeights];  // [tap y][weight x]
        for (int r = 0; r < 3; ++r) {
          Lanes g[3] = {};
          for (int s = 0; s < 3; ++s) {
            const float* from = weights + (int64_t(r * 3 + s) * depth_in + channel) * depth + first;
            for (int i = 0; i < count; ++i) g[s][i] = from[i] * factors[first + i];
          }
          to_weights(g, tile.stride, tile.w, rows[r]);
        }
        float* const to =
            packed->weights.data() + out * weights_of_tile * pitch + int64_t(channel) * width + first % width;
        for (int x = 0; x < tile.weights_w(); ++x) {
          Lanes g[3], column[kMostWeights];
          for (int r = 0; r < 3; ++r) std::copy_n(rows[r][x], kLanes, g[r]);
          to_weights(g, tile.stride, tile.h, column);
          for (int y = 0; y < tile.weights_h(); ++y)
            for (int i = 0; i < kLanes; ++i) to[(y * tile.weights_w() + x) * pitch + i] = float(column[y][i]);
        }
      }
  return packed;
}

}  // namespace resforward
