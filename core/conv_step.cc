#include "conv_step.h"

#include <algorithm>
#include <numeric>
#include <stdexcept>

namespace resforward {

namespace {

constexpr int64_t kBlockBytes = 512 << 10;  // input of one item: with its weights, inside L2
constexpr int64_t kChainBytes = 1 << 20;    // input and slots of one item of a chain
constexpr int64_t kBlockTiles = 16;         // of one item; a chain's may be larger, since more streams past it
constexpr int64_t kChainTiles = 64;

}  // namespace

ConvLink::ConvLink(std::shared_ptr<const PackedConv> packed, const ConvArgs& args, const Tensor& input,
                   const Shortcut& added, const Outputs& outputs)
    : conv(std::move(packed)), shape(args), in(input), epilogue(outputs, conv->kernels->tile_width, added) {
  const Tensor& out = outputs.geometry();
  shape.out_h = out.h, shape.out_w = out.w, shape.out_planes = out.planes();
}

ConvStep::ConvStep(ConvLink first, int threads)
    : threads_(threads), pixels_(int64_t(first.shape.n) * first.shape.out_h * first.shape.out_w) {
  follow(std::move(first));
}

void ConvStep::follow(ConvLink next) {
  const ConvArgs& a = next.shape;
  if (!links_.empty() && (a.taps_h * a.taps_w != 1 || a.stride != 1 || int64_t(a.n) * a.out_h * a.out_w != pixels_))
    throw std::invalid_argument("only a 1x1 convolution of the same pixels can follow");
  if (next.epilogue.linear.in_slot() || next.epilogue.shortcut.tensor.in_slot())
    throw std::invalid_argument("a slot holds what a 1x1 convolution reads: no shortcut, and no sum before one");
  for (const Tensor* t : {&next.epilogue.out, &next.epilogue.preact})
    if (t->in_slot()) {
      slots_.resize(std::max<size_t>(slots_.size(), t->slot + 1));
      slots_[t->slot] = t->planes();
    }
  links_.push_back(std::move(next));
  split();
}

// An item is a block of pixels times a range of output tiles. The block's input stays in L2 while the weights stream
// past it; small maps are split over output channels as well, so that every thread has work and each weight is still
// read by one thread only. A chain is split over pixels alone: what follows needs all channels.
void ConvStep::split() {
  const PackedConv& conv = *links_[0].conv;
  const ConvArgs& shape = links_[0].shape;
  const int rows = conv.kernels->tile_rows;
  const bool chain = links_.size() > 1;
  int64_t floats = int64_t(shape.planes) * shape.lanes * shape.stride * shape.stride;
  for (int64_t planes : slots_) floats += planes * kLanes;
  const int64_t limit = (chain ? kChainBytes : kBlockBytes) / int64_t(rows * floats * sizeof(float));
  const int64_t block = std::clamp<int64_t>(limit, 1, chain ? kChainTiles : kBlockTiles);
  const int64_t pixel_tiles = ceil_div(pixels_, rows);
  int64_t blocks = ceil_div(pixel_tiles, block), splits = 1;
  if (chain || blocks >= threads_)
    blocks = std::min(ceil_div(blocks, threads_) * threads_, pixel_tiles);  // as many for each thread
  if (!chain && threads_ > 1) splits = std::min<int64_t>(ceil_div(kItemsPerThread * threads_, blocks), conv.tiles());
  block_ = ceil_div(pixel_tiles, blocks) * rows;
  tiles_ = int(ceil_div(conv.tiles(), splits));
}

int64_t ConvStep::items() const { return ceil_div(pixels_, block_) * ceil_div(links_[0].conv->tiles(), tiles_); }

int64_t ConvStep::slot_floats(int before) const {
  return std::accumulate(slots_.begin(), slots_.begin() + before, int64_t(0)) * plane();
}

// Slots first, then the kernel's own.
size_t ConvStep::scratch() const {
  size_t kernel = 0;
  for (const ConvLink& link : links_) kernel = std::max(kernel, link.conv->kernels->conv_scratch(link.shape, block_));
  return slot_floats(int(slots_.size())) * sizeof(float) + kernel;
}

// Where pixel 0 of a slot's tensor would lie, though only the pixels from `begin` are there.
float* ConvStep::slot(const Tensor& tensor, void* scratch, int64_t begin) const {
  return static_cast<float*>(scratch) + slot_floats(tensor.slot) - begin * kLanes;
}

void ConvStep::run(Run& run, int64_t item, void* scratch) const {
  const int64_t splits = ceil_div(links_[0].conv->tiles(), tiles_);
  const int64_t begin = item / splits * block_, end = std::min(begin + block_, pixels_);
  void* kernel_scratch = static_cast<float*>(scratch) + slot_floats(int(slots_.size()));
  for (const ConvLink& link : links_) {
    const PackedConv& conv = *link.conv;
    const EpilogueOf& epilogue = link.epilogue;
    if (item == 0) epilogue.clear_guards(run);
    ConvArgs a = link.shape;
    a.in = link.in.in_slot() ? slot(link.in, scratch, begin) : run.at(link.in);
    a.in_plane = link.in.in_slot() ? plane() : link.in.plane();
    if (!conv.interleaved && link.in.in_arena()) a.zero = a.in + link.in.pixels() * kLanes;
    a.weights = conv.weights.data();
    if (!conv.interleaved) a.weights_end = a.weights + conv.weights.bytes() / sizeof(float);
    Epilogue& e = a.epilogue;
    e = epilogue.at(run);
    e.bias = conv.bias.data();
    if (epilogue.out.in_slot()) e.out = slot(epilogue.out, scratch, begin), e.plane = plane();
    if (epilogue.preact.in_slot()) e.preact = slot(epilogue.preact, scratch, begin), e.preact_plane = plane();
    // A chain's items hold all output tiles.
    const bool whole = links_.size() > 1;
    const int tile = whole ? 0 : int(item % splits) * tiles_;
    conv.kernels->conv(a, begin, end, tile, whole ? conv.tiles() : std::min(tile + tiles_, conv.tiles()),
                       kernel_scratch);
  }
}

}  // namespace resforward
