// Chains of convolutions against the same convolutions as steps of their own: the same bits, and nothing else written.

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "check.h"
#include "conv_step.h"
#include "feature_map.h"

namespace resforward {
namespace {

// A convolution that reads and writes numbered maps.
struct Link {
  int kernel, stride, in;
  int linear = -1, out = -1, preact = -1, shortcut = -1, shortcut_stride = 1;
  bool relu = false, follows = false;
};

struct Case {
  std::string name;
  std::vector<Tensor> maps;  // without a place; the first one is given, one convolution writes each of the others
  std::vector<Link> links;
  std::vector<int> inner;  // maps that only their own chain reads: in slots
  int sum = -1;            // of a chain, takes the place of
  int shortcut = -1;       // which only that sum reads

  std::vector<int> written() const {
    std::vector<int> maps;
    for (const Link& link : links)
      for (int map : {link.linear, link.out, link.preact})
        if (map >= 0) maps.push_back(map);
    return maps;
  }
};

constexpr int kImage = 0;

struct Size {
  int n, h, w, stride;  // of what a chain computes; the image is `stride` times as large
};

// A unit's last convolution with its shortcut, then the next unit's first ones:
//   hidden + shortcut -> sum, preact;   preact -> projection;   preact -> conv1;   conv1 -> conv2, not of the chain
// Of v1, `sum` ends in ReLU and is what the next unit reads.
struct Unit {
  enum { kHidden = 1, kShortcut, kSum, kPreact, kProjection, kConv1, kConv2, kLinear, kMaps };
};

Case unit(const Size& s, int depth_in, int depth, bool v2, bool everything_wanted) {
  const int high = (s.h - 1) * s.stride + 1, wide = (s.w - 1) * s.stride + 1;
  const auto map = [&s](int c) { return Tensor{-1, s.n, s.h, s.w, c}; };
  Case c{v2 ? "v2" : "v1", std::vector<Tensor>(Unit::kMaps), {}, {}};
  c.maps[kImage] = {-1, s.n, high, wide, 20};
  c.maps[Unit::kShortcut] = {-1, s.n, high, wide, depth};
  c.maps[Unit::kHidden] = map(depth_in);
  c.maps[Unit::kSum] = c.maps[Unit::kPreact] = c.maps[Unit::kLinear] = map(depth);
  c.maps[Unit::kProjection] = map(50);
  c.maps[Unit::kConv1] = c.maps[Unit::kConv2] = map(17);
  Link last{1, 1, Unit::kHidden};
  last.shortcut = Unit::kShortcut, last.shortcut_stride = s.stride, last.relu = !v2;
  const int next = v2 ? Unit::kPreact : Unit::kSum;
  if (v2) last.preact = Unit::kPreact;
  if (!v2 || everything_wanted) last.out = Unit::kSum;
  if (everything_wanted) last.linear = Unit::kLinear;
  c.links = {{3, s.stride, kImage, -1, Unit::kHidden, -1, -1, 1, true},
             {1, 1, kImage, -1, Unit::kShortcut},
             last,
             {1, 1, next, -1, Unit::kProjection, -1, -1, 1, false, true},
             {1, 1, next, -1, Unit::kConv1, -1, -1, 1, true, true},
             {3, 1, Unit::kConv1, -1, Unit::kConv2}};
  if (!everything_wanted) c.inner = {next};
  return c;
}

// A projection and conv1 of the same input, then two more of what these wrote: two slots, and a chain of three in
// depth.
Case siblings(const Size& s, bool slots) {
  const auto map = [&s](int c) { return Tensor{-1, s.n, s.h, s.w, c}; };
  Case c{slots ? "siblings in slots" : "siblings", {map(33), map(64), map(24), map(40), map(64), map(35)}, {}, {}};
  c.links = {{1, 1, kImage, -1, 1},
             {1, 1, kImage, -1, 2, -1, -1, 1, true, true},
             {1, 1, 2, -1, 3, -1, -1, 1, false, true},
             {1, 1, 3, -1, 4, -1, 1, 1, true, true},  // adds what the head wrote
             {1, 1, 3, -1, -1, 5, -1, 1, false, true}};
  if (slots) c.inner = {2, 3};
  return c;
}

// A convolution of any kernel and stride may be followed.
Case strided_head(const Size& s) {
  const auto map = [&s](int c) { return Tensor{-1, s.n, s.h, s.w, c}; };
  Case c{"strided head",
         {{-1, s.n, (s.h - 1) * s.stride + 1, (s.w - 1) * s.stride + 1, 17}, map(40), map(33), map(18)},
         {},
         {1}};
  c.links = {{3, s.stride, kImage, -1, 1, -1, -1, 1, true},
             {1, 1, 1, -1, 2, -1, -1, 1, true, true},
             {1, 1, 1, -1, 3, -1, -1, 1, false, true}};
  return c;
}

// What follows may leave pixels out, whether it reads a slot or what is stored, and blocks end anywhere in a row.
Case strided_followers(const Size& s, int stride) {
  const auto map = [&s](int c) { return Tensor{-1, s.n, s.h, s.w, c}; };
  const auto some = [&](int c) { return Tensor{-1, s.n, int(ceil_div(s.h, stride)), int(ceil_div(s.w, stride)), c}; };
  Case c{"followers " + std::to_string(stride) + " apart",
         {map(18), map(40), map(40), some(33), some(24), map(17), some(40)},
         {},
         {2}};
  c.links = {{1, 1, kImage, -1, 1, 2, -1, 1, true},
             {1, stride, 2, -1, 3, -1, -1, 1, false, true},
             {1, stride, 1, -1, 4, -1, -1, 1, true, true},
             {1, 1, 2, -1, 5, -1, -1, 1, true, true},
             {1, stride, 2, -1, 6, -1, 1, stride, false, true}};  // adds those pixels of what the head wrote
  return c;
}

// A unit whose sum takes the place of its shortcut.
Case in_place(const Size& s, bool v2, bool everything_wanted) {
  Case c = unit({s.n, s.h, s.w, 1}, 24, 40, v2, everything_wanted);
  c.name += " in place";
  for (Link& link : c.links)
    if (link.shortcut >= 0) link.out = Unit::kSum;
  if (!v2) c.inner.clear();  // the sum has a place: it is no slot
  c.sum = Unit::kSum, c.shortcut = Unit::kShortcut;
  return c;
}

// Weights of a case, and where its maps lie in an arena of canaries: every one apart from its neighbours.
struct Net {
  static constexpr int64_t kGap = 5 * kLanes;
  const Case& shape;
  std::vector<std::shared_ptr<const PackedConv>> weights;
  std::vector<Doubles> scales, shifts;
  std::vector<int64_t> offsets;
  int64_t floats = kGap;

  Net(const Kernels* kernels, const Case& c) : shape(c) {
    for (const Tensor& map : c.maps) {
      offsets.push_back(floats);
      floats += map.floats() + kGap;
    }
    for (const Link& link : c.links) {
      const int in = c.maps[link.in].c, out = written(link).c, products = link.kernel * link.kernel * in;
      Floats values = random_floats(size_t(products) * out);
      for (float& value : values) value *= std::sqrt(3.0f / products);
      weights.push_back(pack_conv(kernels, link.kernel, link.kernel, in, out, false, values.data(), nullptr,
                                  random_doubles(out).data()));
      scales.push_back(random_doubles(out)), shifts.push_back(random_doubles(out));
    }
  }

  const Tensor& written(const Link& link) const {
    return shape.maps[link.out >= 0 ? link.out : link.preact >= 0 ? link.preact : link.linear];
  }
  bool in_slot(int map, bool chained) const {
    return chained && std::find(shape.inner.begin(), shape.inner.end(), map) != shape.inner.end();
  }
  int64_t offset(int map, bool chained) const { return offsets[chained && map == shape.sum ? shape.shortcut : map]; }
  Tensor tensor(int map, bool chained) const {
    if (map < 0) return Tensor();
    Tensor t = shape.maps[map];
    const auto slot = std::find(shape.inner.begin(), shape.inner.end(), map) - shape.inner.begin();
    if (in_slot(map, chained))
      t.slot = int(slot);
    else
      t.offset = offset(map, chained);
    return t;
  }
  Outputs outputs(size_t i, bool chained) const {
    const Link& link = shape.links[i];
    Outputs o;
    o.linear = tensor(link.linear, chained), o.out = tensor(link.out, chained);
    o.preact = tensor(link.preact, chained);
    if (o.preact) o.scale = scales[i], o.shift = shifts[i];
    o.relu = link.relu;
    return o;
  }
  Shortcut shortcut(const Link& link, bool chained) const {
    return {tensor(link.shortcut, chained), link.shortcut_stride};
  }

  std::vector<ConvStep> steps(int threads, bool chained) const {
    std::vector<ConvStep> steps;
    for (size_t i = 0; i < shape.links.size(); ++i) {
      const Link& link = shape.links[i];
      const Tensor in = tensor(link.in, chained);
      ConvArgs a;
      a.planes = in.planes(), a.n = in.n, a.in_h = in.h, a.in_w = in.w;
      a.taps_h = a.taps_w = link.kernel, a.stride = link.stride, a.pad = link.kernel / 2;
      ConvLink next(weights[i], a, in, shortcut(link, chained), outputs(i, chained));
      if (chained && link.follows)
        steps.back().follow(std::move(next));
      else
        steps.emplace_back(std::move(next), threads);
    }
    return steps;
  }

  void add_to(Plan& plan, bool chained) const {
    for (size_t i = 0; i < shape.links.size(); ++i) {
      const Link& link = shape.links[i];
      plan.conv(weights[i], tensor(link.in, chained), link.stride, 1, shortcut(link, chained), outputs(i, chained),
                chained && link.follows);
    }
  }

  // Maps that a plan leaves in its arena, in the order of their outputs.
  std::vector<int> kept() const {
    std::vector<int> maps;
    for (int map : shape.written())
      if (!in_slot(map, true) && map != shape.shortcut) maps.push_back(map);
    return maps;
  }

  // What of an arena may have been written: planes with their zero pixels, of maps outside slots.
  std::vector<bool> writable(bool chained) const {
    std::vector<bool> may(floats);
    for (int map : shape.written())
      if (!in_slot(map, chained))
        for (int plane = 0; plane < shape.maps[map].planes(); ++plane)
          std::fill_n(may.begin() + offset(map, chained) + plane * shape.maps[map].plane(),
                      (shape.maps[map].pixels() + 1) * kLanes, true);
    return may;
  }
};

// The arena after all steps, their items in any order, each thread's scratch full of what earlier items left in it.
Floats run_steps(const std::vector<ConvStep>& steps, const Floats& before, int threads) {
  Floats arena = before;
  Run run{arena.data(), nullptr, nullptr, nullptr};
  for (const ConvStep& step : steps) {
    std::vector<int64_t> items(step.items());
    for (size_t i = 0; i < items.size(); ++i) items[i] = int64_t(i);
    std::shuffle(items.begin(), items.end(), rng);
    const size_t floats = step.scratch() / sizeof(float);
    std::vector<Floats> scratch(threads, Floats(floats + kLanes, kCanary));
    for (int64_t item : items) step.run(run, item, scratch[random_int(0, threads - 1)].data());
    for (const Floats& s : scratch)
      CHECK(std::all_of(s.end() - kLanes, s.end(), [](float x) { return x == kCanary; }), "behind the scratch");
  }
  return arena;
}

void check_case(const Kernels* kernels, const Case& c) {
  const Tensor& image = c.maps[kImage];
  const Net net(kernels, c);
  Map first(image.n, image.h, image.w, image.c);
  first.fill(random_floats(image.pixels() * image.c));
  Floats arena(net.floats, kCanary);
  std::copy_n(first.data(), image.floats(), arena.begin() + net.offsets[kImage]);
  const Floats separate = run_steps(net.steps(1, false), arena, 1);

  const std::vector<bool> writable = net.writable(true);
  for (int threads : {1, 2, 5, 40}) {
    const Tensor& t = c.maps.back();
    char name[120];
    std::snprintf(name, sizeof name, "%s %s, %dx%dx%d, %d threads", kernels->isa, c.name.c_str(), t.n, t.h, t.w,
                  threads);
    const Floats chained = run_steps(net.steps(threads, true), arena, threads);
    int64_t stray = 0;
    for (int64_t i = 0; i < net.floats; ++i)
      stray += !writable[i] && std::memcmp(&chained[i], &arena[i], sizeof(float)) != 0;
    for (int map : net.kept()) {
      int64_t other = 0;
      for (int plane = 0; plane < c.maps[map].planes(); ++plane)
        for (int64_t i = plane * c.maps[map].plane(), end = i + (c.maps[map].pixels() + 1) * kLanes; i < end; ++i)
          other += std::memcmp(&chained[net.offset(map, true) + i], &separate[net.offset(map, false) + i],
                               sizeof(float)) != 0;
      CHECK(other == 0, "%s: %d values of map %d differ from those of separate steps", name, int(other), map);
    }
    CHECK(stray == 0, "%s: %d values outside the maps were written", name, int(stray));
  }
  for (int map : net.kept()) {
    const Tensor& t = c.maps[map];
    bool zero = true;
    for (int plane = 0; plane < t.planes(); ++plane)
      for (int lane = 0; lane < kLanes; ++lane)
        zero &= separate[net.offsets[map] + plane * t.plane() + t.pixels() * kLanes + lane] == 0;
    CHECK(zero, "%s %s: the pixel behind map %d", kernels->isa, c.name.c_str(), map);
  }
}

// Pixels: one, fewer and one more than a tile, odd numbers, more than one block of any instruction set.
const std::vector<Size> kSizes = {{1, 1, 1, 1}, {1, 1, 13, 2}, {3, 1, 5, 1},  {1, 3, 5, 2},
                                  {3, 5, 7, 1}, {2, 7, 9, 2},  {1, 9, 11, 1}, {5, 14, 15, 1}};

void test_a_chain_gives_what_separate_steps_give(const Kernels* kernels) {
  for (const Size& size : kSizes) {
    for (bool v2 : {false, true})
      for (bool everything : {false, true}) check_case(kernels, unit(size, 24, 40, v2, everything));
    check_case(kernels, siblings(size, false));
    check_case(kernels, siblings(size, true));
    check_case(kernels, strided_head(size));
    for (int stride : {2, 3}) check_case(kernels, strided_followers(size, stride));
    for (bool v2 : {false, true})
      for (bool everything : {false, true}) check_case(kernels, in_place(size, v2, everything));
  }
  check_case(kernels, unit({3, 7, 7, 1}, 512, 1024, true, false));  // blocks as small as their bytes make them
}

struct Answer {
  std::vector<Floats> maps;
  bool operator==(const Answer& other) const {
    return std::equal(maps.begin(), maps.end(), other.maps.begin(), other.maps.end(), same_bits);
  }
};

// Everything that a plan leaves in its arena.
Answer run_plan(const Kernels* kernels, const Net& net, int threads, bool chained, const Floats& images, int runs) {
  Plan plan(kernels, threads, net.floats);
  Outputs image;
  image.out = net.tensor(kImage, chained);
  plan.load(image.out.n, image.out.h, image.out.w, image.out.c, image);
  net.add_to(plan, chained);
  Answer answer;
  std::vector<float*> outputs;
  for (int map : net.kept()) {
    const Tensor t = net.tensor(map, chained);
    plan.store(t, int(answer.maps.size()), false);
    answer.maps.push_back(Floats(t.pixels() * t.c));
  }
  for (Floats& map : answer.maps) outputs.push_back(map.data());
  CHECK(plan.run(images.data(), outputs.data()), "%s: refused", kernels->isa);
  for (int run = 1; run < runs; ++run) {
    const Answer before = answer;
    plan.run(images.data(), outputs.data());
    CHECK(answer == before, "%s %s, %d threads: another answer", kernels->isa, net.shape.name.c_str(), threads);
  }
  return answer;
}

// Blocks are taken from wherever they are left, and an image's results are its own.
void test_a_chained_plan_has_the_same_bits_on_any_number_of_threads_and_in_any_batch(const Kernels* kernels) {
  for (const Size& size : {Size{5, 14, 15, 1}, Size{3, 5, 7, 2}})
    for (const auto& make : std::vector<std::function<Case(const Size&)>>{
             [](const Size& s) { return unit(s, 24, 40, true, false); },
             [](const Size& s) { return unit(s, 24, 40, false, false); },
             [](const Size& s) { return siblings(s, true); }, [](const Size& s) { return strided_followers(s, 2); },
             [](const Size& s) { return in_place(s, true, false); }}) {
      const Case c = make(size), one = make({1, size.h, size.w, size.stride});
      const Tensor& image = c.maps[kImage];
      const Net net(kernels, c);
      Net alone(kernels, one);
      alone.weights = net.weights, alone.scales = net.scales, alone.shifts = net.shifts;
      const Floats images = random_floats(image.pixels() * image.c);
      const Answer expected = run_plan(kernels, net, 1, false, images, 1);
      for (int threads : {1, 2, 5, 16})
        CHECK(run_plan(kernels, net, threads, true, images, 10) == expected, "%s %s, %d threads", kernels->isa,
              c.name.c_str(), threads);
      for (int n = 0; n < size.n; ++n) {
        const auto part = [&](const Floats& all) {
          const int64_t each = int64_t(all.size()) / size.n;
          return Floats(all.begin() + n * each, all.begin() + (n + 1) * each);
        };
        Answer own;
        for (const Floats& map : expected.maps) own.maps.push_back(part(map));
        CHECK(run_plan(kernels, alone, 1 + n, true, part(images), 1) == own, "%s %s, image %d", kernels->isa,
              c.name.c_str(), n);
      }
    }
}

// The arena's map after Winograd's convolution of a map and a shortcut, which `sum` may lie on.
Floats winograd_sum(const Kernels* kernels, const std::shared_ptr<const PackedWinograd>& conv, const Tensor& map,
                    const Tensor& sum, int threads, const Floats& images) {
  Tensor hidden = map;
  hidden.offset = 2 * map.floats();
  Plan plan(kernels, threads, 3 * map.floats());
  Outputs image, inner, result;
  image.out = map, inner.out = hidden, result.out = sum, result.relu = true;
  plan.load(map.n, map.h, map.w, map.c, image);
  plan.winograd(conv, map, Shortcut(), inner);
  plan.winograd(conv, hidden, {map, 1}, result);
  Floats output(map.pixels() * map.c);
  float* const outputs[] = {output.data()};
  plan.store(sum, 0, false);
  for (int run = 0; run < 3; ++run) CHECK(plan.run(images.data(), outputs), "%s: refused", kernels->isa);
  return output;
}

void test_a_winograd_sum_may_take_the_place_of_its_shortcut(const Kernels* kernels) {
  for (const WinogradTile& tile : {WinogradTile{4, 4}, {4, 3}, {3, 3}, {2, 2}})
    for (const Tensor& map : {Tensor{0, 1, 1, 1, 17}, {0, 3, 5, 7, 40}, {0, 2, 13, 14, 33}, {0, 1, 30, 29, 64}}) {
      const Floats weights = random_floats(9 * map.c * map.c);
      const auto conv =
          pack_winograd(kernels, tile, map.c, map.c, weights.data(), nullptr, random_doubles(map.c).data());
      const Floats images = random_floats(map.pixels() * map.c);
      Tensor elsewhere = map;
      elsewhere.offset = map.floats();
      const Floats wanted = winograd_sum(kernels, conv, map, elsewhere, 1, images);
      for (int threads : {1, 2, 5})
        CHECK(same_bits(winograd_sum(kernels, conv, map, map, threads, images), wanted),
              "%s %dx%d, %dx%dx%dx%d, %d threads", kernels->isa, tile.h, tile.w, map.n, map.h, map.w, map.c, threads);
    }
}

void test_what_cannot_follow_is_refused(const Kernels* kernels) {
  const Tensor map{0, 1, 9, 9, 16}, half{4096, 1, 5, 5, 16}, large{8192, 1, 9, 10, 16}, deep{12288, 1, 9, 9, 32};
  const auto conv = [kernels](int kernel) {
    const Floats weights = random_floats(kernel * kernel * 16 * 16);
    return pack_conv(kernels, kernel, kernel, 16, 16, false, weights.data(), nullptr, Doubles(16).data());
  };
  const auto to = [](const Tensor& t) {
    Outputs o;
    o.out = t;
    return o;
  };
  const auto head = [&](Plan& plan) {
    plan.load(1, 9, 9, 16, to(map));
    plan.conv(conv(1), map, 1, 1, Shortcut(), to(map));
  };
  const auto follow = [&](Plan& plan, int kernel, int stride, const Tensor& in, const Tensor& out) {
    plan.conv(conv(kernel), in, stride, 1, Shortcut(), to(out), true);
  };
  const auto alone = [&](int kernel, const Tensor& out) {
    Plan(kernels, 2, 1 << 16).conv(conv(kernel), map, 2, 1, Shortcut(), to(out));
  };
  CHECK(!throws([&] { alone(1, half), alone(3, half); }), "the output is of the input's size over the stride");
  CHECK(throws([&] { alone(1, map); }) && throws([&] { alone(3, large); }), "and of no other");
  constexpr int64_t kArena = 1 << 16;
  Plan empty(kernels, 2, kArena), pooled(kernels, 2, kArena), loaded(kernels, 2, kArena), wino(kernels, 2, kArena);
  CHECK(throws([&] { follow(empty, 1, 1, map, map); }), "the first step follows nothing");
  loaded.load(1, 9, 9, 16, to(map));
  CHECK(throws([&] { follow(loaded, 1, 1, map, map); }), "a load is no convolution");
  head(pooled);
  pooled.max_pool(map, 3, 1, 1, 1, false, to(map));
  CHECK(throws([&] { follow(pooled, 1, 1, map, map); }), "a pool is no convolution, and what was before it is gone");
  head(wino);
  const Floats nine = random_floats(9 * 16 * 16);
  wino.winograd(pack_winograd(kernels, {4, 4}, 16, 16, nine.data(), nullptr, Doubles(16).data()), map, Shortcut(),
                to(map));
  CHECK(throws([&] { follow(wino, 1, 1, map, map); }), "Winograd's method has no blocks of pixels");

  Plan plan(kernels, 2, kArena);
  head(plan);
  const int steps = plan.steps();
  CHECK(throws([&] { follow(plan, 3, 1, map, map); }), "a 3x3 convolution needs pixels of other blocks");
  CHECK(throws([&] { follow(plan, 1, 2, map, map); }) && throws([&] { follow(plan, 1, 1, map, half); }), "strides");
  CHECK(throws([&] { follow(plan, 1, 1, half, half); }), "fewer pixels");
  CHECK(throws([&] { follow(plan, 1, 1, large, large); }), "more pixels");
  CHECK(throws([&] { follow(plan, 1, 1, deep, map); }) && throws([&] { follow(plan, 1, 1, map, deep); }), "depths");
  CHECK(plan.steps() == steps, "what was refused is no step");
  follow(plan, 1, 1, map, map);
  follow(plan, 1, 2, map, half);
  CHECK(plan.steps() == steps, "what follows is part of a step");
  CHECK(throws([&] { follow(plan, 1, 1, half, half); }), "other pixels than those of the chain's first one");
}

}  // namespace
}  // namespace resforward

int main() {
  using namespace resforward;
  for (const Kernels* kernels : supported_kernels()) {
    test_a_chain_gives_what_separate_steps_give(kernels);
    test_a_chained_plan_has_the_same_bits_on_any_number_of_threads_and_in_any_batch(kernels);
    test_a_winograd_sum_may_take_the_place_of_its_shortcut(kernels);
    test_what_cannot_follow_is_refused(kernels);
  }
  return report();
}
