// The root block's convolution and max-pool in one step against the same as two: the same bits, and nothing else
// written.

#include <algorithm>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

#include "check.h"
#include "feature_map.h"
#include "root_step.h"

namespace resforward {
namespace {

struct Pool {
  int kernel, stride, pad;
  bool zero_fill;

  // The last window may hang over the edge: with a pad or, as TF's SAME, without one.
  int output(int in) const { return int(ceil_div(in, stride)); }
};

struct Root {
  int n, h, w, c, depth;  // images, channels of the convolution
  int kernel, stride;     // of the convolution
  Pool pool;
  bool relu;                        // of the convolution
  bool out = true, preact = false;  // outputs of the pool
};

constexpr int64_t kGap = 5 * kLanes;

// Weights of a case, and where its values lie in an arena of canaries.
struct Net {
  const Kernels* kernels;
  Root root;
  std::shared_ptr<const PackedConv> conv;
  Doubles scale, shift;
  Tensor map, out, preact;  // the convolution's, if it has a place, and the pool's
  int64_t rows = kGap, rows_floats, floats;

  Net(const Kernels* k, const Root& r) : kernels(k), root(r), scale(random_doubles(r.depth)), shift(scale) {
    const Floats weights = random_floats(size_t(r.kernel) * r.kernel * r.c * r.depth);
    conv =
        pack_conv(k, r.kernel, r.kernel, r.c, r.depth, true, weights.data(), nullptr, random_doubles(r.depth).data());
    rows_floats = ceil_div(int64_t(r.n) * (r.h + 2 * margin()) * (r.w + 2 * margin()) * r.c, kLanes) * kLanes;
    const int high = int(ceil_div(r.h, r.stride)), wide = int(ceil_div(r.w, r.stride));
    int64_t next = rows + rows_floats + kGap;
    const auto place = [&next, &r](int h, int w) {
      const Tensor t{next, r.n, h, w, r.depth};
      next += t.floats() + kGap;
      return t;
    };
    map = place(high, wide);
    out = place(r.pool.output(high), r.pool.output(wide)), preact = place(out.h, out.w);
    floats = next;
  }

  int margin() const { return root.kernel / 2; }
  Tensor map_of(bool together) const {
    Tensor t = map;
    if (together) t.offset = -1, t.slot = 0;
    return t;
  }
  Outputs conv_outputs(bool together) const {
    Outputs o;
    o.out = map_of(together), o.relu = root.relu;
    return o;
  }
  Outputs pool_outputs() const {
    Outputs o;
    if (root.out) o.out = out;
    if (root.preact) o.preact = preact, o.scale = scale, o.shift = shift;
    return o;
  }
  ConvLink link(bool together) const {
    ConvArgs a;
    a.lanes = conv->lanes();
    a.in_h = root.h + 2 * margin(), a.in_w = root.w + 2 * margin(), a.in_pixel = root.c;
    a.taps_h = root.kernel, a.stride = root.stride, a.n = root.n;
    return ConvLink(conv, a, Tensor{rows, root.n, root.h, root.w, root.c}, Shortcut(), conv_outputs(together));
  }
  PoolStep pool(bool together) const {
    const Pool& p = root.pool;
    return PoolStep(kernels, p.zero_fill ? PoolStep::Kind::kMaxOverZeros : PoolStep::Kind::kMax, map_of(together),
                    p.kernel, p.stride, p.pad, p.pad, pool_outputs());
  }
  std::vector<std::unique_ptr<Step>> steps(int threads, bool together) const {
    std::vector<std::unique_ptr<Step>> steps;
    if (together) {
      steps.push_back(std::make_unique<RootStep>(link(true), pool(true), threads));
    } else {
      steps.push_back(std::make_unique<ConvStep>(link(false), threads));
      steps.push_back(std::make_unique<PoolStep>(pool(false)));
    }
    return steps;
  }
  void add_to(Plan& plan, bool together) const {
    const Pool& p = root.pool;
    plan.load_rows(root.n, root.h, root.w, root.c, margin(), rows);
    plan.conv_rows(conv, rows, root.n, root.h, root.w, root.stride, margin(), conv_outputs(together));
    plan.max_pool(map_of(together), p.kernel, p.stride, p.pad, p.pad, p.zero_fill, pool_outputs(), together);
  }
};

void run_steps(const std::vector<std::unique_ptr<Step>>& steps, Floats& arena, int threads) {
  Run run{arena.data(), nullptr, nullptr, nullptr};
  for (const std::unique_ptr<Step>& step : steps) {
    std::vector<int64_t> items(step->items());
    for (size_t i = 0; i < items.size(); ++i) items[i] = int64_t(i);
    std::shuffle(items.begin(), items.end(), rng);
    std::vector<Floats> scratch(threads, Floats(step->scratch() / sizeof(float) + kLanes, kCanary));
    for (int64_t item : items) step->run(run, item, scratch[random_int(0, threads - 1)].data());
    for (const Floats& s : scratch)
      CHECK(std::all_of(s.end() - kLanes, s.end(), [](float x) { return x == kCanary; }), "behind the scratch");
  }
}

void check_case(const Kernels* kernels, const Root& root) {
  const Net net(kernels, root);
  Floats arena(net.floats, kCanary);
  const Floats rows = random_floats(net.rows_floats);
  std::copy(rows.begin(), rows.end(), arena.begin() + net.rows);
  Floats wanted = arena;
  run_steps(net.steps(1, false), wanted, 1);
  std::copy_n(arena.begin() + net.map.offset, net.map.floats(), wanted.begin() + net.map.offset);  // has no place
  for (int threads : {1, 2, 3, 40}) {
    Floats found = arena;
    run_steps(net.steps(threads, true), found, threads);
    int64_t other = 0;
    for (int64_t i = 0; i < net.floats; ++i) other += std::memcmp(&found[i], &wanted[i], sizeof(float)) != 0;
    CHECK(other == 0, "%s: %dx%dx%dx%d, conv %d/%d to %d, pool %d/%d pad %d fill %d, %d threads: %d values",
          kernels->isa, root.n, root.h, root.w, root.c, root.kernel, root.stride, root.depth, root.pool.kernel,
          root.pool.stride, root.pool.pad, root.pool.zero_fill, threads, int(other));
  }
}

void test_one_step_gives_what_two_give(const Kernels* kernels) {
  const std::vector<Pool> pools = {{3, 2, 0, false}, {3, 2, 1, false}, {3, 2, 1, true},
                                   {2, 2, 0, false}, {3, 1, 1, false}, {1, 3, 0, false}};
  for (const Pool& pool : pools) {
    for (const Root& size : {Root{1, 1, 1, 3, 16, 7, 2, pool, true},
                             {3, 1, 9, 3, 17, 7, 2, pool, true},
                             {2, 2, 2, 1, 8, 3, 1, pool, false},
                             {1, 15, 13, 3, 40, 7, 2, pool, true},
                             {3, 22, 37, 4, 64, 7, 2, pool, false},
                             {2, 31, 18, 3, 33, 3, 1, pool, true}})
      for (int outputs : {1, 2, 3}) {
        Root root = size;
        root.out = outputs & 1, root.preact = outputs & 2;
        check_case(kernels, root);
      }
  }
  // So wide that the bytes of its map decide how many rows an item has: many, and one.
  check_case(kernels, {1, 61, 230, 3, 64, 7, 2, pools[0], true});
  check_case(kernels, {1, 9, 3000, 3, 64, 7, 2, pools[1], false});
}

// What a plan makes of images, several times.
std::vector<Floats> run_plan(const Net& net, int threads, bool together, const Floats& images) {
  Plan plan(net.kernels, threads, net.floats);
  net.add_to(plan, together);
  CHECK(plan.steps() == (together ? 2 : 3), "%d steps", plan.steps());
  plan.store(net.out, 0, false);
  plan.store(net.preact, 1, false);
  std::vector<Floats> answer(2, Floats(net.out.pixels() * net.out.c)), first;
  float* const outputs[] = {answer[0].data(), answer[1].data()};
  for (int run = 0; run < 3; ++run) {
    CHECK(plan.run(images.data(), outputs), "%s: refused", net.kernels->isa);
    if (run == 0) first = answer;
    CHECK(answer == first, "%s, %d threads: another answer", net.kernels->isa, threads);
  }
  return answer;
}

void test_a_plan_has_the_same_bits_on_any_number_of_threads_and_in_any_batch(const Kernels* kernels) {
  for (const Pool& pool : {Pool{3, 2, 0, false}, Pool{3, 2, 1, false}, Pool{3, 2, 1, true}}) {
    const Root root{3, 37, 26, 3, 24, 7, 2, pool, false, true, true};
    Root one = root;
    one.n = 1;
    const Net net(kernels, root);
    Net alone(kernels, one);
    alone.conv = net.conv, alone.scale = net.scale, alone.shift = net.shift;
    const int64_t image = int64_t(root.h) * root.w * root.c;
    const Floats images = random_floats(root.n * image);
    const std::vector<Floats> wanted = run_plan(net, 1, false, images);
    for (int threads : {1, 2, 5, 16})
      CHECK(run_plan(net, threads, true, images) == wanted, "%s, %d threads", kernels->isa, threads);
    for (int n = 0; n < root.n; ++n) {
      const std::vector<Floats> own =
          run_plan(alone, 1 + n, true, Floats(images.begin() + n * image, images.begin() + (n + 1) * image));
      for (size_t i = 0; i < own.size(); ++i)
        CHECK(std::equal(own[i].begin(), own[i].end(), wanted[i].begin() + n * int64_t(own[i].size())), "%s, image %d",
              kernels->isa, n);
    }
  }
}

void test_what_cannot_be_pooled_at_once_is_refused(const Kernels* kernels) {
  const Tensor image{0, 1, 9, 9, 16}, slot{-1, 1, 9, 9, 16, 0}, next{4096, 1, 5, 5, 16};
  const Floats weights = random_floats(16 * 16);
  const auto conv = pack_conv(kernels, 1, 1, 16, 16, false, weights.data(), nullptr, Doubles(16).data());
  const auto to = [](const Tensor& out) {
    Outputs o;
    o.out = out;
    return o;
  };
  const auto pool = [&](Plan& plan, const Tensor& in) { plan.max_pool(in, 3, 2, 1, 1, false, to(next), true); };
  // A plan that goes on after what it refused.
  const auto refuses = [&](const Tensor& in, const Shortcut& shortcut, const Outputs& outputs, bool chain = false) {
    Plan plan(kernels, 2, 1 << 16);
    plan.load(1, 9, 9, 16, to(image));
    plan.conv(conv, image, 1, 1, shortcut, outputs);
    if (chain) plan.conv(conv, outputs.geometry(), 1, 1, Shortcut(), to(image), true);
    const int steps = plan.steps();
    const bool refused = throws([&] { pool(plan, in); });
    if (!refused) return false;
    CHECK(plan.steps() == steps, "what was refused is no step");
    Floats images = random_floats(image.pixels() * image.c), output(image.pixels() * image.c);
    float* const outs[] = {output.data()};
    plan.store(image, 0, false);
    CHECK(plan.run(images.data(), outs), "a plan goes on after what it refused");
    return true;
  };
  CHECK(!refuses(slot, Shortcut(), to(slot)), "it has nothing but what the pool reads");
  Outputs both = to(image), preact;
  both.linear = {8192, 1, 9, 9, 16};
  CHECK(refuses(image, Shortcut(), both), "two outputs");
  preact = to(image);
  preact.preact = both.linear, preact.scale = preact.shift = Doubles(16);
  CHECK(refuses(image, Shortcut(), preact), "a norm");
  CHECK(refuses(image, {image, 1}, to(image)), "a shortcut");
  for (const Tensor& other :
       {Tensor{-1, 2, 9, 9, 16, 0}, {-1, 1, 8, 9, 16, 0}, {-1, 1, 9, 8, 16, 0}, {-1, 1, 9, 9, 32, 0}})
    CHECK(refuses(other, Shortcut(), to(image)), "another map");
  CHECK(refuses(image, Shortcut(), to(image), true), "a chain");

  Plan empty(kernels, 2, 1 << 16), loaded(kernels, 2, 1 << 16);
  CHECK(throws([&] { pool(empty, slot); }), "no step to follow");
  loaded.load(1, 9, 9, 16, to(image));
  CHECK(throws([&] { pool(loaded, image); }), "a load is no convolution");

  Plan pooled(kernels, 2, 1 << 16);
  pooled.load(1, 9, 9, 16, to(image));
  pooled.conv(conv, image, 1, 1, Shortcut(), to(slot));
  pool(pooled, slot);
  CHECK(throws([&] { pooled.conv(conv, next, 1, 1, Shortcut(), to(next), true); }), "nothing follows a pool");
}

}  // namespace
}  // namespace resforward

int main() {
  using namespace resforward;
  for (const Kernels* kernels : supported_kernels()) {
    test_one_step_gives_what_two_give(kernels);
    test_a_plan_has_the_same_bits_on_any_number_of_threads_and_in_any_batch(kernels);
    test_what_cannot_be_pooled_at_once_is_refused(kernels);
  }
  return report();
}
