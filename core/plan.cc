#include "plan.h"

#include <algorithm>
#include <chrono>
#include <new>
#include <stdexcept>
#include <utility>

#include "conv_step.h"
#include "root_step.h"
#include "steps.h"
#include "threads.h"
#include "winograd_steps.h"

namespace resforward {

Plan::Plan(const Kernels* kernels, int threads, int64_t arena_floats)
    : kernels_(kernels), threads_(threads), arena_floats_(arena_floats) {
  if (threads < 1) throw std::invalid_argument("a plan needs at least one thread");
}

void Plan::add(std::unique_ptr<Step> step, bool another_part) {
  chain_ = nullptr;
  scratch_ = std::max(scratch_, step->scratch());
  shared_ = std::max(shared_, step->shared());
  step_of_part_.push_back(another_part ? step_of_part_.back() : steps());
  parts_.push_back(std::move(step));
}

void Plan::load(int n, int h, int w, int c, const Outputs& outputs) {
  image_floats_ = int64_t(n) * h * w * c;
  add(std::make_unique<LoadStep>(kernels_, n, h, w, c, outputs));
}

void Plan::load_rows(int n, int h, int w, int c, int margin, int64_t offset, const std::vector<double>& scale,
                     const std::vector<double>& shift) {
  image_floats_ = int64_t(n) * h * w * c;
  add(std::make_unique<LoadRowsStep>(kernels_, n, h, w, c, margin, offset, scale, shift));
}

void Plan::conv(std::shared_ptr<const PackedConv> conv, const Tensor& in, int stride, int rate,
                const Shortcut& shortcut, const Outputs& outputs, bool follows) {
  ConvArgs shape;
  shape.planes = in.planes();
  shape.in_h = in.h, shape.in_w = in.w;
  shape.taps_h = conv->kernel_h, shape.taps_w = conv->kernel_w;
  shape.stride = stride, shape.rate = rate, shape.pad = rate * (conv->kernel_h / 2);
  shape.n = in.n;
  const Tensor& out = outputs.geometry();
  if (conv->planes_in() != in.planes() || conv->planes_out() != out.planes())
    throw std::invalid_argument("the weights are of other depths than the tensors");
  if (out.n != in.n || out.h != ceil_div(in.h, stride) || out.w != ceil_div(in.w, stride))
    throw std::invalid_argument("the output is not of the input's size over the stride");
  add(ConvLink(std::move(conv), shape, in, shortcut, outputs), follows);
}

void Plan::winograd(std::shared_ptr<const PackedWinograd> conv, const Tensor& in, const Shortcut& shortcut,
                    const Outputs& outputs) {
  const Tensor& out = outputs.geometry();
  if (conv->planes_in() != in.planes() || conv->planes_out() != out.planes())
    throw std::invalid_argument("the weights are of other depths than the tensors");
  const int stride = conv->tile.stride;
  if (out.n != in.n || out.h != ceil_div(in.h, stride) || out.w != ceil_div(in.w, stride))
    throw std::invalid_argument("the output is not of the input's size over the stride");
  bool another_part = false;
  for (std::unique_ptr<Step>& part : winograd_steps(std::move(conv), in, shortcut, outputs, threads_)) {
    add(std::move(part), another_part);
    another_part = true;
  }
}

void Plan::conv_rows(std::shared_ptr<const PackedConv> conv, int64_t offset, int n, int h, int w, int stride,
                     int margin, const Outputs& outputs) {
  ConvArgs shape;
  shape.lanes = conv->lanes();
  shape.in_h = h + 2 * margin, shape.in_w = w + 2 * margin;
  shape.in_pixel = conv->depth_in;
  shape.taps_h = conv->kernel_h;
  shape.stride = stride;
  shape.n = n;
  add(ConvLink(std::move(conv), shape, Tensor{offset, n, h, w, shape.in_pixel}, Shortcut(), outputs), false);
}

void Plan::add(ConvLink link, bool follows) {
  if (follows) {
    if (!chain_) throw std::invalid_argument("no convolution to follow");
    chain_->follow(std::move(link));
    scratch_ = std::max(scratch_, chain_->scratch());
  } else {
    auto step = std::make_unique<ConvStep>(std::move(link), threads_);
    ConvStep* const first = step.get();
    add(std::move(step));
    chain_ = first;
  }
}

void Plan::max_pool(const Tensor& in, int kernel, int stride, int pad_y, int pad_x, bool zero_fill,
                    const Outputs& outputs, bool follows) {
  const auto kind = zero_fill ? PoolStep::Kind::kMaxOverZeros : PoolStep::Kind::kMax;
  auto pool = std::make_unique<PoolStep>(kernels_, kind, in, kernel, stride, pad_y, pad_x, outputs);
  if (!follows) return add(std::move(pool));
  if (!chain_) throw std::invalid_argument("no convolution to follow");
  auto both = std::make_unique<RootStep>(std::move(chain_->alone()), std::move(*pool), threads_);
  parts_.pop_back(), step_of_part_.pop_back();
  add(std::move(both));
}

void Plan::avg_pool(const Tensor& in, int kernel, int stride, const Outputs& outputs) {
  add(std::make_unique<PoolStep>(kernels_, PoolStep::Kind::kAverage, in, kernel, stride, 0, 0, outputs));
}

void Plan::group_norm(const Tensor& in, int groups, const std::vector<double>& gamma, const std::vector<double>& beta,
                      double epsilon, const Tensor& out) {
  if (groups < 1 || in.c % groups) throw std::invalid_argument("groups must divide the channels");
  if (gamma.size() != size_t(in.c) || beta.size() != size_t(in.c))
    throw std::invalid_argument("one gamma and one beta for each channel");
  add(std::make_unique<GroupNormStep>(kernels_, in, groups, gamma, beta, epsilon, out));
}

void Plan::mean(const Tensor& in, const Tensor& out) { add(std::make_unique<MeanStep>(kernels_, in, out)); }

void Plan::store(const Tensor& in, int output, bool softmax) {
  output_floats_.resize(std::max<size_t>(output_floats_.size(), output + 1));
  output_floats_[output] = in.pixels() * in.c;
  add(std::make_unique<StoreStep>(kernels_, in, output, softmax));
}

// Both sides only try the lock: a thread that fork() left behind may hold it for ever, and an arena is soon made.
Buffer Plan::take_arena() const {
  {
    const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    if (lock && !idle_arenas_.empty()) {
      Buffer arena = std::move(idle_arenas_.back());
      idle_arenas_.pop_back();
      return arena;
    }
  }
  // What steps share and every thread's scratch lie behind the tensors.
  return Buffer(size_t(arena_floats_) + shared_floats() + threads_ * scratch_floats());
}

void Plan::give_back(Buffer arena) const {
  const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
  if (lock) idle_arenas_.push_back(std::move(arena));
}

namespace {

using Clock = std::chrono::steady_clock;

// Items [begin, end) of one step that a member takes before it helps the others.
struct alignas(64) Share {
  std::atomic<int64_t> next{0};
  int64_t end = 0;
};

}  // namespace

// Each member begins with the same part of every step: what it reads lies in its own cache, where it wrote it.
bool Plan::run(const float* images, float* const* outputs, double* seconds) const {
  Buffer arena;
  bool exhausted = false;
  if (seconds) std::fill_n(seconds, steps(), 0.0);
  Run run{nullptr, nullptr, images, outputs};
  std::vector<Share> shares(parts_.size() * threads_);
  for (size_t s = 0; s < shares.size(); ++s) {
    const int64_t items = parts_[s / threads_]->items(), member = int64_t(s) % threads_;
    shares[s].next = items * member / threads_;
    shares[s].end = items * (member + 1) / threads_;
  }
  run_team(threads_, [&](int member, Barrier& barrier) {
    // Not before the team's turn has come: callers that wait for it need no arena.
    if (member == 0) {
      try {
        arena = take_arena();
        run.arena = arena.data();
        run.shared = run.arena + arena_floats_;
      } catch (const std::bad_alloc&) {
        exhausted = true;
      }
    }
    barrier.wait();
    if (exhausted) return;
    void* scratch = run.shared + shared_floats() + member * scratch_floats();
    auto start = Clock::now();
    for (size_t s = 0; s < parts_.size(); ++s) {
      for (int i = 0; i < threads_; ++i) {
        Share& share = shares[s * threads_ + (member + i) % threads_];
        // Looking first: that an exhausted share is exhausted, all members can know at once.
        while (share.next.load(std::memory_order_relaxed) < share.end) {
          const int64_t item = share.next.fetch_add(1, std::memory_order_relaxed);
          if (item < share.end) parts_[s]->run(run, item, scratch);
        }
      }
      barrier.wait();
      if (member == 0 && seconds) {
        const auto now = Clock::now();
        seconds[step_of_part_[s]] += std::chrono::duration<double>(now - start).count();
        start = now;
      }
      if (!run.finite.load(std::memory_order_relaxed)) break;  // the same for all: only the first step clears it
    }
    if (member == 0) give_back(std::move(arena));
  });
  if (exhausted) throw std::bad_alloc();
  return run.finite;
}

}  // namespace resforward
