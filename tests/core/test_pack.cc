// Packed weights: every value in its place once, zeros around, and none so small that it would cost time.

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <vector>

#include "check.h"
#include "feature_map.h"
#include "pack.h"
#include "winograd.h"

namespace resforward {
namespace {

constexpr WinogradTile kTiles[] = {{1, 1}, {1, 4}, {2, 2}, {3, 3}, {4, 3}, {4, 4}, {4, 3, 2}};

bool has_denormals(const Buffer& buffer) {
  const float* begin = buffer.data();
  return std::any_of(begin, begin + buffer.bytes() / sizeof(float),
                     [](float x) { return x != 0 && std::abs(x) < FLT_MIN; });
}

int count_zeros(const Buffer& buffer) {
  return int(std::count(buffer.data(), buffer.data() + buffer.bytes() / sizeof(float), 0.0f));
}

// Weights one multiplication away from denormal, on both sides of the border.
Floats tiny_weights(size_t count, float around) {
  Floats weights = random_floats(count);
  for (float& weight : weights) weight *= around;
  return weights;
}

// A denormal costs a hundred cycles wherever it is read with a processor's usual settings, and a run must not depend on
// a setting for its speed alone: nothing of the kind is stored.
void test_packed_weights_hold_no_denormals(const Kernels* kernels) {
  for (int depth_in : {3, 20, 64})
    for (int depth : {16, 33}) {
      const Floats weights = tiny_weights(size_t(9) * depth_in * depth, 20 * FLT_MIN);
      Doubles small(depth, 0.1), bias(depth, 1e-41);
      CHECK(has_denormals(pad_channels(bias.data(), depth, 16)), "the test has no denormals to begin with");
      for (const double* scale : {static_cast<const double*>(nullptr), static_cast<const double*>(small.data())})
        for (bool interleaved : {false, true}) {
          const auto conv = pack_conv(kernels, 3, 3, depth_in, depth, interleaved, weights.data(), scale, bias.data());
          CHECK(!has_denormals(conv->weights), "%s %d -> %d", kernels->isa, depth_in, depth);
          CHECK(!has_denormals(conv->bias), "%s %d -> %d: bias", kernels->isa, depth_in, depth);
          const int all = int(conv->weights.bytes() / sizeof(float));
          CHECK(count_zeros(conv->weights) < all, "%s %d -> %d: nothing is left", kernels->isa, depth_in, depth);
        }
      for (const WinogradTile tile : kTiles)
        for (const double* scale : {static_cast<const double*>(nullptr), static_cast<const double*>(small.data())}) {
          const auto conv = pack_winograd(kernels, tile, depth_in, depth, weights.data(), scale, bias.data());
          CHECK(!has_denormals(conv->weights), "%s tile %dx%d, %d -> %d", kernels->isa, tile.h, tile.w, depth_in,
                depth);
          CHECK(!has_denormals(conv->bias), "%s tile %dx%d, %d -> %d: bias", kernels->isa, tile.h, tile.w, depth_in,
                depth);
          const int all = int(conv->weights.bytes() / sizeof(float));
          CHECK(count_zeros(conv->weights) < all, "%s tile %dx%d, %d -> %d: nothing is left", kernels->isa, tile.h,
                tile.w, depth_in, depth);
        }
    }
}

// [tile][plane][tap][lane][tile_width], as conv.inl reads it.
void test_every_weight_has_its_place(const Kernels* kernels) {
  for (bool interleaved : {false, true})
    for (int kernel : {1, 3})
      for (int depth_in : {1, 15, 16, 17, 40})
        for (int depth : {1, 16, 31, 33, 100}) {
          const Floats weights = random_floats(size_t(kernel) * kernel * depth_in * depth);
          const Doubles scale = random_doubles(depth), bias = random_doubles(depth);
          const auto conv = pack_conv(kernels, kernel, kernel, depth_in, depth, interleaved, weights.data(),
                                      scale.data(), bias.data());
          const int width = kernels->tile_width, taps = conv->taps_h() * conv->taps_w(), lanes = conv->lanes();
          int64_t wrong = 0;
          for (int64_t i = 0; i < int64_t(conv->weights.bytes() / sizeof(float)); ++i) {
            const int column = int(i % width), lane = int(i / width % lanes), tap = int(i / width / lanes % taps);
            const int plane = int(i / width / lanes / taps % conv->planes_in());
            const int out = int(i / width / lanes / taps / conv->planes_in()) * width + column;
            const int row = interleaved ? tap * lanes + lane : tap * depth_in + plane * 16 + lane;
            const bool inside = out < depth && (interleaved || plane * 16 + lane < depth_in);
            const float expected = inside ? float(weights[int64_t(row) * depth + out] * scale[out]) : 0.0f;
            wrong += conv->weights.data()[i] != expected;
          }
          CHECK(wrong == 0, "%s %dx%d %d -> %d: %d values", kernels->isa, kernel, kernel, depth_in, depth, int(wrong));
          for (int k = 0; k < conv->tiles() * width; ++k)
            CHECK(conv->bias.data()[k] == (k < depth ? float(bias[k]) : 0.0f), "%s bias %d", kernels->isa, k);
        }
}

void test_channels_beyond_the_depth_are_zeros_in_winograd_s_weights(const Kernels* kernels) {
  for (const WinogradTile tile : kTiles)
    for (int depth_in : {15, 16, 17})
      for (int depth : {16, 31, 33}) {
        const Floats weights = random_floats(size_t(9) * depth_in * depth);
        const Doubles bias = random_doubles(depth);
        const auto conv = pack_winograd(kernels, tile, depth_in, depth, weights.data(), nullptr, bias.data());
        const int width = kernels->tile_width;
        int64_t wrong = 0;
        for (int64_t i = 0; i < int64_t(conv->weights.bytes() / sizeof(float)); ++i) {
          const int64_t at = i % conv->pitch(), out = i / conv->pitch() / conv->tile.weights() * width + at % width;
          const bool inside = out < depth && at / width < depth_in;
          wrong += (conv->weights.data()[i] != 0) != inside;
        }
        CHECK(wrong == 0, "%s tile %dx%d, %d -> %d: %d values", kernels->isa, tile.h, tile.w, depth_in, depth,
              int(wrong));
      }
}

}  // namespace
}  // namespace resforward

int main() {
  using namespace resforward;
  for (const Kernels* kernels : supported_kernels()) {
    test_packed_weights_hold_no_denormals(kernels);
    test_every_weight_has_its_place(kernels);
    test_channels_beyond_the_depth_are_zeros_in_winograd_s_weights(kernels);
  }
  return report();
}
