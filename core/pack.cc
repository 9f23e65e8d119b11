#include "pack.h"

#include <vector>

#include "threads.h"

namespace resforward {

Buffer pad_channels(const double* values, int count, int multiple) {
  Buffer padded((count + multiple - 1) / multiple * multiple);
  for (int i = 0; i < count; ++i) padded.data()[i] = float(values[i]);
  return padded;
}

std::shared_ptr<const PackedConv> pack_conv(const Kernels* kernels, int kernel_h, int kernel_w, int depth_in, int depth,
                                            bool interleaved, const float* weights, const double* scale,
                                            const double* bias) {
  const FlushDenormals flush;
  auto conv = std::make_shared<PackedConv>(
      PackedConv{kernels, kernel_h, kernel_w, depth_in, depth, interleaved, Buffer(), Buffer()});
  const int width = kernels->tile_width, taps = conv->taps_h() * conv->taps_w();
  conv->bias = pad_channels(bias, depth, width);
  conv->weights = Buffer(size_t(conv->tiles()) * conv->planes_in() * taps * conv->lanes() * width);
  std::vector<double> ones;
  if (!scale) {
    ones.assign(depth, 1.0);
    scale = ones.data();
  }
  // Rows of the source in the order of the destination: for interleaved input the lanes of a tap are its (s, c) pairs,
  // which lie in (r, s, c) order already.
  float* to = conv->weights.data();
  for (int tile = 0; tile < conv->tiles(); ++tile) {
    const int first = tile * width, count = depth - first < width ? depth - first : width;
    for (int plane = 0; plane < conv->planes_in(); ++plane)
      for (int tap = 0; tap < taps; ++tap)
        for (int lane = 0; lane < conv->lanes(); ++lane, to += width) {
          const int channel = plane * kLanes + lane;
          if (!interleaved && channel >= depth_in) continue;  // stays zero
          const int64_t row = interleaved ? int64_t(tap) * conv->lanes() + lane : int64_t(tap) * depth_in + channel;
          const float* from = weights + row * depth + first;
          for (int i = 0; i < count; ++i) to[i] = float(from[i] * scale[first + i]);
        }
  }
  return conv;
}

}  // namespace resforward
