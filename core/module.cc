// Python bindings: names and shapes only, no logic.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <chrono>
#include <stdexcept>

#include "isa.h"
#include "plan.h"
#include "threads.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace resforward {
namespace {

using Images = nb::ndarray<const float, nb::ndim<4>, nb::c_contig, nb::device::cpu>;
using Weights = nb::ndarray<const float, nb::ndim<4>, nb::c_contig, nb::device::cpu>;
using Vector = nb::ndarray<const double, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Seconds = nb::ndarray<double, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Output = nb::ndarray<float, nb::ndim<4>, nb::c_contig, nb::device::cpu>;

const Kernels* kernels_of(const std::string& isa) {
  const Kernels* kernels = find_kernels(isa);
  if (!kernels) throw std::invalid_argument("instruction set " + isa + " is not available");
  return kernels;
}

std::shared_ptr<const PackedConv> make_conv(const std::string& isa, Weights weights, std::optional<Vector> scale,
                                            Vector bias, bool interleaved) {
  const int h = int(weights.shape(0)), w = int(weights.shape(1)), in = int(weights.shape(2)),
            out = int(weights.shape(3));
  if (bias.shape(0) != size_t(out) || (scale && scale->shape(0) != size_t(out)))
    throw std::invalid_argument("one scale and one bias for each output channel");
  const Kernels* kernels = kernels_of(isa);
  const nb::gil_scoped_release release;
  return pack_conv(kernels, h, w, in, out, interleaved, weights.data(), scale ? scale->data() : nullptr, bias.data());
}

std::shared_ptr<const PackedWinograd> make_winograd(const std::string& isa, Weights weights,
                                                    std::optional<Vector> scale, Vector bias, std::pair<int, int> tile,
                                                    int stride) {
  const int in = int(weights.shape(2)), out = int(weights.shape(3));
  if (weights.shape(0) != 3 || weights.shape(1) != 3) throw std::invalid_argument("not a kernel of 3x3");
  if (bias.shape(0) != size_t(out) || (scale && scale->shape(0) != size_t(out)))
    throw std::invalid_argument("one scale and one bias for each output channel");
  const Kernels* kernels = kernels_of(isa);
  const nb::gil_scoped_release release;
  return pack_winograd(kernels, {tile.first, tile.second, stride}, in, out, weights.data(),
                       scale ? scale->data() : nullptr, bias.data());
}

std::vector<double> values_of(const std::optional<Vector>& values) {
  return values ? std::vector<double>(values->data(), values->data() + values->shape(0)) : std::vector<double>();
}

Outputs make_outputs(std::optional<Tensor> linear, std::optional<Tensor> out, std::optional<Tensor> preact,
                     std::optional<Vector> scale, std::optional<Vector> shift, bool relu) {
  Outputs o;
  if (linear) o.linear = *linear;
  if (out) o.out = *out;
  if (preact) o.preact = *preact;
  o.scale = values_of(scale);
  o.shift = values_of(shift);
  o.relu = relu;
  if (!o.linear && !o.out && !o.preact) throw std::invalid_argument("a step without an output");
  if (o.preact && (o.scale.size() != size_t(o.preact.c) || o.shift.size() != size_t(o.preact.c)))
    throw std::invalid_argument("one scale and one shift for each channel of preact");
  return o;
}

bool run(const Plan& plan, Images images, const std::vector<Output>& outputs, std::optional<Seconds> seconds) {
  if (seconds && int(seconds->shape(0)) != plan.steps()) throw std::invalid_argument("one time for each step");
  if (int64_t(images.size()) != plan.image_floats() || outputs.size() != plan.output_floats().size())
    throw std::invalid_argument("images or outputs are not those of the plan");
  std::vector<float*> pointers;
  for (size_t i = 0; i < outputs.size(); ++i) {
    if (int64_t(outputs[i].size()) != plan.output_floats()[i])
      throw std::invalid_argument("output " + std::to_string(i) + " has another size than the plan's");
    pointers.push_back(outputs[i].data());
  }
  const nb::gil_scoped_release release;
  return plan.run(images.data(), pointers.data(), seconds ? seconds->data() : nullptr);
}

// The sum of what `threads` threads do at once, over about `seconds`.
double fma_peak(const std::string& isa, int threads, double seconds) {
  using Clock = std::chrono::steady_clock;
  const Kernels* kernels = kernels_of(isa);
  if (threads < 1) throw std::invalid_argument("at least one thread");
  const nb::gil_scoped_release release;
  std::vector<double> rates(threads);
  run_team(threads, [&](int member, Barrier& barrier) {
    barrier.wait();
    const auto start = Clock::now();
    double operations = 0, elapsed = 0;
    do {
      operations += kernels->fma_loop(20000);
      elapsed = std::chrono::duration<double>(Clock::now() - start).count();
    } while (elapsed < seconds);
    rates[member] = operations / elapsed;
  });
  double sum = 0;
  for (double rate : rates) sum += rate;
  return sum / 1e9;
}

}  // namespace

NB_MODULE(_core, m) {
  m.doc() = "The engine: packed convolutions, plans of steps, kernels for each instruction set.";

  m.attr("COMPILER") = RESFORWARD_COMPILER;
  m.attr("FLAGS") = RESFORWARD_FLAGS;
  m.def(
      "isas",
      [] {
        nb::list out;
        for (const Isa& isa : compiled_isas()) out.append(nb::make_tuple(isa.kernels->isa, isa.supported));
        return out;
      },
      nb::sig("def isas() -> list[tuple[str, bool]]"),
      "Instruction sets compiled in, best first, and whether this processor has them.");
  m.def("fma_peak", &fma_peak, "isa"_a, "threads"_a, "seconds"_a = 0.02,
        "GFLOP/s of independent multiply-adds on `threads` threads at once: the most this machine can do now.");

  nb::class_<Tensor>(m, "Tensor", "Where a batch of feature maps lies in a plan's arena, (n, h, w, c).")
      .def(
          "__init__",
          [](Tensor* t, int64_t offset, int n, int h, int w, int c, int slot) {
            new (t) Tensor{offset, n, h, w, c, slot};
          },
          "offset"_a, "n"_a, "h"_a, "w"_a, "c"_a, "slot"_a = -1)
      .def_prop_ro("floats", &Tensor::floats)
      .def_rw("offset", &Tensor::offset)
      .def_ro("n", &Tensor::n)
      .def_ro("h", &Tensor::h)
      .def_ro("w", &Tensor::w)
      .def_ro("c", &Tensor::c);

  nb::class_<PackedConv>(m, "PackedConv",
                         "Weights (h, w, in, out) in the order in which an instruction set reads them.")
      .def(nb::new_(&make_conv), "isa"_a, "weights"_a, "scale"_a.none(), "bias"_a, "interleaved"_a = false)
      .def_prop_ro("bytes", [](const PackedConv& c) { return c.weights.bytes() + c.bias.bytes(); });

  nb::class_<PackedWinograd>(m, "PackedWinograd",
                             "Weights (3, 3, in, out) of a convolution by Winograd's method; see winograd.h.")
      .def(nb::new_(&make_winograd), "isa"_a, "weights"_a, "scale"_a.none(), "bias"_a, "tile"_a, "stride"_a = 1)
      .def_prop_ro("bytes",
                   [](const PackedWinograd& c) { return c.weights.bytes() + c.bias.bytes() + c.zeros.bytes(); });

  nb::class_<Outputs>(m, "Outputs", "What a step writes; see Epilogue in kernels.h.")
      .def(nb::new_(&make_outputs), "linear"_a = nb::none(), "out"_a = nb::none(), "preact"_a = nb::none(),
           "scale"_a = nb::none(), "shift"_a = nb::none(), "relu"_a = false);

  nb::class_<Plan>(m, "Plan", "Steps in order over one arena.")
      .def(
          "__init__",
          [](Plan* p, const std::string& isa, int threads, int64_t arena_floats) {
            new (p) Plan(kernels_of(isa), threads, arena_floats);
          },
          "isa"_a, "threads"_a, "arena_floats"_a)
      .def("load", &Plan::load, "n"_a, "h"_a, "w"_a, "c"_a, "outputs"_a)
      .def(
          "load_rows",
          [](Plan& p, int n, int h, int w, int c, int margin, int64_t offset, std::optional<Vector> scale,
             std::optional<Vector> shift) {
            const std::vector<double> s = values_of(scale), t = values_of(shift);
            if (s.size() != t.size() || (!s.empty() && s.size() != size_t(c)))
              throw std::invalid_argument("one scale and one shift for each channel");
            p.load_rows(n, h, w, c, margin, offset, s, t);
          },
          "n"_a, "h"_a, "w"_a, "c"_a, "margin"_a, "offset"_a, "scale"_a = nb::none(), "shift"_a = nb::none())
      .def(
          "conv",
          [](Plan& p, std::shared_ptr<const PackedConv> conv, const Tensor& in, const Outputs& outputs, int stride,
             int rate, std::optional<Tensor> shortcut, int shortcut_stride, bool follows) {
            p.conv(std::move(conv), in, stride, rate, {shortcut.value_or(Tensor()), shortcut_stride}, outputs, follows);
          },
          "conv"_a, "input"_a, "outputs"_a, "stride"_a = 1, "rate"_a = 1, "shortcut"_a = nb::none(),
          "shortcut_stride"_a = 1, "follows"_a = false)
      .def(
          "winograd",
          [](Plan& p, std::shared_ptr<const PackedWinograd> conv, const Tensor& in, const Outputs& outputs,
             std::optional<Tensor> shortcut, int shortcut_stride) {
            p.winograd(std::move(conv), in, {shortcut.value_or(Tensor()), shortcut_stride}, outputs);
          },
          "conv"_a, "input"_a, "outputs"_a, "shortcut"_a = nb::none(), "shortcut_stride"_a = 1)
      .def("conv_rows", &Plan::conv_rows, "conv"_a, "offset"_a, "n"_a, "h"_a, "w"_a, "stride"_a, "margin"_a,
           "outputs"_a)
      .def("max_pool", &Plan::max_pool, "input"_a, "kernel"_a, "stride"_a, "pad_y"_a, "pad_x"_a, "zero_fill"_a,
           "outputs"_a, "follows"_a = false)
      .def("avg_pool", &Plan::avg_pool, "input"_a, "kernel"_a, "stride"_a, "outputs"_a)
      .def(
          "group_norm",
          [](Plan& p, const Tensor& in, int groups, Vector gamma, Vector beta, double epsilon, const Tensor& out) {
            const auto values = [](const Vector& v) { return std::vector<double>(v.data(), v.data() + v.shape(0)); };
            p.group_norm(in, groups, values(gamma), values(beta), epsilon, out);
          },
          "input"_a, "groups"_a, "gamma"_a, "beta"_a, "epsilon"_a, "out"_a)
      .def("mean", &Plan::mean, "input"_a, "out"_a)
      .def("store", &Plan::store, "input"_a, "output"_a, "softmax"_a = false)
      .def("run", &run, "images"_a.noconvert(), "outputs"_a.noconvert(), "seconds"_a.noconvert() = nb::none(),
           "Run all steps; False when an image holds NaN or infinite values. `seconds` receives each step's time. "
           "Releases the GIL.")
      .def_prop_ro("steps", &Plan::steps)
      .def_prop_ro("arena_floats", &Plan::arena_floats);
}

}  // namespace resforward
