#include "conv_step.h"

#include <algorithm>
#include <numeric>
#include <set>
#include <stdexcept>

namespace resforward {

namespace {

constexpr int64_t kBlockBytes = 1 << 20;  // input of one item: with a tile's weights or AMX's parts, about L2
constexpr int64_t kChainBytes = 1 << 20;  // the same of a chain, with everything that one reads of another
constexpr int64_t kBlockTiles = 16;       // of one item; a chain's may be larger, since more streams past it
constexpr int64_t kChainTiles = 64;

}  // namespace

ConvLink::ConvLink(std::shared_ptr<const PackedConv> packed, const ConvArgs& args, const Tensor& input,
                   const Shortcut& added, const Outputs& outputs)
    : conv(std::move(packed)), shape(args), in(input), epilogue(outputs, conv->kernels->tile_width, added) {
  const Tensor& out = outputs.geometry();
  shape.out_h = out.h, shape.out_w = out.w, shape.out_planes = out.planes();
}

ConvArgs ConvLink::at(const Run& run) const {
  ConvArgs a = shape;
  a.in = run.at(in), a.in_plane = in.plane();
  a.weights = conv->weights.data();
  if (!conv->interleaved) {
    a.weights_end = a.weights + conv->weights.bytes() / sizeof(float);
    if (in.in_arena()) a.zero = a.in + in.pixels() * kLanes;
  }
  a.epilogue = epilogue.at(run);
  a.epilogue.bias = conv->bias.data();
  return a;
}

ConvStep::ConvStep(ConvLink first, int threads)
    : threads_(threads), pixels_(int64_t(first.shape.n) * first.shape.out_h * first.shape.out_w) {
  follow(std::move(first));
}

void ConvStep::follow(ConvLink next) {
  const ConvArgs& a = next.shape;
  if (!links_.empty() && (a.taps_h * a.taps_w != 1 || int64_t(a.n) * a.in_h * a.in_w != pixels_))
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

ConvLink& ConvStep::alone() {
  if (links_.size() > 1) throw std::invalid_argument("a chain is no convolution alone");
  return links_.front();
}

// An item is a block of pixels times a range of output tiles. The block's input stays in L2 while the weights stream
// past it; small maps are split over output channels as well, so that every thread has work and each weight is still
// read by one thread only. A chain is split over pixels alone: what follows needs all channels.
void ConvStep::split() {
  const PackedConv& conv = *links_[0].conv;
  const ConvArgs& shape = links_[0].shape;
  const int rows = conv.kernel().tile_rows;
  const bool chain = links_.size() > 1;
  // A 1x1 convolution with a stride leaves out what it does not read.
  const int area = shape.taps_h == 1 ? 1 : shape.stride * shape.stride;
  int64_t floats = int64_t(shape.planes) * shape.lanes * area;
  for (int64_t planes : slots_) floats += planes * kLanes;
  std::set<int64_t> stored{links_[0].in.offset};
  for (size_t i = 1; i < links_.size(); ++i) {
    const Tensor& in = links_[i].in;
    if (in.in_arena() && stored.insert(in.offset).second) floats += in.planes() * kLanes;
  }
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
  for (const ConvLink& link : links_) kernel = std::max(kernel, link.conv->kernel().scratch(link.shape, block_));
  return slot_floats(int(slots_.size())) * sizeof(float) + kernel;
}

// Where pixel 0 of a slot's tensor would lie, though only the pixels from `begin` are there.
float* ConvStep::slot(const Tensor& tensor, void* scratch, int64_t begin) const {
  return static_cast<float*>(scratch) + slot_floats(tensor.slot) - begin * kLanes;
}

namespace {

// How many output pixels of a 1x1 convolution read one of the first `position` pixels of its input.
int64_t pixels_before(const ConvArgs& a, int64_t position) {
  if (a.stride == 1) return position;
  const int64_t n = position / (int64_t(a.in_h) * a.in_w), y = position / a.in_w % a.in_h, x = position % a.in_w;
  const int64_t row = n * a.out_h + ceil_div(y, a.stride);
  return row * a.out_w + (y % a.stride == 0 ? ceil_div(x, a.stride) : 0);
}

}  // namespace

void ConvStep::run(Run& run, int64_t item, void* scratch) const {
  const int64_t splits = ceil_div(links_[0].conv->tiles(), tiles_);
  const int64_t begin = item / splits * block_, end = std::min(begin + block_, pixels_);
  void* kernel_scratch = static_cast<float*>(scratch) + slot_floats(int(slots_.size()));
  for (const ConvLink& link : links_) {
    const PackedConv& conv = *link.conv;
    const EpilogueOf& epilogue = link.epilogue;
    if (item == 0) epilogue.clear_guards(run);
    ConvArgs a = link.at(run);
    if (link.in.in_slot()) a.in = slot(link.in, scratch, begin), a.in_plane = plane();
    Epilogue& e = a.epilogue;
    if (epilogue.out.in_slot()) e.out = slot(epilogue.out, scratch, begin), e.plane = plane();
    if (epilogue.preact.in_slot()) e.preact = slot(epilogue.preact, scratch, begin), e.preact_plane = plane();
    // A chain's items hold all output tiles.
    const bool whole = links_.size() > 1;
    const int tile = whole ? 0 : int(item % splits) * tiles_;
    const bool first = &link == &links_[0];  // its own output pixels are counted, of the others those that they read
    conv.kernel().run(a, first ? begin : pixels_before(a, begin), first ? end : pixels_before(a, end), tile,
                      whole ? conv.tiles() : std::min(tile + tiles_, conv.tiles()), kernel_scratch);
  }
}

}  // namespace resforward
