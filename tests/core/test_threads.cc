// The team of threads, and plans run by it: laws that hold for any number of threads and any number of callers.

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <thread>
#include <vector>
#if defined(__SSE__)
#include <xmmintrin.h>
#endif

#include "check.h"
#include "isa.h"
#include "plan.h"
#include "threads.h"

namespace resforward {
namespace {

// The sum of the members' numbers by a team of `threads`, 0 when a member was missing, doubled or out of step.
int64_t sum_of_members(int threads) {
  constexpr int kRounds = 3;
  std::vector<int64_t> squares(threads);
  std::vector<std::atomic<int>> calls(threads);
  std::atomic<bool> wrong{false};
  const std::thread::id caller = std::this_thread::get_id();
  run_team(threads, [&](int member, Barrier& barrier) {
    calls[member].fetch_add(1);
    if ((member == 0) != (std::this_thread::get_id() == caller)) wrong = true;
    for (int round = 0; round < kRounds; ++round) {
      squares[member] = int64_t(round) * member;  // not atomic: the barrier orders it
      barrier.wait();
      for (int other = 0; other < threads; ++other)
        if (squares[other] != int64_t(round) * other) wrong = true;
      barrier.wait();
    }
  });
  int64_t sum = 0;
  for (int member = 0; member < threads; ++member) {
    if (calls[member] != 1) wrong = true;
    sum += squares[member] / (kRounds - 1);
  }
  return wrong ? -1 : sum;
}

bool team_works(int threads) { return sum_of_members(threads) == int64_t(threads) * (threads - 1) / 2; }

void test_every_size_of_team() {
  for (int threads = 1; threads <= 40; ++threads) CHECK(team_works(threads), "%d threads", threads);
}

void test_many_runs_of_changing_size() {
  std::mt19937 rng(1);
  for (int run = 0; run < 2000; ++run) {
    const int threads = run % 10 ? 1 + int(rng() % 4) : 1 + int(rng() % 16);
    CHECK(team_works(threads), "run %d with %d threads", run, threads);
  }
}

void test_callers_from_many_threads() {
  std::atomic<int> wrong{0};
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 8; ++caller)
    callers.emplace_back([&wrong, caller] {
      for (int run = 0; run < 60; ++run) wrong += !team_works(1 + (run + caller) % 5);
    });
  for (std::thread& caller : callers) caller.join();
  CHECK(wrong == 0, "%d runs", wrong.load());
}

// 0 when `work` in a forked child returned true, within a minute.
template <class Work>
int in_child(Work work) {
  const pid_t pid = fork();
  if (pid == 0) {
    alarm(60);
    _exit(work() ? 0 : 1);
  }
  int status = -1;
  waitpid(pid, &status, 0);
  return status;
}

void test_a_forked_child_has_a_team() {
  CHECK(team_works(4), "before the fork");
  CHECK(in_child([] { return team_works(3) && team_works(8) && in_child([] { return team_works(2); }) == 0; }) == 0,
        "child and grandchild");
  CHECK(team_works(4), "after the fork");
}

void test_a_child_forked_while_the_team_runs_has_a_team() {
  std::atomic<bool> stop{false};
  std::thread busy([&stop] {
    while (!stop) team_works(3);
  });
  for (int i = 0; i < 20; ++i) CHECK(in_child([] { return team_works(2 + 1); }) == 0, "child %d", i);
  stop = true;
  busy.join();
}

#if defined(__SSE__)
void test_members_flush_denormals_and_the_caller_s_mode_comes_back() {
  const unsigned before = _mm_getcsr();
  for (unsigned mode : {0x1f80u, 0x3f80u, 0x9fc0u, 0x1fa0u}) {  // default; rounding down; flushing; a sticky flag
    _mm_setcsr(mode);
    for (int threads : {1, 2, 5}) {
      std::vector<unsigned> seen(threads);
      run_team(threads, [&](int member, Barrier&) {
        volatile float tiny = 1e-30f;
        volatile float product = tiny * 1e-10f;  // 1e-40: a denormal
        seen[member] = (_mm_getcsr() & 0x8040u) == 0x8040u && product == 0.0f;
      });
      CHECK(_mm_getcsr() == mode, "mode %x, %d threads", mode, threads);
      for (int member = 0; member < threads; ++member) CHECK(seen[member], "member %d of %d", member, threads);
    }
  }
  _mm_setcsr(before);
}
#endif

// A root block, a chain, a strided unit with its shortcut and a head, so that every kind of step is in it.
class Net {
 public:
  static constexpr int kImages = 2, kSize = 13, kChannels = 3, kClasses = 11;

  Net(const Kernels* kernels, int threads) : plan_(kernels, threads, kArena) {
    std::mt19937 rng(7);
    std::normal_distribution<float> normal;
    const std::vector<double> bias(40, 0.1);
    const auto random_weights = [&](int kernel, int in, int out) {
      std::vector<float> weights(kernel * kernel * in * out);
      for (float& w : weights) w = normal(rng) / std::sqrt(float(kernel * kernel * in));
      return weights;
    };
    const auto conv = [&](int kernel, int in, int out, bool interleaved) {
      return pack_conv(kernels, kernel, kernel, in, out, interleaved, random_weights(kernel, in, out).data(), nullptr,
                       bias.data());
    };
    int64_t end = 0;
    const auto tensor = [&end](int size, int c) {
      const Tensor t{end, kImages, size, size, c};
      end += t.floats();
      return t;
    };
    const int64_t rows = end;
    end += (kImages * (kSize + 6) * (kSize + 6) * kChannels + 15) / 16 * 16 + 16;
    const Tensor root = tensor(7, 20), pool = tensor(4, 20), preact = tensor(4, 20), mixed = tensor(4, 20),
                 smooth = tensor(4, 20), hidden = tensor(2, 40), shortcut = tensor(4, 33), sum = tensor(2, 33),
                 mean = tensor(1, 33), logits = tensor(1, kClasses);
    const auto outputs = [](const Tensor& out, bool relu) {
      Outputs o;
      o.out = out, o.relu = relu;
      return o;
    };
    plan_.load_rows(kImages, kSize, kSize, kChannels, 3, rows);
    plan_.conv_rows(conv(7, kChannels, 20, true), rows, kImages, kSize, kSize, 2, 3, outputs(root, true));
    Outputs pooled = outputs(pool, false);
    pooled.preact = preact, pooled.scale.assign(20, 0.5), pooled.shift.assign(20, -0.1);
    plan_.max_pool(root, 3, 2, 1, 1, false, pooled);
    // A chain, its middle in a slot; then Winograd's method, in one step on few threads and in three on more.
    Outputs projected = outputs(shortcut, false);
    projected.preact = Tensor{-1, kImages, 4, 4, 33, 0};
    projected.scale.assign(33, 0.5), projected.shift.assign(33, 0.1);
    plan_.conv(conv(1, 20, 33, false), preact, 1, 1, Shortcut(), projected);
    plan_.conv(conv(1, 33, 20, false), projected.preact, 1, 1, Shortcut(), outputs(mixed, true), true);
    plan_.winograd(pack_winograd(kernels, {1, 1}, 20, 20, random_weights(3, 20, 20).data(), nullptr, bias.data()),
                   mixed, Shortcut{pool, 1}, outputs(smooth, true));
    plan_.conv(conv(3, 20, 40, false), smooth, 2, 1, Shortcut(), outputs(hidden, true));
    plan_.conv(conv(1, 40, 33, false), hidden, 1, 1, Shortcut{shortcut, 2}, outputs(sum, true));
    plan_.mean(sum, mean);
    plan_.conv(conv(1, 33, kClasses, false), mean, 1, 1, Shortcut(), outputs(logits, false));
    plan_.store(logits, 0, false);
    plan_.store(logits, 1, true);
  }

  // Logits, then probabilities; empty when the images were refused.
  std::vector<float> operator()(const std::vector<float>& images) const {
    std::vector<float> result(2 * kImages * kClasses);
    float* outputs[] = {result.data(), result.data() + kImages * kClasses};
    if (!plan_.run(images.data(), outputs)) return {};
    return result;
  }

  static std::vector<float> images(int seed) {
    std::mt19937 rng(seed);
    std::normal_distribution<float> normal;
    std::vector<float> values(kImages * kSize * kSize * kChannels);
    for (float& value : values) value = normal(rng);
    return values;
  }

 private:
  static constexpr int64_t kArena = 1 << 16;
  Plan plan_;
};

void test_a_plan_has_the_same_bits_for_any_number_of_threads(const Kernels* kernels) {
  const std::vector<float> expected = Net(kernels, 1)(Net::images(0));
  CHECK(!expected.empty() && std::isfinite(expected[0]), "%s", kernels->isa);
  for (int threads = 2; threads <= 40; ++threads) {  // more than there are processors, and than most steps have items
    const Net net(kernels, threads);
    for (int run = 0; run < (threads <= 8 ? 20 : 3); ++run)
      CHECK(net(Net::images(0)) == expected, "%s %d threads, run %d", kernels->isa, threads, run);
  }
}

void test_plans_serve_many_callers(const Kernels* kernels) {
  const Net alone(kernels, 1), two(kernels, 2), three(kernels, 3), many(kernels, 23);
  std::vector<std::vector<float>> expected;
  for (int seed = 0; seed < 8; ++seed) expected.push_back(two(Net::images(seed)));
  std::atomic<int> wrong{0};
  std::vector<std::thread> callers;
  for (int seed = 0; seed < 8; ++seed)
    callers.emplace_back([&, seed] {
      const std::vector<float> images = Net::images(seed);
      const Net* const nets[] = {&two, &alone, &two, &three, &many};
      for (int run = 0; run < 30; ++run) wrong += (*nets[(run + seed) % 5])(images) != expected[seed];
    });
  for (std::thread& caller : callers) caller.join();
  CHECK(wrong == 0, "%s: %d results differ", kernels->isa, wrong.load());
}

void test_a_refused_batch_leaves_the_plan_usable(const Kernels* kernels) {
  for (int threads : {1, 2, 5}) {
    const Net net(kernels, threads);
    const std::vector<float> good = Net::images(0), expected = net(good);
    for (size_t at : {size_t(0), good.size() / 2, good.size() - 1}) {
      std::vector<float> bad = good;
      bad[at] = std::numeric_limits<float>::infinity();
      CHECK(net(bad).empty(), "%s %d threads, value %zu", kernels->isa, threads, at);
      CHECK(net(good) == expected, "%s %d threads, after value %zu", kernels->isa, threads, at);
    }
  }
}

void test_a_child_forked_during_a_run_computes_the_same(const Kernels* kernels) {
  const Net net(kernels, 3);
  const std::vector<float> images = Net::images(0), expected = net(images);
  std::atomic<bool> stop{false};
  std::thread busy([&] {
    while (!stop) net(images);
  });
  for (int i = 0; i < 10; ++i)
    CHECK(in_child([&] { return net(images) == expected && net(images) == expected; }) == 0, "%s child %d",
          kernels->isa, i);
  stop = true;
  busy.join();
}

}  // namespace
}  // namespace resforward

// `test_threads no-fork` leaves out the tests that fork: qemu-user and
// ThreadSanitizer do not follow a fork of a process with threads.
int main(int argc, char** argv) {
  using namespace resforward;
  const bool forks = argc < 2 || std::strcmp(argv[1], "no-fork") != 0;
  test_every_size_of_team();
  test_many_runs_of_changing_size();
  test_callers_from_many_threads();
  if (forks) test_a_forked_child_has_a_team();
  if (forks) test_a_child_forked_while_the_team_runs_has_a_team();
#if defined(__SSE__)
  test_members_flush_denormals_and_the_caller_s_mode_comes_back();
#endif
  for (const Isa& isa : compiled_isas()) {
    if (!isa.supported) continue;
    test_a_plan_has_the_same_bits_for_any_number_of_threads(isa.kernels);
    test_plans_serve_many_callers(isa.kernels);
    test_a_refused_batch_leaves_the_plan_usable(isa.kernels);
    if (forks) test_a_child_forked_during_a_run_computes_the_same(isa.kernels);
  }
  return report();
}
