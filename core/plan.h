// A plan: steps in order over one arena, run by a team of threads; tensors and scratch are allocated once.
//
// A step splits its work into items that any thread may do in any order: every output value is computed by one item
// alone, in an order of sums that depends on nothing but the layer's shape. So the bits of a result do not depend on
// the number of threads, nor on the batch.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <vector>

#include "kernels.h"
#include "layout.h"
#include "memory.h"
#include "pack.h"
#include "winograd.h"

namespace resforward {

// What one run works with.
struct Run {
  float* arena;
  float* shared;  // between the steps of one convolution
  const float* images;
  float* const* outputs;
  std::atomic<bool> finite{true};
  float* at(const Tensor& t) const { return t.in_arena() ? arena + t.offset : nullptr; }
};

class Step {
 public:
  virtual ~Step() = default;
  virtual int64_t items() const = 0;
  virtual void run(Run& run, int64_t item, void* scratch) const = 0;
  virtual size_t scratch() const { return 0; }  // bytes that each thread needs
  virtual size_t shared() const { return 0; }   // and that all need together
};

// Outputs of a step that may have several; which of them are wanted is decided when the plan is made.
struct Outputs {
  Tensor linear, out, preact;
  std::vector<double> scale, shift;  // of preact
  bool relu = false;                 // of out

  const Tensor& geometry() const { return out ? out : preact ? preact : linear; }
};

struct Shortcut {
  Tensor tensor;
  int stride = 1;
};

class ConvStep;
struct ConvLink;

class Plan {
 public:
  Plan(const Kernels* kernels, int threads, int64_t arena_floats);

  // NHWC images into planes, or into rows with a margin of zeros (offset in the arena) for an interleaved convolution.
  void load(int n, int h, int w, int c, const Outputs& outputs);
  void load_rows(int n, int h, int w, int c, int margin, int64_t offset, const std::vector<double>& scale = {},
                 const std::vector<double>& shift = {});
  // Where it `follows`, a 1x1 convolution is computed together with the step before, for a block of pixels at a time.
  void conv(std::shared_ptr<const PackedConv> conv, const Tensor& in, int stride, int rate, const Shortcut& shortcut,
            const Outputs& outputs, bool follows = false);
  // A 3x3 convolution of rate 1.
  void winograd(std::shared_ptr<const PackedWinograd> conv, const Tensor& in, const Shortcut& shortcut,
                const Outputs& outputs);
  void conv_rows(std::shared_ptr<const PackedConv> conv, int64_t offset, int n, int h, int w, int stride, int margin,
                 const Outputs& outputs);
  // Where it `follows`, the convolution before it writes nothing but `in`, which nobody else reads and which has no
  // place: both are computed together, some rows at a time.
  void max_pool(const Tensor& in, int kernel, int stride, int pad_y, int pad_x, bool zero_fill, const Outputs& outputs,
                bool follows = false);
  // Without padding; a last window may lie half outside.
  void avg_pool(const Tensor& in, int kernel, int stride, const Outputs& outputs);
  // And ReLU.
  void group_norm(const Tensor& in, int groups, const std::vector<double>& gamma, const std::vector<double>& beta,
                  double epsilon, const Tensor& out);
  void mean(const Tensor& in, const Tensor& out);
  void store(const Tensor& in, int output, bool softmax);

  // False, with the outputs undefined, when an image holds a value that is NaN or infinite.
  // `seconds`, where given, receives the time of every step.
  bool run(const float* images, float* const* outputs, double* seconds = nullptr) const;

  int64_t arena_floats() const { return arena_floats_; }
  int64_t image_floats() const { return image_floats_; }                        // that `run` reads
  const std::vector<int64_t>& output_floats() const { return output_floats_; }  // that it writes, by output
  int steps() const { return step_of_part_.empty() ? 0 : step_of_part_.back() + 1; }

 private:
  void add(std::unique_ptr<Step> step, bool another_part = false);
  void add(ConvLink link, bool follows);
  Buffer take_arena() const;
  void give_back(Buffer arena) const;
  // Of one thread and of all, whole cache lines.
  size_t scratch_floats() const { return (scratch_ + 63) / 64 * 16; }
  size_t shared_floats() const { return (shared_ + 63) / 64 * 16; }

  const Kernels* kernels_;
  int threads_;
  int64_t arena_floats_, image_floats_ = 0;
  std::vector<int64_t> output_floats_;
  size_t scratch_ = 0, shared_ = 0;           // bytes
  std::vector<std::unique_ptr<Step>> parts_;  // of the steps: some come in several, with all threads waiting between
  std::vector<int> step_of_part_;
  ConvStep* chain_ = nullptr;  // the last step, if a convolution may follow it
  mutable std::mutex mutex_;
  mutable std::vector<Buffer> idle_arenas_;
};

}  // namespace resforward
