// The contract that every instruction set keeps: plain structs in, plain functions, one table per instruction set.
//
// The functions know tensors and loops, not ResNets and not threads: each does a range of the work, and every output
// value is the same bits whatever the range. Files compiled for wider instruction sets include nothing but this and
// <immintrin.h>, so that no inline function of theirs can reach the rest of the program.
#pragma once

#include <cstddef>
#include <cstdint>

namespace resforward {

constexpr int kLanes = 16;  // channels in a plane of an activation; one AVX-512 vector

// value = bias + sum over K                          -> linear (where wanted)
// value = value + residual, then ReLU if asked for   -> out    (where wanted)
//         max(value * scale + shift, 0)              -> preact (where wanted)
// All outputs have the geometry of the step; null pointers are outputs that nobody wants.
struct Epilogue {
  const float* bias = nullptr;      // [tiles * tile_width]; of convolutions only
  const float* residual = nullptr;  // shortcut, read at (y * residual_stride, x * residual_stride)
  int64_t residual_plane = 0;
  int residual_stride = 1, residual_h = 0, residual_w = 0;
  bool relu = false;
  const float* scale = nullptr;  // [planes * 16], of preact
  const float* shift = nullptr;
  float* linear = nullptr;
  float* out = nullptr;
  float* preact = nullptr;
  int64_t plane = 0;         // floats between planes of linear and out
  int64_t preact_plane = 0;  // and of preact
};

// A convolution as a matrix product over (plane, tap, lane): rows are output pixels, each with one input pointer a tap.
//
// Blocked input: tap = (r, s), planes of 16 lanes. Interleaved input (the root block: NHWC, padded beforehand):
// tap = r, one plane whose lanes are the kernel_w * C neighbouring values of one image row.
struct ConvArgs {
  const float* in = nullptr;
  int64_t in_plane = 0;  // floats between planes
  int planes = 1;
  int lanes = 16;
  int in_h = 0, in_w = 0;       // as stored
  int in_pixel = 16;            // floats between neighbouring pixels
  const float* zero = nullptr;  // the pixel of zeros in plane 0, for taps outside the image
  int taps_h = 1, taps_w = 1, stride = 1, rate = 1, pad = 0;
  int n = 1, out_h = 0, out_w = 0, out_planes = 0;
  const float* weights = nullptr;      // [tile][plane][tap][lane][tile_width]
  const float* weights_end = nullptr;  // what lies before it is read next, and fetched ahead
  Epilogue epilogue;
};

// A 3x3 convolution by Winograd's method: tiles of output pixels become values at points, where the convolution is one
// matrix product over input channels for every point of the plane; see winograd.h.
//
// An axis is cut into tiles of so many outputs, the last of what remains. A tile has as many points as it reads input
// values, k + 2 or, of stride 2, 2 k + 1; those of a smaller tile are among those of a larger one, so a point takes
// part in a tile or not, along either axis. Tiles are counted in (n, y, x) order; the arrays hold those of one block,
// sorted so that the tiles in which a point takes part are neighbours.
struct WinogradTile {
  int h = 4, w = 4;  // outputs
  int stride = 1;    // 1 or 2

  int points_h() const { return points_of(h); }
  int points_w() const { return points_of(w); }
  int points() const { return points_h() * points_w(); }
  int points_of(int outputs) const { return stride == 1 ? outputs + 2 : 2 * outputs + 1; }
  // Of stride 2, the points from h + 1 on are the odd inputs themselves, and all have the same weights.
  int weights_h() const { return h + 2; }
  int weights_w() const { return w + 2; }
  int weights() const { return weights_h() * weights_w(); }
  int weight_y(int point) const { return point < h + 1 ? point : stride == 1 ? point : h + 1; }
  int weight_x(int point) const { return point < w + 1 ? point : stride == 1 ? point : w + 1; }
  // Outputs of the smallest tile in which a point takes part.
  int least_h(int point) const { return stride == 1 ? point - 1 : point <= h ? point : point - h; }
  int least_w(int point) const { return stride == 1 ? point - 1 : point <= w ? point : point - w; }
};

struct WinogradArgs {
  WinogradTile tile;
  const float* in = nullptr;
  int64_t in_plane = 0;
  int planes = 1;
  int n = 1, in_h = 0, in_w = 0, h = 0, w = 0, out_planes = 0;  // h and w: of the output
  int64_t block_begin = 0, block_end = 0;                       // tiles
  float* points = nullptr;                     // of the input: [point y][point x][plane][tile of the block][16]
  int64_t points_plane = 0, points_pitch = 0;  // floats from plane to plane, from point to point
  float* products = nullptr;                   // the same of the output planes from products_first on
  int64_t products_plane = 0, products_pitch = 0;
  int products_first = 0;
  const float* weights = nullptr;  // [output tile][weight y][weight x][plane][lane][tile_width]
  int64_t weights_pitch = 0;       // floats from weight to weight
  const float* zeros = nullptr;    // as many as an output tile has channels
  Epilogue epilogue;
};

struct PoolArgs {
  const float* in = nullptr;
  int64_t in_plane = 0;
  int n = 0, in_h = 0, in_w = 0, out_h = 0, out_w = 0;
  int kernel = 3, stride = 2, pad_y = 0, pad_x = 0;
  float fill = 0;  // what padding holds: -inf, or 0
  Epilogue epilogue;
};

// Group norm and ReLU of one image, for as many planes as hold whole groups:
//   out = max(0, (in - mean) / sqrt(variance + epsilon) * gamma + beta), mean and variance those of the group.
struct GroupNormArgs {
  const float* in = nullptr;
  int64_t in_plane = 0;
  int planes = 1;
  int64_t pixels = 0;
  int depth = 0;  // channels of a group
  double epsilon = 0;
  const float *gamma = nullptr, *beta = nullptr;  // of these planes
  float* out = nullptr;
  int64_t out_plane = 0;
};

// (N, H, W, C) from the caller, into planes or into interleaved rows with a margin of zeros.
struct LoadArgs {
  const float* images = nullptr;
  int n = 0, h = 0, w = 0, c = 0;
  float* rows = nullptr;  // (n, h + 2 margin, w + 2 margin, c), or null
  int margin = 0;
  Epilogue epilogue;  // out and preact, planes
};

struct ConvKernel {
  int tile_rows;                                       // pixels of one tile
  size_t (*scratch)(const ConvArgs&, int64_t pixels);  // bytes that `run` needs for a range of so many pixels
  // Output pixels [begin, end) of output tiles [tile_begin, tile_end).
  void (*run)(const ConvArgs&, int64_t begin, int64_t end, int tile_begin, int tile_end, void* scratch);
};

struct Kernels {
  const char* isa;
  int tile_width;        // output channels of one tile
  ConvKernel conv;       // any convolution
  ConvKernel pointwise;  // 1x1 on blocked input, of any stride: the output is of the input's size over it, rounded up
  // The three parts of a Winograd convolution, for ranges of the block's tiles, of planes, points and output tiles.
  // Points with y in [y_begin, y_end).
  void (*winograd_in)(const WinogradArgs&, int64_t begin, int64_t end, int plane_begin, int plane_end, int y_begin,
                      int y_end);
  void (*winograd_multiply)(const WinogradArgs&, int point_begin, int point_end, int tile_begin, int tile_end);
  void (*winograd_out)(const WinogradArgs&, int64_t begin, int64_t end, int plane_begin, int plane_end);
  void (*max_pool)(const PoolArgs&, int plane, int64_t row_begin, int64_t row_end);  // output rows (n, y)
  // The same; the mean of those pixels of each window that lie in the map.
  void (*avg_pool)(const PoolArgs&, int plane, int64_t row_begin, int64_t row_end);
  void (*group_norm)(const GroupNormArgs&, double* scratch);  // scratch: 2 * 16 for each plane
  // Mean over pixels of one plane, all images: in (n * pixels, 16) -> out (n, 16).
  void (*mean)(const float* in, int n, int64_t pixels, float* out);
  // Image rows (n, y) in [begin, end); false when one of their values is NaN or infinite.
  bool (*load)(const LoadArgs&, int64_t begin, int64_t end);
  // Pixels [begin, end) of planes to (pixels, c).
  void (*store)(const float* in, int64_t plane, int c, int64_t begin, int64_t end, float* out);
  void (*softmax)(const float* in, int c, float* out);  // one pixel
  double (*fma_loop)(int64_t iterations);               // returns floating point operations done
};

}  // namespace resforward
