// The one list of convolutions that tests and benchmarks walk.
#pragma once

#include <vector>

namespace resforward {

struct ConvCase {
  int kernel, stride, rate, n, h, w, depth_in, depth;
  bool interleaved = false;  // reads NHWC rows with a margin, as the root block does

  int out_h() const { return (h - 1) / stride + 1; }
  int out_w() const { return (w - 1) / stride + 1; }
  int pad() const { return rate * (kernel / 2); }
  int products() const { return kernel * kernel * depth_in; }  // in one sum
};

// Every distinct convolution of resnet_v2_50, at the sizes its maps have for images of `size` x `size` pixels.
inline std::vector<ConvCase> resnet_v2_50_cases(int n, int size) {
  std::vector<ConvCase> cases = {{7, 2, 1, n, size, size, 3, 64, true}};
  int map = (size + 3) / 4, depth_in = 64;
  for (int block = 0, base = 64; block < 4; ++block, base *= 2) {
    cases.push_back({1, 1, 1, n, map, map, depth_in, 4 * base});
    cases.push_back({1, 1, 1, n, map, map, depth_in, base});
    cases.push_back({3, 1, 1, n, map, map, base, base});
    cases.push_back({1, 1, 1, n, map, map, base, 4 * base});
    cases.push_back({1, 1, 1, n, map, map, 4 * base, base});
    if (block < 3) {
      cases.push_back({3, 2, 1, n, map, map, base, base});
      map = (map + 1) / 2;
    }
    depth_in = 4 * base;
  }
  cases.push_back({1, 1, 1, n, 1, 1, 2048, 1001});
  return cases;
}

// What is left over when a shape does not fit the tiles: every width, depth, stride, rate and kernel that may.
inline std::vector<ConvCase> remainder_cases() {
  std::vector<ConvCase> cases;
  for (int w = 1; w <= 33; ++w) {
    // As many pixels: a tile of every height, alone and behind others.
    cases.push_back({1, 1, 1, 1, 1, w, 3, 20});
    cases.push_back({3, 1, 1, 1, 1, w, 3, 20});
    cases.push_back({7, 1, 1, 1, 1, w, 3, 20, true});
    // Several images and rows, so that tiles go across their borders.
    const int n = 1 + w % 3, h = 1 + w % 5;
    for (int stride : {1, 2}) {
      cases.push_back({1, stride, 1, n, h, w, 17, 33});
      for (int rate : {1, 2, 4}) cases.push_back({3, stride, rate, n, h, w, 17, 33});
      cases.push_back({7, stride, 1, n, h, w, 3, 33, true});
    }
  }
  for (int depth : {1, 3, 15, 16, 17, 31, 32, 33, 48, 64, 65, 80, 96, 100})  // 1, 2 and 3 tiles of 32, and part of one
    for (int kernel : {1, 3}) {
      cases.push_back({kernel, 1, 1, 2, 3, 5, depth, 16});
      cases.push_back({kernel, 1, 1, 2, 3, 5, 16, depth});
      cases.push_back({kernel, 2, 1, 1, 7, 4, depth, depth});
    }
  for (int depth : {127, 128, 250, 256, 500, 512, 1000, 1024, 1500, 2047, 2048})  // sums up to the longest there is
    for (int kernel : {1, 3}) {
      cases.push_back({kernel, 1, 1, 1, 3, 5, depth, 33});
      cases.push_back({kernel, 1, 1, 1, 3, 5, 18, depth});
    }
  cases.push_back({1, 1, 1, 1, 1, 15, 2048, 2048});
  for (int kernel : {1, 3, 5, 7})
    for (int stride : {1, 2, 3})
      for (int rate : {1, 2, 4}) {
        cases.push_back({kernel, stride, rate, 2, 9, 11, 20, 24});
        cases.push_back({kernel, stride, rate, 3, 2, 1, 5, 40});  // most taps outside
      }
  // 16 channels: rows whose pixels are as far apart as those of a plane.
  for (int channels : {1, 2, 3, 4, 5, 16, 17})
    for (int kernel : {1, 3, 7})
      for (int stride : {1, 2, 3}) {
        cases.push_back({kernel, stride, 1, 2, 9, 13, channels, 33, true});
        cases.push_back({kernel, stride, 1, 3, 1, 2, channels, 16, true});
      }
  return cases;
}

}  // namespace resforward
