#include "winograd.h"

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "pack.h"
#include "threads.h"

namespace resforward {

namespace {

constexpr double kA = 0.70710678118654752440, kB = 1.41421356237309504880;
constexpr int kMostPoints = kLargestTile + 2;

// One axis: a polynomial of three coefficients at each point, over the derivative of x (x^2 - 1/2) (x^2 - 2) there.
// Each coefficient is kLanes values, of neighbouring output channels.
using Lanes = double[kLanes];

void to_points(const Lanes (&g)[3], int points, Lanes* t) {
  for (int i = 0; i < kLanes; ++i) {
    const double even_a = (g[0][i] + g[2][i] * 0.5) / -1.5, odd_a = g[1][i] * (kA / -1.5);
    t[0][i] = g[0][i];
    t[1][i] = even_a + odd_a;
    t[2][i] = even_a - odd_a;
  }
  if (points > 3)
    for (int i = 0; i < kLanes; ++i) t[3][i] = g[2][i];
  if (points > 4)
    for (int i = 0; i < kLanes; ++i) t[4][i] = (g[0][i] + g[2][i] * 2) * (1 / 6.0) + g[1][i] * (kB / 6);
  if (points > 5)
    for (int i = 0; i < kLanes; ++i) t[5][i] = (g[0][i] + g[2][i] * 2) * (1 / 6.0) - g[1][i] * (kB / 6);
}

}  // namespace

std::shared_ptr<const PackedWinograd> pack_winograd(const Kernels* kernels, WinogradTile tile, int depth_in, int depth,
                                                    const float* weights, const double* scale, const double* bias) {
  if (std::min(tile.h, tile.w) < 1 || std::max(tile.h, tile.w) > kLargestTile)
    throw std::invalid_argument("no Winograd tile of that size");
  const FlushDenormals flush;
  auto packed =
      std::make_shared<PackedWinograd>(PackedWinograd{kernels, tile, depth_in, depth, Buffer(), Buffer(), Buffer()});
  const int width = kernels->tile_width, points = tile.points();
  packed->bias = pad_channels(bias, depth, width);
  packed->zeros = Buffer(width);
  const int64_t pitch = packed->pitch();
  packed->weights = Buffer(size_t(packed->tiles()) * points * pitch);
  std::vector<double> factors(size_t(packed->tiles()) * width, 0.0);
  for (int k = 0; k < depth; ++k) factors[k] = scale ? scale[k] : 1.0;

  for (int out = 0; out < packed->tiles(); ++out)
    for (int channel = 0; channel < depth_in; ++channel)
      for (int first = out * width; first < std::min((out + 1) * width, depth); first += kLanes) {
        const int count = std::min(kLanes, depth - first);
        Lanes rows[3][kMostPoints];  // [tap y][point x]
        for (int r = 0; r < 3; ++r) {
          Lanes g[3] = {};
          for (int s = 0; s < 3; ++s) {
            const float* from = weights + (int64_t(r * 3 + s) * depth_in + channel) * depth + first;
            for (int i = 0; i < count; ++i) g[s][i] = from[i] * factors[first + i];
          }
          to_points(g, tile.points_w(), rows[r]);
        }
        float* const to = packed->weights.data() + out * points * pitch + int64_t(channel) * width + first % width;
        for (int x = 0; x < tile.points_w(); ++x) {
          Lanes g[3], column[kMostPoints];
          for (int r = 0; r < 3; ++r) std::copy_n(rows[r][x], kLanes, g[r]);
          to_points(g, tile.points_h(), column);
          for (int y = 0; y < tile.points_h(); ++y)
            for (int i = 0; i < kLanes; ++i) to[(y * tile.points_w() + x) * pitch + i] = float(column[y][i]);
        }
      }
  return packed;
}

}  // namespace resforward
