#include "winograd_steps.h"

#include <algorithm>

namespace resforward {

namespace {

// Measured on maps of 56x56x64 to 7x7x512, batches of 1 to 64, one and two threads, with 2 MiB of L2 a core:
constexpr int64_t kFusedBytes = 4 << 20;    // of weights: more, and reading them costs more than waiting for each other
constexpr int64_t kLeastTiles = 12;         // for a thread, of a fused step: fewer leave multiply-add units idle
constexpr int64_t kBlockTiles = 56;         // of a fused item: more no longer pay
constexpr int64_t kPointsBytes = 1 << 20;   // of its input; with its products, inside L2
constexpr int64_t kSharedBytes = 24 << 20;  // points and products of three steps: they stay in L3

// An odd number of cache lines: neighbours at a power of two fall into one cache set.
int64_t odd_lines(int64_t floats) { return (floats / kLanes | 1) * kLanes; }

struct Pitches {
  int64_t plane, points, products;
  Pitches(int64_t tiles, int planes, int product_planes)
      : plane(odd_lines(tiles * kLanes)),
        points(odd_lines(plane * planes)),
        products(odd_lines(plane * product_planes)) {}
};

}  // namespace

WinogradConv::WinogradConv(std::shared_ptr<const PackedWinograd> weights, const Tensor& in, const Shortcut& shortcut,
                           const Outputs& outputs)
    : weights_(std::move(weights)),
      in_(in),
      epilogue_(outputs, weights_->kernels->tile_width, shortcut),
      tiles_(in.n * ceil_div(outputs.geometry().h, weights_->tile.h) *
             ceil_div(outputs.geometry().w, weights_->tile.w)) {}

int64_t WinogradConv::floats(int64_t tiles, int product_planes) const {
  const Pitches pitches(tiles, weights_->planes_in(), product_planes);
  return (pitches.points + pitches.products) * weights_->tile.points();
}

WinogradArgs WinogradConv::at(const Run& run, int64_t begin, int64_t end, float* memory, int product_planes) const {
  WinogradArgs a;
  a.tile = weights_->tile;
  a.in = run.at(in_);
  a.in_plane = in_.plane(), a.planes = in_.planes();
  const Tensor& out = epilogue_.geometry();
  a.n = in_.n, a.in_h = in_.h, a.in_w = in_.w, a.h = out.h, a.w = out.w, a.out_planes = weights_->planes_out();
  a.block_begin = begin, a.block_end = end;
  const Pitches pitches(end - begin, a.planes, product_planes);
  a.points = memory, a.products = memory + pitches.points * weights_->tile.points();
  a.points_plane = a.products_plane = pitches.plane;
  a.points_pitch = pitches.points, a.products_pitch = pitches.products;
  a.weights = weights_->weights.data(), a.weights_pitch = weights_->pitch();
  a.zeros = weights_->zeros.data();
  a.epilogue = epilogue_.at(run);
  a.epilogue.bias = weights_->bias.data();
  return a;
}

int64_t WinogradFusedStep::items() const { return ceil_div(conv_->tiles(), block_); }

size_t WinogradFusedStep::scratch() const {
  return conv_->floats(block_, conv_->kernels().tile_width / kLanes) * sizeof(float);
}

void WinogradFusedStep::run(Run& run, int64_t item, void* scratch) const {
  if (item == 0) conv_->clear_guards(run);
  const PackedWinograd& w = conv_->weights();
  const int planes = w.kernels->tile_width / kLanes;
  const int64_t begin = item * block_, end = std::min(begin + block_, conv_->tiles());
  WinogradArgs a = conv_->at(run, begin, end, static_cast<float*>(scratch), planes);
  w.kernels->winograd_in(a, begin, end, 0, a.planes, 0, w.tile.points_h());
  for (int tile = 0; tile < w.tiles(); ++tile) {
    a.products_first = tile * planes;
    w.kernels->winograd_multiply(a, 0, w.tile.points(), tile, tile + 1);
    w.kernels->winograd_out(a, begin, end, a.products_first, std::min(a.products_first + planes, a.out_planes));
  }
}

// Points come first, then planes or output tiles: a thread multiplies the points that it has made, from its own cache.
WinogradPartStep::WinogradPartStep(std::shared_ptr<const WinogradConv> conv, Part part, int64_t begin, int64_t end,
                                   int threads)
    : conv_(std::move(conv)), part_(part), begin_(begin), end_(end) {
  const PackedWinograd& w = conv_->weights();
  // Points have unlike many tiles: more items, so that threads finish together.
  const int64_t wanted = (part == Part::kMultiply ? 4 : 1) * kItemsPerThread * threads;
  ranges_ = part == Part::kIn         ? std::min<int64_t>(threads, w.tile.points_h())
            : part == Part::kMultiply ? w.tile.points()
                                      : std::min(wanted, end - begin);
  const int most = part == Part::kMultiply ? w.tiles() : part == Part::kIn ? w.planes_in() : w.planes_out();
  splits_ = int(std::min<int64_t>(ceil_div(wanted, ranges_), most));
}

size_t WinogradPartStep::shared() const {
  return conv_->floats(end_ - begin_, conv_->weights().planes_out()) * sizeof(float);
}

void WinogradPartStep::run(Run& run, int64_t item, void*) const {
  const PackedWinograd& w = conv_->weights();
  const WinogradArgs a = conv_->at(run, begin_, end_, run.shared, w.planes_out());
  const int64_t range = item / splits_;
  const int split = int(item % splits_);
  const auto cut = [this, split](int all, int after) { return all * (split + after) / splits_; };
  const int64_t tiles = end_ - begin_;
  const int64_t begin = begin_ + tiles * range / ranges_, end = begin_ + tiles * (range + 1) / ranges_;
  switch (part_) {
    case Part::kIn:
      return w.kernels->winograd_in(a, begin_, end_, cut(w.planes_in(), 0), cut(w.planes_in(), 1),
                                    int(w.tile.points_h() * range / ranges_),
                                    int(w.tile.points_h() * (range + 1) / ranges_));
    case Part::kMultiply:
      return w.kernels->winograd_multiply(a, int(range), int(range) + 1, cut(w.tiles(), 0), cut(w.tiles(), 1));
    case Part::kOut:
      if (item == 0) conv_->clear_guards(run);
      return w.kernels->winograd_out(a, begin, end, cut(w.planes_out(), 0), cut(w.planes_out(), 1));
  }
}

std::vector<std::unique_ptr<Step>> winograd_steps(std::shared_ptr<const PackedWinograd> weights, const Tensor& in,
                                                  const Shortcut& shortcut, const Outputs& outputs, int threads) {
  const auto conv = std::make_shared<const WinogradConv>(std::move(weights), in, shortcut, outputs);
  const PackedWinograd& w = conv->weights();
  const int64_t tiles = conv->tiles();
  std::vector<std::unique_ptr<Step>> steps;
  if (int64_t(w.weights.bytes()) <= kFusedBytes && tiles >= kLeastTiles * threads) {
    const int64_t tile_bytes = int64_t(w.tile.points()) * w.planes_in() * kLanes * sizeof(float);
    const int64_t block = std::clamp<int64_t>(kPointsBytes / tile_bytes, 1, kBlockTiles);
    // As many for every thread, and blocks alike.
    const int64_t blocks = ceil_div(ceil_div(tiles, block), threads) * threads;
    steps.push_back(std::make_unique<WinogradFusedStep>(conv, ceil_div(tiles, blocks)));
    return steps;
  }
  using Part = WinogradPartStep::Part;
  const int64_t bytes = conv->floats(tiles, w.planes_out()) * int64_t(sizeof(float));
  const int64_t groups = std::min(ceil_div(bytes, kSharedBytes), tiles);
  for (int64_t group = 0; group < groups; ++group)
    for (Part part : {Part::kIn, Part::kMultiply, Part::kOut})
      steps.push_back(std::make_unique<WinogradPartStep>(conv, part, tiles * group / groups,
                                                         tiles * (group + 1) / groups, threads));
  return steps;
}

}  // namespace resforward
