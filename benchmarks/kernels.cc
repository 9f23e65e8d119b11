// Every distinct convolution of resnet_v2_50 at 224 x 224, one thread, from cache, against the FMA peak.
//
// Kernel and peak alternate in slices of a millisecond or so, and each ratio is of neighbours: on a shared machine the
// clock and the neighbours change within seconds. The slice of the layer that is timed (pixels, output tiles) is as
// large as fits in half of a 2 MiB L2 with its weights; what a whole layer loses to memory is shown by
// `resforward bench --per-unit`.
//
// Prints one JSON object: {"isa", "peak_gflops", "layers": [{name, ..., "share": quartiles of kernel / peak}]}.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "isa.h"
#include "layout.h"
#include "memory.h"

using namespace resforward;

namespace {

struct Layer {
  const char* name;
  int kernel, size, depth_in, depth, stride;  // size: of the input map
  bool sum;                                   // with shortcut and two outputs: conv3 of a unit
};

// resnet_v2_50: strides in the last unit of blocks 1 to 3.
constexpr Layer kLayers[] = {
    {"block1 conv1 first", 1, 56, 64, 64, 1, false},   {"block1 conv1", 1, 56, 256, 64, 1, false},
    {"block1 conv2", 3, 56, 64, 64, 1, false},         {"block1 conv2 strided", 3, 56, 64, 64, 2, false},
    {"block1 shortcut", 1, 56, 64, 256, 1, false},     {"block1 conv3", 1, 56, 64, 256, 1, true},
    {"block2 conv1 first", 1, 28, 256, 128, 1, false}, {"block2 conv1", 1, 28, 512, 128, 1, false},
    {"block2 conv2", 3, 28, 128, 128, 1, false},       {"block2 conv2 strided", 3, 28, 128, 128, 2, false},
    {"block2 shortcut", 1, 28, 256, 512, 1, false},    {"block2 conv3", 1, 28, 128, 512, 1, true},
    {"block3 conv1 first", 1, 14, 512, 256, 1, false}, {"block3 conv1", 1, 14, 1024, 256, 1, false},
    {"block3 conv2", 3, 14, 256, 256, 1, false},       {"block3 conv2 strided", 3, 14, 256, 256, 2, false},
    {"block3 shortcut", 1, 14, 512, 1024, 1, false},   {"block3 conv3", 1, 14, 256, 1024, 1, true},
    {"block4 conv1 first", 1, 7, 1024, 512, 1, false}, {"block4 conv1", 1, 7, 2048, 512, 1, false},
    {"block4 conv2", 3, 7, 512, 512, 1, false},        {"block4 shortcut", 1, 7, 1024, 2048, 1, false},
    {"block4 conv3", 1, 7, 512, 2048, 1, true},
};

constexpr int64_t kCacheBytes = 1 << 20;
constexpr double kSliceFlops = 2e8;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

Buffer random_buffer(int64_t floats) {
  Buffer buffer(floats);
  std::minstd_rand random(1);
  for (int64_t i = 0; i < floats; ++i) buffer.data()[i] = float(random() % 2001) / 1000.0f - 1.0f;
  return buffer;
}

std::string quartiles(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  char text[64];
  const size_t n = values.size();
  std::snprintf(text, sizeof text, "[%.4f, %.4f, %.4f]", values[n / 4], values[n / 2], values[n * 3 / 4]);
  return text;
}

}  // namespace

int main(int argc, char** argv) {
  const Kernels* kernels = nullptr;
  for (const Isa& isa : compiled_isas())
    if (!kernels && isa.supported && (argc < 2 || isa.kernels->isa == std::string(argv[1]))) kernels = isa.kernels;
  const int rounds = argc > 2 ? std::atoi(argv[2]) : 200;
  if (!kernels || rounds < 4) return std::fprintf(stderr, "usage: bench_kernels [ISA [ROUNDS, at least 4]]\n"), 2;
  std::vector<double> peaks;
  std::string layers;
  for (const Layer& layer : kLayers) {
    const int out_size = (layer.size - 1) / layer.stride + 1;
    const Tensor in{0, 1, layer.size, layer.size, layer.depth_in}, out{0, 1, out_size, out_size, layer.depth};
    const int64_t products = int64_t(layer.kernel) * layer.kernel * layer.depth_in;
    const int64_t tile_bytes = products * kernels->tile_width * sizeof(float);
    const int64_t pixel_bytes = (layer.depth_in * layer.stride * layer.stride + 3 * layer.depth) * sizeof(float);
    const int all_tiles = (layer.depth + kernels->tile_width - 1) / kernels->tile_width;
    const int tiles = int(std::clamp<int64_t>(kCacheBytes / 2 / tile_bytes, 1, all_tiles));
    const ConvKernel& kernel = layer.kernel == 1 ? kernels->pointwise : kernels->conv;
    const int64_t tile_pixels = kCacheBytes / 2 / pixel_bytes / kernel.tile_rows * kernel.tile_rows;
    const int64_t pixels = std::min(std::max<int64_t>(tile_pixels, kernel.tile_rows), out.pixels());

    const Buffer input = random_buffer(in.floats()), weights = random_buffer(all_tiles * tile_bytes / sizeof(float)),
                 per_channel = random_buffer(all_tiles * kernels->tile_width), residual = random_buffer(out.floats()),
                 sum(out.floats()), preact(out.floats());
    ConvArgs a;
    a.in = input.data(), a.in_plane = in.plane(), a.planes = in.planes(), a.in_h = a.in_w = layer.size;
    a.zero = input.data() + in.pixels() * kLanes;
    a.taps_h = a.taps_w = layer.kernel, a.stride = layer.stride, a.pad = layer.kernel / 2;
    a.out_h = a.out_w = out_size, a.out_planes = out.planes();
    a.weights = weights.data(), a.weights_end = a.weights + weights.bytes() / sizeof(float);
    a.epilogue.bias = per_channel.data(), a.epilogue.out = sum.data(), a.epilogue.plane = out.plane();
    a.epilogue.relu = !layer.sum;
    if (layer.sum) {
      a.epilogue.residual = residual.data(), a.epilogue.residual_plane = out.plane();
      a.epilogue.residual_h = a.epilogue.residual_w = out_size;
      a.epilogue.scale = a.epilogue.shift = per_channel.data(), a.epilogue.preact = preact.data();
    }
    const std::unique_ptr<char[]> scratch(new char[kernel.scratch(a, pixels)]);
    const double flops = 2.0 * double(pixels) * double(products) * std::min(tiles * kernels->tile_width, layer.depth);
    const int repeats = std::max(1, int(kSliceFlops / flops));
    std::vector<double> shares;
    for (int round = 0; round < rounds; ++round) {
      auto start = Clock::now();
      const double peak_flops = kernels->fma_loop(300000);
      const double peak = peak_flops / seconds_since(start);
      start = Clock::now();
      for (int i = 0; i < repeats; ++i) kernel.run(a, 0, pixels, 0, tiles, scratch.get());
      const double rate = flops * repeats / seconds_since(start);
      peaks.push_back(peak);
      shares.push_back(rate / peak);
    }
    char line[256];
    std::snprintf(line, sizeof line,
                  "%s\n    {\"layer\": \"%s\", \"kernel\": %d, \"stride\": %d, \"depth_in\": %d, \"depth\": %d, "
                  "\"size\": %d, \"pixels\": %d, \"channels\": %d, \"sum\": %s, \"share\": ",
                  layers.empty() ? "" : ",", layer.name, layer.kernel, layer.stride, layer.depth_in, layer.depth,
                  layer.size, int(pixels), std::min(tiles * kernels->tile_width, layer.depth),
                  layer.sum ? "true" : "false");
    layers += line + quartiles(shares) + "}";
  }
  std::sort(peaks.begin(), peaks.end());
  std::printf("{\"isa\": \"%s\", \"peak_gflops\": %.1f, \"layers\": [%s\n]}\n", kernels->isa,
              peaks[peaks.size() / 2] / 1e9, layers.c_str());
}
