// What the tests of kernels share: random values, feature maps between canaries, exact comparison, refusals.
#pragma once

#include <cstdint>
#include <cstring>
#include <random>
#include <stdexcept>
#include <vector>

#include "isa.h"
#include "layout.h"

namespace resforward {

using Floats = std::vector<float>;
using Doubles = std::vector<double>;

constexpr float kCanary = -7.25e33f;  // what no kernel computes: whoever reads it is far off, whoever writes is seen

inline std::mt19937 rng(1);

inline Floats random_floats(size_t count) {
  std::uniform_real_distribution<float> uniform(-1, 1);
  Floats values(count);
  for (float& value : values) value = uniform(rng);
  return values;
}

inline Doubles random_doubles(size_t count) {
  const Floats values = random_floats(count);
  return Doubles(values.begin(), values.end());
}

inline int random_int(int low, int high) { return std::uniform_int_distribution<int>(low, high)(rng); }

inline bool same_bits(const Floats& a, const Floats& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

inline std::vector<const Kernels*> supported_kernels() {
  std::vector<const Kernels*> kernels;
  for (const Isa& isa : compiled_isas())
    if (isa.supported) kernels.push_back(isa.kernels);
  return kernels;
}

// Whether it is refused as an argument.
template <class Work>
bool throws(Work work) {
  try {
    work();
  } catch (const std::invalid_argument&) {
    return true;
  }
  return false;
}

// A feature map with canaries before, behind and between its planes.
struct Map {
  static constexpr int kMargin = 64;
  Tensor shape;
  Floats memory;

  Map(int n, int h, int w, int c) : shape{0, n, h, w, c}, memory(shape.floats() + 2 * kMargin, kCanary) {}
  float* data() { return memory.data() + kMargin; }
  size_t at(int64_t pixel, int channel) const {
    return kMargin + channel / kLanes * shape.plane() + pixel * kLanes + channel % kLanes;
  }
  float operator()(int64_t pixel, int channel) const { return memory[at(pixel, channel)]; }
  const float* zero() { return data() + shape.pixels() * kLanes; }

  // As a step leaves it: lanes beyond the depth and the pixel behind each plane are zero.
  void fill(const Floats& nhwc) {
    for (int64_t pixel = 0; pixel <= shape.pixels(); ++pixel)
      for (int channel = 0; channel < shape.planes() * kLanes; ++channel) {
        const bool inside = channel < shape.c && pixel < shape.pixels();
        memory[at(pixel, channel)] = inside ? nhwc[pixel * shape.c + channel] : 0.0f;
      }
  }

  // Nothing but the planes' pixels was written, and their lanes beyond the depth are zero.
  bool clean() const {
    std::vector<bool> written(memory.size());
    for (int64_t pixel = 0; pixel < shape.pixels(); ++pixel)
      for (int channel = 0; channel < shape.planes() * kLanes; ++channel) {
        written[at(pixel, channel)] = true;
        if (channel >= shape.c && (*this)(pixel, channel) != 0.0f) return false;
      }
    for (size_t i = 0; i < memory.size(); ++i)
      if (!written[i] && memory[i] != kCanary) return false;
    return true;
  }
};

}  // namespace resforward
