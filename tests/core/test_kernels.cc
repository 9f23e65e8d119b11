// Every kernel on every instruction set that this processor has, against plain loops in double precision.

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <utility>
#include <vector>

#include "check.h"
#include "conv_cases.h"
#include "feature_map.h"
#include "pack.h"

namespace resforward {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr double kEpsilon = FLT_EPSILON;

// Which parts of an epilogue a run has.
struct Parts {
  bool linear, out, preact, relu;
  int residual_stride;  // 0: no residual
};

// One convolution with everything it reads, and its sums by plain loops.
struct Conv {
  ConvCase shape;
  Floats image, weights;
  Doubles scale, bias, preact_scale, preact_shift;
  Doubles sum, squares;  // of every output's products
  Floats scale_f, shift_f;

  explicit Conv(const ConvCase& c)
      : shape(c),
        image(random_floats(int64_t(c.n) * c.h * c.w * c.depth_in)),
        weights(random_floats(int64_t(c.products()) * c.depth)),
        scale(random_doubles(c.depth)),
        bias(random_doubles(c.depth)),
        preact_scale(random_doubles(c.depth)),
        preact_shift(random_doubles(c.depth)) {
    const int64_t pixels = int64_t(c.n) * c.out_h() * c.out_w();
    sum.assign(pixels * c.depth, 0), squares.assign(pixels * c.depth, 0);
    for (int64_t pixel = 0; pixel < pixels; ++pixel) {
      const int n = int(pixel / (c.out_h() * c.out_w())), y0 = int(pixel / c.out_w() % c.out_h()) * c.stride - c.pad(),
                x0 = int(pixel % c.out_w()) * c.stride - c.pad();
      for (int r = 0; r < c.kernel; ++r)
        for (int s = 0; s < c.kernel; ++s) {
          const int y = y0 + r * c.rate, x = x0 + s * c.rate;
          if (y < 0 || y >= c.h || x < 0 || x >= c.w) continue;
          for (int i = 0; i < c.depth_in; ++i) {
            const double value = image[((int64_t(n) * c.h + y) * c.w + x) * c.depth_in + i];
            const float* row = &weights[int64_t((r * c.kernel + s) * c.depth_in + i) * c.depth];
            for (int k = 0; k < c.depth; ++k) {
              const double product = value * row[k] * scale[k];
              sum[pixel * c.depth + k] += product;
              squares[pixel * c.depth + k] += product * product;
            }
          }
        }
    }
    for (int k = 0; k < (c.depth + 63) / 64 * 64; ++k) {
      scale_f.push_back(k < c.depth ? float(preact_scale[k]) : 0.0f);
      shift_f.push_back(k < c.depth ? float(preact_shift[k]) : 0.0f);
    }
  }
};

// The input of a convolution as the engine stores it.
struct Input {
  Map planes;
  Floats rows;

  explicit Input(const Conv& conv) : planes(conv.shape.n, conv.shape.h, conv.shape.w, conv.shape.depth_in) {
    const ConvCase& c = conv.shape;
    if (!c.interleaved) {
      planes.fill(conv.image);
      return;
    }
    const int margin = c.kernel / 2;
    for (int n = 0; n < c.n; ++n)
      for (int y = -margin; y < c.h + margin; ++y)
        for (int x = -margin; x < c.w + margin; ++x)
          for (int i = 0; i < c.depth_in; ++i) {
            const bool inside = y >= 0 && y < c.h && x >= 0 && x < c.w;
            rows.push_back(inside ? conv.image[((int64_t(n) * c.h + y) * c.w + x) * c.depth_in + i] : 0.0f);
          }
  }
};

struct Results {
  Map linear, out, preact;
  explicit Results(const ConvCase& c)
      : linear(c.n, c.out_h(), c.out_w(), c.depth),
        out(c.n, c.out_h(), c.out_w(), c.depth),
        preact(c.n, c.out_h(), c.out_w(), c.depth) {}
};

ConvArgs make_args(const Conv& conv, const PackedConv& packed, Input& input, Map& residual, const Parts& parts,
                   Results& results) {
  const ConvCase& c = conv.shape;
  ConvArgs a;
  a.lanes = packed.lanes(), a.planes = packed.planes_in();
  a.taps_h = packed.taps_h(), a.taps_w = packed.taps_w();
  a.stride = c.stride, a.rate = c.rate;
  if (c.interleaved) {
    a.in = input.rows.data();
    a.in_h = c.h + c.kernel / 2 * 2, a.in_w = c.w + c.kernel / 2 * 2, a.in_pixel = c.depth_in;
  } else {
    a.in = input.planes.data(), a.in_plane = input.planes.shape.plane(), a.zero = input.planes.zero();
    a.in_h = c.h, a.in_w = c.w, a.pad = c.pad();
  }
  a.n = c.n, a.out_h = c.out_h(), a.out_w = c.out_w(), a.out_planes = packed.planes_out();
  a.weights = packed.weights.data();
  if (!c.interleaved) a.weights_end = a.weights + packed.weights.bytes() / sizeof(float);
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

void run_range(const ConvKernel& kernel, const ConvArgs& a, int64_t begin, int64_t end, int tile_begin, int tile_end) {
  std::vector<uint64_t> scratch((kernel.scratch(a, end - begin) + 7) / 8);
  kernel.run(a, begin, end, tile_begin, tile_end, scratch.data());
}

// The whole in pieces, cut at random in both directions, in any order.
void run_pieces(const ConvKernel& kernel, const ConvArgs& a, int64_t pixels, int tiles) {
  std::vector<int64_t> cuts = {0, pixels};
  std::vector<int> tile_cuts = {0, tiles};
  for (int i = random_int(1, 3); i > 0; --i) cuts.push_back(random_int(0, int(pixels)));
  for (int i = random_int(0, 2); i > 0; --i) tile_cuts.push_back(random_int(0, tiles));
  std::sort(cuts.begin(), cuts.end()), std::sort(tile_cuts.begin(), tile_cuts.end());
  std::vector<std::pair<size_t, size_t>> pieces;
  for (size_t i = 0; i + 1 < cuts.size(); ++i)
    for (size_t j = 0; j + 1 < tile_cuts.size(); ++j) pieces.push_back({i, j});
  std::shuffle(pieces.begin(), pieces.end(), rng);
  for (auto [i, j] : pieces) run_range(kernel, a, cuts[i], cuts[i + 1], tile_cuts[j], tile_cuts[j + 1]);
}

void check_conv(const Kernels& kernels, const Conv& conv, const Parts& parts) {
  const ConvCase& c = conv.shape;
  char name[200];
  std::snprintf(name, sizeof name, "%s %dx%d/%d rate %d, %dx%dx%d, %d -> %d%s; %s%s%s%s shortcut %d", kernels.isa,
                c.kernel, c.kernel, c.stride, c.rate, c.n, c.h, c.w, c.depth_in, c.depth,
                c.interleaved ? " interleaved" : "", parts.linear ? " linear" : "", parts.out ? " out" : "",
                parts.preact ? " preact" : "", parts.relu ? " relu" : "", parts.residual_stride);
  const auto packed = pack_conv(&kernels, c.kernel, c.kernel, c.depth_in, c.depth, c.interleaved, conv.weights.data(),
                                conv.scale.data(), conv.bias.data());
  Input input(conv);
  const Input untouched = input;
  const int stride = std::max(parts.residual_stride, 1);
  Map residual(c.n, (c.out_h() - 1) * stride + random_int(1, stride), (c.out_w() - 1) * stride + random_int(1, stride),
               c.depth);
  residual.fill(random_floats(residual.shape.pixels() * c.depth));

  Results whole(c);
  const int64_t pixels = whole.out.shape.pixels();
  run_range(packed->kernel(), make_args(conv, *packed, input, residual, parts, whole), 0, pixels, 0, packed->tiles());

  double worst = 0;  // difference over what is allowed
  for (int64_t pixel = 0; pixel < pixels; ++pixel)
    for (int k = 0; k < c.depth; ++k) {
      const int64_t n = pixel / (c.out_h() * c.out_w()), y = pixel / c.out_w() % c.out_h(), x = pixel % c.out_w();
      const double shortcut =
          parts.residual_stride ? residual((n * residual.shape.h + y * stride) * residual.shape.w + x * stride, k) : 0;
      const double linear = conv.sum[pixel * c.depth + k] + conv.bias[k];
      const double sum = linear + shortcut, out = parts.relu ? std::max(sum, 0.0) : sum;
      const double preact = std::max(out * conv.preact_scale[k] + conv.preact_shift[k], 0.0);
      // Each of K roundings is up to eps / 2 of a partial sum, which wanders from the bias on like the root of the sum
      // of squares; the roundings wander too, like sqrt(K). Weights and epilogue round a few times more.
      const double partial = std::abs(conv.bias[k]) + 2 * std::sqrt(conv.squares[pixel * c.depth + k]);
      const double allowed = 2 * kEpsilon * (std::sqrt(c.products()) * partial + std::abs(shortcut));
      const double allowed_preact = allowed + 2 * kEpsilon * (std::abs(out) + 1);
      const auto differ = [&](bool wanted, const Map& found, double expected, double tolerance) {
        if (!wanted) return;
        const double difference = std::abs(found(pixel, k) - expected);
        worst = std::isfinite(difference) ? std::max(worst, difference / (tolerance + 1e-30)) : kInfinity;
      };
      differ(parts.linear, whole.linear, linear, allowed);
      differ(parts.out, whole.out, out, allowed);
      differ(parts.preact, whole.preact, preact, allowed_preact);
    }
  CHECK(worst <= 1, "%s: %g times the tolerance", name, worst);
  CHECK(!parts.linear || whole.linear.clean(), "%s", name);
  CHECK(!parts.out || whole.out.clean(), "%s", name);
  CHECK(!parts.preact || whole.preact.clean(), "%s", name);
  CHECK(same_bits(input.planes.memory, untouched.planes.memory) && same_bits(input.rows, untouched.rows), "%s", name);

  Results pieces(c);
  run_pieces(packed->kernel(), make_args(conv, *packed, input, residual, parts, pieces), pixels, packed->tiles());
  CHECK(same_bits(pieces.linear.memory, whole.linear.memory), "%s: bits depend on how the work is split", name);
  CHECK(same_bits(pieces.out.memory, whole.out.memory), "%s: bits depend on how the work is split", name);
  CHECK(same_bits(pieces.preact.memory, whole.preact.memory), "%s: bits depend on how the work is split", name);
}

void test_every_shape_equals_plain_loops(const std::vector<const Kernels*>& isas) {
  std::vector<ConvCase> cases = remainder_cases();
  for (const ConvCase& c : resnet_v2_50_cases(1, 20)) cases.push_back(c);
  for (size_t i = 0; i < cases.size(); ++i) {
    const Conv conv(cases[i]);
    for (const Kernels* kernels : isas) {
      check_conv(*kernels, conv, {true, true, true, i % 2 == 0, int(i % 3)});
      check_conv(*kernels, conv, {false, true, false, true, 0});
    }
  }
}

void test_every_epilogue_equals_plain_loops(const std::vector<const Kernels*>& isas) {
  for (const ConvCase& c : {ConvCase{1, 1, 1, 2, 3, 7, 20, 50}, ConvCase{3, 1, 1, 1, 5, 7, 20, 33},
                            ConvCase{3, 2, 2, 1, 5, 7, 16, 64}, ConvCase{7, 2, 1, 1, 9, 11, 3, 48, true}}) {
    const Conv conv(c);
    for (const Kernels* kernels : isas)
      for (int bits = 0; bits < 16; ++bits)
        for (int residual_stride = 0; residual_stride <= 2; ++residual_stride) {
          const Parts parts = {bool(bits & 1), bool(bits & 2), bool(bits & 4), bool(bits & 8), residual_stride};
          if (parts.linear || parts.out || parts.preact) check_conv(*kernels, conv, parts);
        }
  }
}

// The bits of an image do not depend on those beside it.
void test_an_image_has_the_same_bits_anywhere_in_a_batch(const std::vector<const Kernels*>& isas) {
  for (ConvCase c :
       {ConvCase{1, 1, 1, 3, 3, 5, 33, 40}, ConvCase{1, 1, 1, 5, 1, 1, 33, 40}, ConvCase{3, 1, 1, 3, 3, 5, 33, 40},
        ConvCase{3, 2, 1, 3, 5, 3, 33, 40}, ConvCase{7, 2, 1, 3, 5, 3, 3, 40, true}}) {
    const Conv batch(c);
    for (const Kernels* kernels : isas) {
      const auto packed = pack_conv(kernels, c.kernel, c.kernel, c.depth_in, c.depth, c.interleaved,
                                    batch.weights.data(), batch.scale.data(), batch.bias.data());
      const Parts parts = {false, true, true, true, 0};
      Map none(1, 1, 1, 1);
      Input input(batch);
      Results together(c);
      const int64_t pixels = together.out.shape.pixels() / c.n;
      run_range(packed->kernel(), make_args(batch, *packed, input, none, parts, together), 0, pixels * c.n, 0,
                packed->tiles());
      for (int image = 0; image < c.n; ++image) {
        Conv one = batch;
        one.shape.n = 1;
        const int64_t floats = int64_t(c.h) * c.w * c.depth_in;
        one.image.assign(batch.image.begin() + image * floats, batch.image.begin() + (image + 1) * floats);
        Input alone(one);
        Results single(one.shape);
        run_range(packed->kernel(), make_args(one, *packed, alone, none, parts, single), 0, pixels, 0, packed->tiles());
        bool same = true;
        for (int64_t pixel = 0; pixel < pixels; ++pixel)
          for (int k = 0; k < c.depth; ++k)
            same &= single.out(pixel, k) == together.out(image * pixels + pixel, k) &&
                    single.preact(pixel, k) == together.preact(image * pixels + pixel, k);
        CHECK(same, "%s %dx%d/%d: image %d", kernels->isa, c.kernel, c.kernel, c.stride, image);
      }
    }
  }
}

// Root of the mean squared error of a 1x1 convolution by one of the kernels that can compute it.
double error_of(const Kernels& kernels, const ConvKernel& kernel, const Conv& conv) {
  const ConvCase& c = conv.shape;
  const auto packed =
      pack_conv(&kernels, 1, 1, c.depth_in, c.depth, false, conv.weights.data(), conv.scale.data(), conv.bias.data());
  Input input(conv);
  Map none(1, 1, 1, 1);
  Results results(c);
  const int64_t pixels = results.out.shape.pixels();
  run_range(kernel, make_args(conv, *packed, input, none, {false, true, false, false, 0}, results), 0, pixels, 0,
            packed->tiles());
  double squares = 0;
  for (int64_t pixel = 0; pixel < pixels; ++pixel)
    for (int k = 0; k < c.depth; ++k) {
      const double error = results.out(pixel, k) - (conv.sum[pixel * c.depth + k] + conv.bias[k]);
      squares += error * error;
    }
  return std::sqrt(squares / double(pixels * c.depth));
}

// Products of bfloat16 parts are there for speed and may cost no accuracy. Their error is the smaller one, since tiles
// sum in several strands; a part left out by mistake would make it a hundred times as large.
void test_products_of_parts_are_as_exact_as_float32(const std::vector<const Kernels*>& isas) {
  for (int depth_in : {64, 256, 1000, 2048}) {
    const Conv conv(ConvCase{1, 1, 1, 1, 9, 11, depth_in, 64});
    for (const Kernels* kernels : isas) {
      if (kernels->pointwise.run == kernels->conv.run) continue;
      const double parts = error_of(*kernels, kernels->pointwise, conv);
      const double direct = error_of(*kernels, kernels->conv, conv);
      CHECK(parts < direct, "%s, %d channels: error %g, and %g without parts", kernels->isa, depth_in, parts, direct);
    }
  }
}

// Any number of slices of input channels, of pixel tiles, of output tiles: every path by which work is handed on.
void test_every_count_of_turns_equals_plain_loops(const std::vector<const Kernels*>& isas) {
  for (int depth_in : {16, 128, 144, 300})
    for (int pixels : {4, 16, 17, 33, 97})
      for (int depth : {16, 32, 40, 96}) {
        const Conv conv(ConvCase{1, 1, 1, 1, 1, pixels, depth_in, depth});
        for (const Kernels* kernels : isas) check_conv(*kernels, conv, {true, true, true, true, 1});
      }
}

// float32 has no more exponents than bfloat16: parts of what is near the ends of its range.
void test_large_and_small_values_keep_their_digits(const std::vector<const Kernels*>& isas) {
  for (float size : {1e30f, 1e-25f})
    for (const Kernels* kernels : isas) {
      Conv conv(ConvCase{1, 1, 1, 1, 4, 4, 40, 20});
      for (float& value : conv.image) value *= size;
      for (double& value : conv.sum) value *= size;
      for (double& value : conv.squares) value *= double(size) * size;
      for (double& value : conv.bias) value = 0;
      check_conv(*kernels, conv, {true, false, false, false, 0});
    }
}

void test_nan_passes_every_epilogue(const std::vector<const Kernels*>& isas) {
  for (const ConvCase& c : {ConvCase{1, 1, 1, 1, 2, 8, 3, 20}, ConvCase{3, 1, 1, 1, 2, 8, 3, 20}})
    for (const Kernels* kernels : isas) {
      Conv conv(c);
      conv.image[0] = kNaN;
      const auto packed = pack_conv(kernels, c.kernel, c.kernel, c.depth_in, c.depth, false, conv.weights.data(),
                                    conv.scale.data(), conv.bias.data());
      Input input(conv);
      Map none(1, 1, 1, 1);
      Results results(c);
      run_range(packed->kernel(), make_args(conv, *packed, input, none, {true, true, true, true, 0}, results), 0, 16, 0,
                packed->tiles());
      for (const Map* map : {&results.linear, &results.out, &results.preact})
        for (int k = 0; k < c.depth; ++k)
          CHECK(std::isnan((*map)(0, k)) && !std::isnan((*map)(15, k)), "%s channel %d", kernels->isa, k);
    }
}

void test_max_pool_equals_plain_loops(const Kernels& kernels) {
  for (int kernel : {1, 2, 3})
    for (int stride : {1, 2, 3})
      for (int pad = 0; pad <= kernel / 2; ++pad)
        for (int h = 1; h <= 9; ++h)
          for (float fill : {-kInfinity, 0.0f}) {
            const int n = 2, w = 1 + h * 5 % 8, c = 19, plane_rows = n * ((h + pad - 1) / stride + 1);
            Map in(n, h, w, c), out(n, (h + pad - 1) / stride + 1, (w + pad - 1) / stride + 1, c), preact = out;
            in.fill(random_floats(in.shape.pixels() * c));
            Floats scale = random_floats(32), shift = random_floats(32);
            for (int k = c; k < 32; ++k) scale[k] = shift[k] = 0;
            PoolArgs a;
            a.in = in.data(), a.in_plane = in.shape.plane();
            a.n = n, a.in_h = h, a.in_w = w, a.out_h = out.shape.h, a.out_w = out.shape.w;
            a.kernel = kernel, a.stride = stride, a.pad_y = a.pad_x = pad, a.fill = fill;
            a.epilogue.out = out.data(), a.epilogue.preact = preact.data(),
            a.epilogue.plane = a.epilogue.preact_plane = out.shape.plane();
            a.epilogue.scale = scale.data(), a.epilogue.shift = shift.data();
            const int cut = random_int(0, plane_rows);
            for (int plane = 0; plane < 2; ++plane) {
              kernels.max_pool(a, plane, cut, plane_rows);
              kernels.max_pool(a, plane, 0, cut);
            }
            bool same = true, close = true;
            for (int64_t pixel = 0; pixel < out.shape.pixels(); ++pixel)
              for (int k = 0; k < c; ++k) {
                const int y0 = int(pixel / out.shape.w % out.shape.h) * stride - pad,
                          x0 = int(pixel % out.shape.w) * stride - pad;
                const int64_t image = pixel / (out.shape.w * out.shape.h) * h * w;
                float largest = -kInfinity;
                for (int y = y0; y < y0 + kernel; ++y)
                  for (int x = x0; x < x0 + kernel; ++x)
                    largest = std::max(largest,
                                       y >= 0 && y < h && x >= 0 && x < w ? in(image + int64_t(y) * w + x, k) : fill);
                same &= out(pixel, k) == largest;
                const double normed = std::max(double(largest) * scale[k] + shift[k], 0.0);
                close &= std::abs(preact(pixel, k) - normed) <= 2 * kEpsilon;  // two roundings of values below 2
              }
            CHECK(same && close, "%s %d/%d pad %d on %dx%d fill %g", kernels.isa, kernel, stride, pad, h, w, fill);
            CHECK(out.clean() && preact.clean(), "%s %d/%d pad %d on %dx%d", kernels.isa, kernel, stride, pad, h, w);
          }
}

void test_avg_pool_takes_the_mean_of_what_is_there(const Kernels& kernels) {
  for (int size : {1, 2, 3})
    for (int h = 1; h <= 7; ++h) {
      const int n = 2, w = 1 + h * 5 % 8, c = 19;
      Map in(n, h, w, c), out(n, int(ceil_div(h, size)), int(ceil_div(w, size)), c);
      in.fill(random_floats(in.shape.pixels() * c));
      PoolArgs a;
      a.in = in.data(), a.in_plane = in.shape.plane();
      a.n = n, a.in_h = h, a.in_w = w, a.out_h = out.shape.h, a.out_w = out.shape.w;
      a.kernel = a.stride = size;
      a.epilogue.out = out.data(), a.epilogue.plane = out.shape.plane();
      const int rows = n * out.shape.h, cut = random_int(0, rows);
      for (int plane = 0; plane < 2; ++plane) {
        kernels.avg_pool(a, plane, cut, rows);
        kernels.avg_pool(a, plane, 0, cut);
      }
      double worst = 0;
      for (int64_t pixel = 0; pixel < out.shape.pixels(); ++pixel)
        for (int k = 0; k < c; ++k) {
          const int y0 = int(pixel / out.shape.w % out.shape.h) * size, x0 = int(pixel % out.shape.w) * size;
          const int64_t image = pixel / (out.shape.w * out.shape.h) * h * w;
          double sum = 0;
          int count = 0;
          for (int y = y0; y < std::min(y0 + size, h); ++y)
            for (int x = x0; x < std::min(x0 + size, w); ++x) sum += in(image + int64_t(y) * w + x, k), ++count;
          worst = std::max(worst, std::abs(out(pixel, k) - sum / count));
        }
      CHECK(worst <= 9 * kEpsilon, "%s %d on %dx%d: %g", kernels.isa, size, h, w, worst);  // so many values below 1
      CHECK(out.clean(), "%s %d on %dx%d", kernels.isa, size, h, w);
    }
}

// depth: channels of a group, which may be parts of a plane, whole planes, or neither.
void test_group_norm_makes_groups_normal(const Kernels& kernels) {
  for (int depth : {1, 2, 3, 6, 8, 12, 16, 24, 32, 64})
    for (int pixels : {1, 2, 63, 64, 65, 200}) {
      const int groups = 4 * kLanes / std::gcd(depth, kLanes), c = groups * depth;
      Map in(1, 1, pixels, c), out(1, 1, pixels, c);
      Floats values = random_floats(size_t(pixels) * c);
      for (float& value : values) value = value * 3 + 5;  // far from 0: squares would cancel
      in.fill(values);
      const Floats gamma = random_floats(c), beta = random_floats(c);
      const double epsilon = 1e-5;
      GroupNormArgs a;
      a.in = in.data(), a.in_plane = in.shape.plane(), a.planes = in.shape.planes(), a.pixels = pixels;
      a.depth = depth, a.epsilon = epsilon, a.gamma = gamma.data(), a.beta = beta.data();
      a.out = out.data(), a.out_plane = out.shape.plane();
      Doubles scratch(size_t(a.planes) * kLanes * 2);
      kernels.group_norm(a, scratch.data());
      double worst = 0;
      for (int group = 0; group < groups; ++group) {
        double mean = 0, variance = 0;
        const double count = double(pixels) * depth;
        for (int k = group * depth; k < (group + 1) * depth; ++k)
          for (int p = 0; p < pixels; ++p) mean += in(p, k) / count;
        for (int k = group * depth; k < (group + 1) * depth; ++k)
          for (int p = 0; p < pixels; ++p) variance += (in(p, k) - mean) * (in(p, k) - mean) / count;
        const double scale = 1 / std::sqrt(variance + epsilon);
        for (int k = group * depth; k < (group + 1) * depth; ++k)
          for (int p = 0; p < pixels; ++p) {
            const double expected = std::max((in(p, k) - mean) * scale * gamma[k] + beta[k], 0.0);
            // The shift is rounded at the size of mean * scale, the variance at its own relative size.
            const double allowed = kEpsilon * (4 + 4 * std::abs(mean * scale) + 4 * std::abs(expected));
            worst = std::max(worst, std::abs(out(p, k) - expected) / allowed);
          }
      }
      CHECK(worst <= 1, "%s groups of %d channels, %d pixels: %g times the budget", kernels.isa, depth, pixels, worst);
      CHECK(out.clean(), "%s groups of %d channels, %d pixels", kernels.isa, depth, pixels);
    }
}

void test_mean_is_each_image_s_own(const Kernels& kernels) {
  for (int pixels : {1, 2, 49, 1000}) {
    const int n = 3;
    const Floats in = random_floats(int64_t(n) * pixels * kLanes);
    Floats out((n + 1) * kLanes, kCanary), one(kLanes);
    kernels.mean(in.data(), n, pixels, out.data());
    for (int image = 0; image < n; ++image) {
      const float* own = in.data() + int64_t(image) * pixels * kLanes;
      kernels.mean(own, 1, pixels, one.data());
      for (int lane = 0; lane < kLanes; ++lane) {
        double sum = 0, size = 0;
        for (int p = 0; p < pixels; ++p) sum += own[p * kLanes + lane], size += std::abs(own[p * kLanes + lane]);
        // As many roundings as pixels, of sums below `size`.
        CHECK(std::abs(out[image * kLanes + lane] - sum / pixels) <= kEpsilon * size, "%s %d pixels", kernels.isa,
              pixels);
        CHECK(out[image * kLanes + lane] == one[lane], "%s %d pixels, image %d", kernels.isa, pixels, image);
      }
    }
    CHECK(out[n * kLanes] == kCanary, "%s %d pixels", kernels.isa, pixels);
  }
}

LoadArgs load_args(const Floats& images, int n, int h, int w, int c) {
  LoadArgs a;
  a.images = images.data();
  a.n = n, a.h = h, a.w = w, a.c = c;
  return a;
}

void test_load_copies_into_planes(const Kernels& kernels) {
  for (int c : {1, 3, 15, 16, 17, 40}) {
    const int n = 2, h = 3, w = 5;
    Floats images = random_floats(int64_t(n) * h * w * c);
    images[0] = FLT_MAX, images[1] = -FLT_MAX, images[2] = FLT_MIN, images[3] = 1e-44f, images[4] = -0.0f;
    Map out(n, h, w, c), preact(n, h, w, c);
    Floats scale(48), shift(48);
    for (int k = 0; k < c; ++k) scale[k] = 0.5f, shift[k] = 0.25f;
    LoadArgs a = load_args(images, n, h, w, c);
    a.epilogue.out = out.data(), a.epilogue.preact = preact.data(),
    a.epilogue.plane = a.epilogue.preact_plane = out.shape.plane();
    a.epilogue.scale = scale.data(), a.epilogue.shift = shift.data();
    CHECK(kernels.load(a, 0, 4) && kernels.load(a, 4, n * h), "%s %d channels", kernels.isa, c);
    for (int64_t pixel = 0; pixel < out.shape.pixels(); ++pixel)
      for (int k = 0; k < c; ++k) {
        const float value = images[pixel * c + k];
        CHECK(out(pixel, k) == value, "%s %d channels", kernels.isa, c);
        CHECK(std::abs(preact(pixel, k) - std::max(value * 0.5f + 0.25f, 0.0f)) <= FLT_EPSILON * std::abs(value),
              "%s %d channels", kernels.isa, c);
      }
    CHECK(out.clean() && preact.clean(), "%s %d channels", kernels.isa, c);
  }
}

void test_load_copies_into_rows(const Kernels& kernels) {
  const int n = 2, h = 3, w = 4, c = 3, margin = 2, row = (w + 2 * margin) * c;
  const Floats images = random_floats(n * h * w * c);
  Floats rows(n * (h + 2 * margin) * row, kCanary);
  LoadArgs a = load_args(images, n, h, w, c);
  a.rows = rows.data(), a.margin = margin;
  CHECK(kernels.load(a, 0, n * h), "%s", kernels.isa);
  for (int i = 0; i < int(rows.size()); ++i) {
    const int y = i / row % (h + 2 * margin) - margin, x = i % row / c - margin, image = i / row / (h + 2 * margin);
    const bool inside = y >= 0 && y < h && x >= 0 && x < w;
    CHECK(rows[i] == (inside ? images[((image * h + y) * w + x) * c + i % c] : kCanary), "%s %d", kernels.isa, i);
  }
}

void test_load_finds_what_is_not_finite_wherever_it_is(const Kernels& kernels) {
  const int n = 2, h = 3, w = 7, c = 3, row = w * c;
  Floats images = random_floats(n * h * row);
  Floats rows(images.size());
  Map out(n, h, w, c);
  for (float bad : {kNaN, -kNaN, kInfinity, -kInfinity})
    for (size_t i = 0; i < images.size(); ++i) {
      const float good = std::exchange(images[i], bad);
      LoadArgs a = load_args(images, n, h, w, c);
      a.epilogue.out = out.data(), a.epilogue.plane = a.epilogue.preact_plane = out.shape.plane();
      const int64_t y = int64_t(i) / row;
      CHECK(!kernels.load(a, 0, n * h) && !kernels.load(a, y, y + 1), "%s %g at %zu", kernels.isa, bad, i);
      CHECK(kernels.load(a, 0, y) && kernels.load(a, y + 1, n * h), "%s %g at %zu", kernels.isa, bad, i);
      a.rows = rows.data();
      CHECK(!kernels.load(a, 0, n * h), "%s %g at %zu of rows", kernels.isa, bad, i);
      images[i] = good;
    }
}

void test_store_is_the_inverse_of_load(const Kernels& kernels) {
  for (int c : {1, 3, 15, 16, 17, 32, 40}) {
    Map map(2, 3, 5, c);
    const Floats images = random_floats(map.shape.pixels() * c);
    map.fill(images);
    Floats out(images.size() + 16, kCanary);
    kernels.store(map.data(), map.shape.plane(), c, 7, map.shape.pixels(), out.data());
    kernels.store(map.data(), map.shape.plane(), c, 0, 7, out.data());
    CHECK(std::equal(images.begin(), images.end(), out.begin()), "%s %d channels", kernels.isa, c);
    CHECK(std::all_of(out.end() - 16, out.end(), [](float x) { return x == kCanary; }), "%s %d channels", kernels.isa,
          c);
  }
}

void test_softmax(const Kernels& kernels) {
  for (int c : {1, 2, 17, 1001})
    for (float spread : {1.0f, 30.0f, 1e4f, 1e38f}) {
      Floats in = random_floats(c);
      for (float& x : in) x *= spread;
      Floats out(c + 1, kCanary);
      kernels.softmax(in.data(), c, out.data());
      const double largest = *std::max_element(in.begin(), in.end());
      double sum = 0, worst = 0;
      for (float x : in) sum += std::exp(x - largest);
      // expf is good to an ulp or so, its argument to half an ulp of up to 88; below FLT_MIN digits are lost.
      for (int i = 0; i < c; ++i)
        worst = std::max(worst, std::abs(out[i] - std::exp(in[i] - largest) / sum) /
                                    (64 * kEpsilon * std::exp(in[i] - largest) / sum + FLT_MIN));
      CHECK(worst <= 1, "%s %d classes, spread %g: %g times the tolerance", kernels.isa, c, spread, worst);
      CHECK(out[c] == kCanary, "%s %d classes", kernels.isa, c);
      kernels.softmax(in.data(), c, in.data());
      CHECK(std::equal(in.begin(), in.end(), out.begin()), "%s %d classes: in place", kernels.isa, c);
    }
}

// What the bound on buffers says: planes start 64 bytes apart from the grid of cache sets, and hold a pixel of zeros.
void test_a_plane_has_room_for_its_zero_pixel() {
  for (int pixels = 1; pixels < 100; ++pixels) {
    const Tensor t{0, 1, 1, pixels, 17};
    CHECK(t.plane() >= (pixels + 1) * kLanes && t.plane() / kLanes % 2 == 1 && t.floats() == 2 * t.plane(), "%d",
          pixels);
  }
}

}  // namespace
}  // namespace resforward

int main() {
  using namespace resforward;
  std::vector<const Kernels*> isas;
  for (const Isa& isa : compiled_isas()) {
    std::printf("%s: %s\n", isa.kernels->isa, isa.supported ? "tested" : "not on this processor");
    if (isa.supported) isas.push_back(isa.kernels);
    CHECK(find_kernels(isa.kernels->isa) == (isa.supported ? isa.kernels : nullptr), "%s", isa.kernels->isa);
  }
  CHECK(!find_kernels("") && !find_kernels("avx"), "an instruction set by any name");
  test_a_plane_has_room_for_its_zero_pixel();
  test_every_shape_equals_plain_loops(isas);
  test_every_epilogue_equals_plain_loops(isas);
  test_an_image_has_the_same_bits_anywhere_in_a_batch(isas);
  test_products_of_parts_are_as_exact_as_float32(isas);
  test_every_count_of_turns_equals_plain_loops(isas);
  test_large_and_small_values_keep_their_digits(isas);
  test_nan_passes_every_epilogue(isas);
  for (const Kernels* kernels : isas) {
    test_max_pool_equals_plain_loops(*kernels);
    test_avg_pool_takes_the_mean_of_what_is_there(*kernels);
    test_group_norm_makes_groups_normal(*kernels);
    test_mean_is_each_image_s_own(*kernels);
    test_load_copies_into_planes(*kernels);
    test_load_copies_into_rows(*kernels);
    test_load_finds_what_is_not_finite_wherever_it_is(*kernels);
    test_store_is_the_inverse_of_load(*kernels);
    test_softmax(*kernels);
  }
  return report();
}
