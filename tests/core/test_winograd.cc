// Winograd's convolution on every instruction set that this processor has, against plain loops in double precision.

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <vector>

#include "check.h"
#include "feature_map.h"
#include "winograd.h"

namespace resforward {
namespace {

// Of the largest output, for sums over so many channels. Roundings of a sum wander like the root of its length,
// whatever the method; tiles of four add about as much again on the way into points and back. Measured with 13 seeds:
// at most 84 % of this, of stride 2 at most 55 %.
double budget(int depth_in) { return FLT_EPSILON * (12 + 0.75 * std::sqrt(9.0 * depth_in)); }

std::vector<WinogradTile> every_tile(int stride) {
  std::vector<WinogradTile> tiles;
  for (int h = 1; h <= kLargestTile; ++h)
    for (int w = 1; w <= kLargestTile; ++w) tiles.push_back({h, w, stride});
  return tiles;
}

struct Case {
  int n, in_h, in_w, depth_in, depth, stride = 1;

  int h() const { return (in_h + stride - 1) / stride; }  // of the output
  int w() const { return (in_w + stride - 1) / stride; }
  std::vector<WinogradTile> tiles() const { return {{2, 2, stride}, {4, 3, stride}, {4, 4, stride}}; }
};

struct Parts {
  bool linear, out, preact, relu;
  int residual_stride;  // 0: no residual
};

// One convolution with everything it reads, and its sums by plain loops.
struct Conv {
  Case shape;
  Floats image, weights;
  Doubles scale, bias, preact_scale, preact_shift;
  Doubles sum;
  Floats scale_f, shift_f;

  explicit Conv(const Case& c)
      : shape(c),
        image(random_floats(size_t(c.n) * c.in_h * c.in_w * c.depth_in)),
        weights(random_floats(size_t(9) * c.depth_in * c.depth)),
        scale(random_doubles(c.depth)),
        bias(random_doubles(c.depth)),
        preact_scale(random_doubles(c.depth)),
        preact_shift(random_doubles(c.depth)),
        sum(size_t(c.n) * c.h() * c.w() * c.depth) {
    for (int n = 0; n < c.n; ++n)
      for (int y = 0; y < c.h(); ++y)
        for (int x = 0; x < c.w(); ++x) {
          double* to = &sum[((size_t(n) * c.h() + y) * c.w() + x) * c.depth];
          for (int r = 0; r < 3; ++r)
            for (int s = 0; s < 3; ++s) {
              const int in_y = y * c.stride + r - 1, in_x = x * c.stride + s - 1;
              if (in_y < 0 || in_y >= c.in_h || in_x < 0 || in_x >= c.in_w) continue;
              for (int i = 0; i < c.depth_in; ++i) {
                const double value = image[((size_t(n) * c.in_h + in_y) * c.in_w + in_x) * c.depth_in + i];
                const float* row = &weights[size_t((r * 3 + s) * c.depth_in + i) * c.depth];
                for (int k = 0; k < c.depth; ++k) to[k] += value * row[k];
              }
            }
          for (int k = 0; k < c.depth; ++k) to[k] *= scale[k];
        }
    for (int k = 0; k < (c.depth + 63) / 64 * 64; ++k) {
      scale_f.push_back(k < c.depth ? float(preact_scale[k]) : 0.0f);
      shift_f.push_back(k < c.depth ? float(preact_shift[k]) : 0.0f);
    }
  }
};

struct Results {
  Map linear, out, preact;
  explicit Results(const Case& c)
      : linear(c.n, c.h(), c.w(), c.depth), out(c.n, c.h(), c.w(), c.depth), preact(c.n, c.h(), c.w(), c.depth) {}
  bool same(const Results& other) const {
    return same_bits(linear.memory, other.linear.memory) && same_bits(out.memory, other.out.memory) &&
           same_bits(preact.memory, other.preact.memory);
  }
};

// What a run computes from and into.
struct Setting {
  const Kernels& kernels;
  const PackedWinograd& packed;
  const Conv& conv;
  Map& input;
  Map& residual;
  Parts parts;
  Results& results;

  WinogradArgs args(int64_t begin, int64_t end) const {
    const Case& c = conv.shape;
    WinogradArgs a;
    a.tile = packed.tile;
    a.in = input.data(), a.in_plane = input.shape.plane(), a.planes = input.shape.planes();
    a.n = c.n, a.in_h = c.in_h, a.in_w = c.in_w, a.h = c.h(), a.w = c.w(), a.out_planes = packed.planes_out();
    a.block_begin = begin, a.block_end = end;
    a.weights = packed.weights.data(), a.weights_pitch = packed.pitch(), a.zeros = packed.zeros.data();
    Epilogue& e = a.epilogue;
    e.bias = packed.bias.data();
    if (parts.residual_stride) {
      e.residual = residual.data(), e.residual_plane = residual.shape.plane();
      e.residual_stride = parts.residual_stride, e.residual_h = residual.shape.h, e.residual_w = residual.shape.w;
    }
    e.relu = parts.relu;
    e.scale = conv.scale_f.data(), e.shift = conv.shift_f.data();
    e.linear = parts.linear ? results.linear.data() : nullptr;
    e.out = parts.out ? results.out.data() : nullptr;
    e.preact = parts.preact ? results.preact.data() : nullptr;
    e.plane = e.preact_plane = results.out.shape.plane();
    return a;
  }
  int64_t tiles() const {
    const Case& c = conv.shape;
    return c.n * ceil_div(c.h(), packed.tile.h) * ceil_div(c.w(), packed.tile.w);
  }
};

// A block in three parts, each in pieces cut at random; the arrays hold what would be seen if it were used.
void run_block(const Setting& s, int64_t begin, int64_t end) {
  WinogradArgs a = s.args(begin, end);
  const int64_t tiles = end - begin;
  a.points_plane = a.products_plane = (tiles + random_int(0, 1)) * kLanes;
  a.points_pitch = a.points_plane * a.planes + random_int(0, 1) * kLanes;
  a.products_pitch = a.products_plane * a.out_planes + random_int(0, 1) * kLanes;
  Floats points(a.points_pitch * s.packed.tile.points(), kCanary),
      products(a.products_pitch * s.packed.tile.points(), kCanary);
  a.points = points.data(), a.products = products.data();

  const int64_t cut = begin + random_int(0, int(tiles));
  const int plane = random_int(0, a.planes);
  const int rows = s.packed.tile.points_h(), y = random_int(0, rows);
  s.kernels.winograd_in(a, cut, end, 0, a.planes, 0, rows);
  s.kernels.winograd_in(a, begin, cut, plane, a.planes, 0, y);
  s.kernels.winograd_in(a, begin, cut, plane, a.planes, y, rows);
  s.kernels.winograd_in(a, begin, cut, 0, plane, 0, rows);
  const int point = random_int(0, s.packed.tile.points()), tile = random_int(0, s.packed.tiles());
  s.kernels.winograd_multiply(a, point, s.packed.tile.points(), 0, s.packed.tiles());
  s.kernels.winograd_multiply(a, 0, point, tile, s.packed.tiles());
  s.kernels.winograd_multiply(a, 0, point, 0, tile);
  const int out_plane = random_int(0, a.out_planes);
  s.kernels.winograd_out(a, begin, cut, 0, a.out_planes);
  s.kernels.winograd_out(a, cut, end, out_plane, a.out_planes);
  s.kernels.winograd_out(a, cut, end, 0, out_plane);
}

void run_blocks(const Setting& s, int64_t block) {
  for (int64_t begin = 0; begin < s.tiles(); begin += block) run_block(s, begin, std::min(begin + block, s.tiles()));
}

void check_conv(const Kernels& kernels, WinogradTile tile, const Conv& conv, const Parts& parts) {
  const Case& c = conv.shape;
  char name[200];
  std::snprintf(name, sizeof name, "%s tile %dx%d, %dx%dx%d stride %d, %d -> %d; %s%s%s%s shortcut %d", kernels.isa,
                tile.h, tile.w, c.n, c.in_h, c.in_w, c.stride, c.depth_in, c.depth, parts.linear ? " linear" : "",
                parts.out ? " out" : "", parts.preact ? " preact" : "", parts.relu ? " relu" : "",
                parts.residual_stride);
  const auto packed =
      pack_winograd(&kernels, tile, c.depth_in, c.depth, conv.weights.data(), conv.scale.data(), conv.bias.data());
  Map input(c.n, c.in_h, c.in_w, c.depth_in);
  input.fill(conv.image);
  const Map untouched = input;
  const int stride = std::max(parts.residual_stride, 1);
  Map residual(c.n, (c.h() - 1) * stride + random_int(1, stride), (c.w() - 1) * stride + random_int(1, stride),
               c.depth);
  residual.fill(random_floats(residual.shape.pixels() * c.depth));

  Results whole(c);
  const Setting setting{kernels, *packed, conv, input, residual, parts, whole};
  run_block(setting, 0, setting.tiles());

  double largest = 0, worst = 0;
  for (double sum : conv.sum) largest = std::max(largest, std::abs(sum));
  for (int64_t pixel = 0; pixel < whole.out.shape.pixels(); ++pixel)
    for (int k = 0; k < c.depth; ++k) {
      const int64_t n = pixel / (c.h() * c.w()), y = pixel / c.w() % c.h(), x = pixel % c.w();
      const double shortcut =
          parts.residual_stride ? residual((n * residual.shape.h + y * stride) * residual.shape.w + x * stride, k) : 0;
      const double linear = conv.sum[pixel * c.depth + k] + conv.bias[k];
      const double sum = linear + shortcut, out = parts.relu ? std::max(sum, 0.0) : sum;
      const double preact = std::max(out * conv.preact_scale[k] + conv.preact_shift[k], 0.0);
      const double allowed = budget(c.depth_in) * (largest + std::abs(conv.bias[k]) + std::abs(shortcut));
      const auto differ = [&](bool wanted, const Map& found, double expected, double tolerance) {
        if (!wanted) return;
        const double difference = std::abs(found(pixel, k) - expected);
        worst = std::isfinite(difference) ? std::max(worst, difference / (tolerance + 1e-30)) : INFINITY;
      };
      differ(parts.linear, whole.linear, linear, allowed);
      differ(parts.out, whole.out, out, allowed);
      differ(parts.preact, whole.preact, preact, allowed + 2 * FLT_EPSILON * (std::abs(out) + 1));
    }
  CHECK(worst <= 1, "%s: %g times the budget", name, worst);
  CHECK(!parts.linear || whole.linear.clean(), "%s", name);
  CHECK(!parts.out || whole.out.clean(), "%s", name);
  CHECK(!parts.preact || whole.preact.clean(), "%s", name);
  CHECK(same_bits(input.memory, untouched.memory), "%s", name);

  for (int64_t block : {int64_t(1), int64_t(random_int(1, int(setting.tiles())))}) {
    Results blocks(c);
    run_blocks({kernels, *packed, conv, input, residual, parts, blocks}, block);
    CHECK(blocks.same(whole), "%s: other bits in blocks of %d tiles", name, int(block));
  }
}

void test_every_remainder(const std::vector<const Kernels*>& isas) {
  std::vector<Case> cases;
  for (int h = 1; h <= 9; ++h)
    for (int w = 1; w <= 9; ++w) {
      cases.push_back({1 + (h + w) % 3, h, w, 20, 40});
      // Odd and even inputs: both for every h beside some w, and for every w.
      cases.push_back({1 + (h + w) % 2, 2 * h - ((h + w) % 3 == 1), 2 * w - ((h + 2 * w) % 3 == 1), 20, 40, 2});
    }
  for (int size = 10; size <= 33; ++size) cases.push_back({1 + size % 2, size, 1 + size * 7 % 33, 17, 33});
  for (int size = 19; size <= 40; ++size) cases.push_back({1, size, 1 + size * 7 % 40, 17, 33, 2});
  for (size_t i = 0; i < cases.size(); ++i) {
    const Conv conv(cases[i]);
    for (const Kernels* kernels : isas)
      for (WinogradTile tile : every_tile(cases[i].stride))
        check_conv(*kernels, tile, conv, {true, true, true, i % 2 == 0, int(i % 3)});
  }
}

void test_every_depth(const std::vector<const Kernels*>& isas) {
  std::vector<Case> cases;
  for (int stride : {1, 2})
    for (int depth : {1, 3, 15, 16, 17, 31, 32, 33, 48, 64, 100})
      for (const Case& c : {Case{2, 3, 6, depth, 16, stride}, Case{2, 3, 6, 16, depth, stride}}) cases.push_back(c);
  for (const Case& c : {Case{1, 14, 14, 256, 64}, Case{1, 7, 7, 512, 64}, Case{2, 7, 7, 64, 512},
                        Case{1, 28, 28, 256, 64, 2}, Case{1, 14, 14, 512, 64, 2}})
    cases.push_back(c);
  for (const Case& c : cases) {
    const Conv conv(c);
    for (const Kernels* kernels : isas)
      for (WinogradTile tile : c.tiles()) check_conv(*kernels, tile, conv, {false, true, false, true, 0});
  }
}

void test_every_epilogue(const std::vector<const Kernels*>& isas) {
  for (const Case& c : {Case{2, 5, 7, 20, 50}, Case{1, 6, 8, 16, 64}, Case{2, 7, 10, 20, 50, 2}}) {
    const Conv conv(c);
    for (const Kernels* kernels : isas)
      for (WinogradTile tile : c.tiles())
        for (int bits = 0; bits < 16; ++bits)
          for (int residual_stride = 0; residual_stride <= 2; ++residual_stride) {
            const Parts parts = {bool(bits & 1), bool(bits & 2), bool(bits & 4), bool(bits & 8), residual_stride};
            if (parts.linear || parts.out || parts.preact) check_conv(*kernels, tile, conv, parts);
          }
  }
}

void test_an_image_has_the_same_bits_anywhere_in_a_batch(const std::vector<const Kernels*>& isas) {
  for (const Case& c : {Case{3, 7, 6, 33, 40}, Case{3, 13, 10, 33, 40, 2}}) {
    const Conv batch(c);
    for (const Kernels* kernels : isas)
      for (WinogradTile tile : c.tiles()) {
        const auto packed =
            pack_winograd(kernels, tile, c.depth_in, c.depth, batch.weights.data(), nullptr, batch.bias.data());
        const Parts parts = {false, true, true, true, 0};
        Map none(1, 1, 1, 1), input(c.n, c.in_h, c.in_w, c.depth_in);
        input.fill(batch.image);
        Results together(c);
        run_blocks({*kernels, *packed, batch, input, none, parts, together}, 3);
        for (int image = 0; image < c.n; ++image) {
          Conv one = batch;
          one.shape.n = 1;
          const int64_t floats = int64_t(c.in_h) * c.in_w * c.depth_in, pixels = int64_t(c.h()) * c.w();
          one.image.assign(batch.image.begin() + image * floats, batch.image.begin() + (image + 1) * floats);
          Map alone(1, c.in_h, c.in_w, c.depth_in);
          alone.fill(one.image);
          Results single(one.shape);
          run_blocks({*kernels, *packed, one, alone, none, parts, single}, 2);
          bool same = true;
          for (int64_t pixel = 0; pixel < pixels; ++pixel)
            for (int k = 0; k < c.depth; ++k)
              same &= single.out(pixel, k) == together.out(image * pixels + pixel, k) &&
                      single.preact(pixel, k) == together.preact(image * pixels + pixel, k);
          CHECK(same, "%s tile %dx%d stride %d: image %d", kernels->isa, tile.h, tile.w, c.stride, image);
        }
      }
  }
}

void test_nan_passes(const std::vector<const Kernels*>& isas) {
  for (const Kernels* kernels : isas)
    for (int stride : {1, 2}) {
      Conv conv({1, 2, 12 * stride, 3, 20, stride});
      conv.image[0] = std::nanf("");
      const auto packed = pack_winograd(kernels, {4, 4, stride}, 3, 20, conv.weights.data(), nullptr, conv.bias.data());
      Map none(1, 1, 1, 1), input(1, 2, 12 * stride, 3);
      input.fill(conv.image);
      Results results(conv.shape);
      run_blocks({*kernels, *packed, conv, input, none, {true, true, true, true, 0}, results}, 1);
      for (const Map* map : {&results.linear, &results.out, &results.preact})
        for (int k = 0; k < 20; ++k)
          CHECK(std::isnan((*map)(0, k)) && !std::isnan((*map)(11, k)), "%s channel %d", kernels->isa, k);
    }
}

void test_other_tiles_are_refused(const std::vector<const Kernels*>& isas) {
  const Conv conv({1, 4, 4, 3, 20});
  for (WinogradTile tile : {WinogradTile{0, 2}, WinogradTile{2, 5}, WinogradTile{2, 2, 0}, WinogradTile{2, 2, 3}}) {
    bool refused = false;
    try {
      pack_winograd(isas[0], tile, 3, 20, conv.weights.data(), nullptr, conv.bias.data());
    } catch (const std::invalid_argument&) {
      refused = true;
    }
    CHECK(refused, "tile %dx%d stride %d", tile.h, tile.w, tile.stride);
  }
}

}  // namespace
}  // namespace resforward

int main() {
  using namespace resforward;
  const std::vector<const Kernels*> isas = supported_kernels();
  test_every_remainder(isas);
  test_every_depth(isas);
  test_every_epilogue(isas);
  test_an_image_has_the_same_bits_anywhere_in_a_batch(isas);
  test_nan_passes(isas);
  test_other_tiles_are_refused(isas);
  return report();
}
