#include "winograd_steps.h"

#include <algorithm>

namespace resforward {

namespace {

constexpr int64_t kPointsBytes = 1 << 20;  // of a fused block's input: with its products, inside a 2 MiB L2
constexpr int64_t kLeastTiles = 14;        // of a fused block, whatever it takes: each reads all weights

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// An odd number of cache lines: neighbours of a power of two fall into one cache set.
int64_t odd_lines(int64_t floats) { return (floats / kLanes | 1) * kLanes; }

// Where points and products of a block lie, one behind the other; returns floats.
struct Arrays {
  int64_t plane, points_pitch, products_pitch, points, products;
  Arrays(const PackedWinograd& w, int64_t tiles, int products_planes)
      : plane(odd_lines(tiles * kLanes)),
        points_pitch(odd_lines(plane * w.planes_in())),
        products_pitch(odd_lines(plane * products_planes)),
        points(points_pitch * w.points()),
        products(products_pitch * w.points()) {}

  void place(WinogradArgs& a, float* memory) const {
    a.points = memory;
    a.products = memory + points;
    a.points_plane = a.products_plane = plane;
    a.points_pitch = points_pitch;
    a.products_pitch = products_pitch;
  }
  int64_t floats() const { return points + products; }
};

}  // namespace

WinogradConv::WinogradConv(std::shared_ptr<const PackedWinograd> weights, const Tensor& in, const Shortcut& shortcut,
                           const Outputs& outputs)
    : weights_(std::move(weights)),
      in_(in),
      shortcut_(shortcut),
      epilogue_(outputs, weights_->kernels->tile_width),
      tiles_(in.n * ceil_div(in.h, weights_->tile) * ceil_div(in.w, weights_->tile)) {}

WinogradArgs WinogradConv::at(const Run& run, int64_t begin, int64_t end) const {
  WinogradArgs a;
  a.tile = weights_->tile;
  a.in = run.at(in_);
  a.in_plane = in_.plane(), a.planes = in_.planes();
  a.n = in_.n, a.h = in_.h, a.w = in_.w, a.out_planes = weights_->planes_out();
  a.block_begin = begin, a.block_end = end;
  a.weights = weights_->weights.data();
  a.zeros = weights_->zeros.data();
  a.epilogue = epilogue_.at(run);
  a.epilogue.bias = weights_->bias.data();
  if (shortcut_.tensor) {
    a.epilogue.residual = run.at(shortcut_.tensor);
    a.epilogue.residual_plane = shortcut_.tensor.plane();
    a.epilogue.residual_stride = shortcut_.stride;
    a.epilogue.residual_h = shortcut_.tensor.h;
    a.epilogue.residual_w = shortcut_.tensor.w;
  }
  return a;
}

WinogradFusedStep::WinogradFusedStep(std::shared_ptr<const WinogradConv> conv, int64_t block)
    : conv_(std::move(conv)), block_(block) {}

int64_t WinogradFusedStep::items() const { return ceil_div(conv_->tiles(), block_); }

size_t WinogradFusedStep::scratch() const {
  const PackedWinograd& w = conv_->weights();
  WinogradArgs a;
  a.block_end = block_;
  const Arrays arrays(w, block_, w.kernels->tile_width / kLanes);
  return arrays.floats() * sizeof(float) + w.kernels->winograd_scratch(a);
}

void WinogradFusedStep::run(Run& run, int64_t item, void* scratch) const {
  if (item == 0) conv_->clear_guards(run);
  const PackedWinograd& w = conv_->weights();
  const int planes = w.kernels->tile_width / kLanes;
  const int64_t begin = item * block_, end = std::min(begin + block_, conv_->tiles());
  WinogradArgs a = conv_->at(run, begin, end);
  const Arrays arrays(w, end - begin, planes);
  arrays.place(a, static_cast<float*>(scratch));
  void* const pointers = static_cast<float*>(scratch) + arrays.floats();
  w.kernels->winograd_in(a, begin, end, 0, a.planes);
  for (int tile = 0; tile < w.tiles(); ++tile) {
    a.products_first = tile * planes;
    w.kernels->winograd_multiply(a, tile * w.points(), (tile + 1) * w.points(), pointers);
    w.kernels->winograd_out(a, begin, end, a.products_first, std::min(a.products_first + planes, a.out_planes));
  }
}

std::vector<std::unique_ptr<Step>> winograd_steps(std::shared_ptr<const PackedWinograd> weights, const Tensor& in,
                                                  const Shortcut& shortcut, const Outputs& outputs, int threads) {
  auto conv = std::make_shared<const WinogradConv>(std::move(weights), in, shortcut, outputs);
  const PackedWinograd& w = conv->weights();
  const int64_t tile_bytes = int64_t(w.points()) * w.planes_in() * kLanes * sizeof(float);
  const int64_t block = std::max(kPointsBytes / tile_bytes, kLeastTiles);
  // As many blocks as threads, where there are tiles enough, and blocks alike.
  const int64_t blocks = std::max(ceil_div(conv->tiles(), block), std::min<int64_t>(conv->tiles(), threads));
  std::vector<std::unique_ptr<Step>> steps;
  steps.push_back(
      std::make_unique<WinogradFusedStep>(conv, ceil_div(conv->tiles(), ceil_div(blocks, threads) * threads)));
  return steps;
}

}  // namespace resforward
