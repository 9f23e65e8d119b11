// AMX: 1x1 convolutions as products of bfloat16 parts, summed in float32.
//
// A float32 has 24 significant bits and a bfloat16 eight, so a value is the sum of three of them, each made of the bits
// that the one before it left over: x = x1 + x2 + x3. Of the nine products of the parts of x and w six are summed, each
// exact in float32. The others, x2 w3, x3 w2 and x3 w3, are together less than 2^-21 of |x w|, and a rounding's 2^-24
// on average.
//
// A tile register holds 16 rows of 64 bytes: 16 pixels of 32 input channels, or 16 pairs of input channels of 16 output
// channels. A pair is one lane of two neighbouring planes: parts of both are a shift and a blend away. Weights lie as
// for AVX-512 and are split by everyone who multiplies with them. That is free, since the vector units have nothing
// else to do while tiles are multiplied, and half as many bytes more would come from memory if parts were stored.
//
// The sums of a pair of pixel tiles and 32 output channels are made in turns, each over a slice of the input channels.
// What the turns to come need and what became of those before is the vector units' work meanwhile.
#include <immintrin.h>

#include "../kernels.h"

namespace resforward {

extern const Kernels avx512_kernels;

namespace {

constexpr int kRows = 16;          // of a tile register
constexpr int kRowBytes = 64;      // and their length
constexpr int kTile = kRows * 32;  // bfloat16 values of a tile register
constexpr int kSums = kRows * 16;  // float32 values of one
constexpr int kParts = 3;
constexpr int kStep = kParts * kTile;  // values of 32 input channels, and 16 pixels or output channels
constexpr int kWidth = 2 * kLanes;     // output channels of a pair of tile registers
constexpr int kSliceSteps = 4;         // the parts of a slice's weights lie in L1
constexpr int kPairRows = 2 * kRows;   // pixels of a pair

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {kRowBytes, kRowBytes, kRowBytes, kRowBytes, kRowBytes, kRowBytes, kRowBytes, kRowBytes};
  uint8_t rows[16] = {kRows, kRows, kRows, kRows, kRows, kRows, kRows, kRows};
};

// The intrinsics are macros that take a register's number and nothing else.
template <int kRegister>
void load_tile(const void* from) {
  asm volatile("tileloadd (%0, %1, 1), %%tmm%c2" : : "r"(from), "r"(int64_t(kRowBytes)), "i"(kRegister) : "memory");
}
template <int kRegister>
void store_tile(float* to) {
  asm volatile("tilestored %%tmm%c2, (%0, %1, 1)" : : "r"(to), "r"(int64_t(kRowBytes)), "i"(kRegister) : "memory");
}
template <int kRegister>
void zero_tile() {
  asm volatile("tilezero %%tmm%c0" : : "i"(kRegister));
}
template <int kSum, int kX, int kW>
void add_products() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSum), "i"(kX), "i"(kW));
}

// One lane of two planes, of 16 pixels or output channels each, into pairs; `pitch` values from part to part.
inline void split(__m512 even, __m512 odd, uint16_t* to, int pitch) {
  const __m512i upper = _mm512_set1_epi32(int(0xffff0000));
  const auto rest = [upper](__m512 v) {
    return _mm512_sub_ps(v, _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(v), upper)));
  };
  for (int part = 0; part < kParts; ++part) {
    const __m512i low = _mm512_srli_epi32(_mm512_castps_si512(even), 16);
    constexpr int kOrAnd = 0xf8;  // a | (b & c)
    _mm512_store_si512(to + part * pitch, _mm512_ternarylogic_epi32(low, _mm512_castps_si512(odd), upper, kOrAnd));
    even = rest(even), odd = rest(odd);
  }
}

// Which pixel of a map belongs to each of neighbouring output pixels, read with a stride from a map of h x w.
class Strided {
 public:
  Strided(const ConvArgs& a, int64_t pixel, int stride, int h, int w)
      : at_(pixel), stride_(stride), h_(h), w_(w), out_h_(a.out_h), out_w_(a.out_w) {
    if (stride == 1) return;
    n_ = pixel / (int64_t(out_h_) * out_w_), y_ = int(pixel / out_w_ % out_h_), x_ = int(pixel % out_w_);
    find();
  }
  int64_t pixel() const { return at_; }
  void next() {
    if (stride_ == 1) {
      ++at_;
      return;
    }
    if (++x_ == out_w_) {
      x_ = 0;
      if (++y_ == out_h_) y_ = 0, ++n_;
    }
    find();
  }

 private:
  void find() { at_ = (n_ * h_ + int64_t(y_) * stride_) * w_ + int64_t(x_) * stride_; }
  int64_t at_, n_ = 0;
  int stride_, h_, w_, out_h_, out_w_, y_ = 0, x_ = 0;
};

// The vector units' work comes in pieces of eight rows.
constexpr int kPiece = 8;

// Weights of a slice: [plane][lane][32] into parts.
struct SplitWeights {
  static constexpr int kPiecesOfStep = 2 * kRows / kPiece;
  static constexpr int64_t kAhead = 32 << 10;  // floats from what is split to what is fetched into L2

  const float *from, *end;  // all that may be fetched
  int planes;               // from `from` on
  uint16_t* to;

  void piece(int i) const {
    const int step = i / kPiecesOfStep, lane = i % kPiecesOfStep * kPiece / 2;
    const float* const even = from + (int64_t(step) * 2 * kLanes + lane) * kWidth;
    const bool has_odd = 2 * step + 1 < planes;
    const bool fetches = even + kAhead + kLanes * kWidth + kPiece * kLanes < end;
    uint16_t* const row = to + step * 2 * kStep + lane * 2 * kLanes;
#pragma GCC unroll 8
    for (int r = 0; r < kPiece; ++r) {  // two halves of each lane
      const float* const at = even + r * kLanes;
      if (fetches) {
        __builtin_prefetch(at + kAhead, 0, 2);
        __builtin_prefetch(at + kAhead + kLanes * kWidth, 0, 2);
      }
      split(_mm512_loadu_ps(at), has_odd ? _mm512_loadu_ps(at + kLanes * kWidth) : _mm512_setzero_ps(),
            row + r % 2 * kTile + r / 2 * 2 * kLanes, 2 * kTile);
    }
  }
};

// Pixels of a pair of tiles, of a slice. What lies behind the last pixel is multiplied as that, and left.
struct SplitPixels {
  const ConvArgs* a;
  int64_t pixel, end;
  int tiles;
  int plane;  // the slice's first
  uint16_t* to;
  int64_t second;

  void piece(int i) const {
    const int step = i / (2 * tiles), tile = i / 2 % tiles, first = i % 2 * kPiece;
    const float* const in = a->in + (plane + 2 * step) * a->in_plane;
    const bool has_odd = plane + 2 * step + 1 < a->planes;
    uint16_t* const row = to + tile * second + step * kStep + first * 2 * kLanes;
    const int64_t wanted = pixel + tile * kRows + first, last = end - 1;
    Strided at(*a, wanted < last ? wanted : last, a->stride, a->in_h, a->in_w);
    for (int r = 0; r < kPiece; ++r) {
      const float* const even = in + at.pixel() * kLanes;
      split(_mm512_loadu_ps(even), has_odd ? _mm512_loadu_ps(even + a->in_plane) : _mm512_setzero_ps(),
            row + r * 2 * kLanes, kTile);
      if (wanted + r < last) at.next();
    }
  }
};

// A pair of tiles' shortcuts and places of sums, which an epilogue to come reads and writes: into the cache.
struct Fetch {
  const ConvArgs* a;
  int64_t pixel;
  int plane;

  void piece(int i) const {
    const Epilogue& e = a->epilogue;
    const int64_t at_plane = plane + i / 2 % 2, at = (pixel + i / 4 * kRows + i % 2 * kPiece) * kLanes;
    if (at_plane >= a->out_planes) return;
    for (int r = 0; r < kPiece; ++r) {
      if (e.out && e.out != e.residual) __builtin_prefetch(e.out + at_plane * e.plane + at + r * kLanes, 1, 3);
      __builtin_prefetch(e.residual + at_plane * e.residual_plane + at + r * kLanes, 0, 2);
    }
  }
};

// The epilogue of a pair of tiles.
struct Finish {
  const ConvArgs* a;
  const float* sums;
  int64_t pixel, end;
  int plane;

  void piece(int i) const {
    const Epilogue& e = a->epilogue;
    const int at_plane = plane + i / 2 % 2;
    const int64_t first = pixel + i / 4 * kRows + i % 2 * kPiece;
    if (at_plane >= a->out_planes) return;
    const int64_t channel = int64_t(at_plane) * kLanes;
    const __m512 zero = _mm512_setzero_ps(), bias = _mm512_loadu_ps(e.bias + channel);
    const __m512 scale = e.preact ? _mm512_loadu_ps(e.scale + channel) : zero;
    const __m512 shift = e.preact ? _mm512_loadu_ps(e.shift + channel) : zero;
    const int64_t out = at_plane * e.plane, preact = at_plane * e.preact_plane;
    const float* from = sums + i * kPiece * kLanes;
    Strided shortcut(*a, first, e.residual_stride, e.residual_h, e.residual_w);
    for (int64_t p = first; p < first + kPiece && p < end; ++p, from += kLanes, shortcut.next()) {
      __m512 value = _mm512_add_ps(bias, _mm512_load_ps(from));
      if (e.linear) _mm512_storeu_ps(e.linear + out + p * kLanes, value);
      if (e.residual) {
        const float* const of_plane = e.residual + at_plane * e.residual_plane;
        value = _mm512_add_ps(value, _mm512_loadu_ps(of_plane + shortcut.pixel() * kLanes));
      }
      if (e.relu) value = _mm512_max_ps(zero, value);  // of a NaN, the second
      if (e.out) _mm512_storeu_ps(e.out + out + p * kLanes, value);
      if (e.preact)
        _mm512_storeu_ps(e.preact + preact + p * kLanes, _mm512_max_ps(zero, _mm512_fmadd_ps(value, scale, shift)));
    }
  }
};

template <class Of>
struct Pieces {
  Of of{};
  int next = 0, end = 0;

  int left() const { return end - next; }
  void one() { of.piece(next++); }
  void all() {
    while (left()) one();
  }
};

// What the vector units do beside the products of one turn, the most urgent first.
struct Meanwhile {
  Pieces<Fetch> fetch;
  Pieces<Finish> finish;
  Pieces<SplitPixels> pixels;
  Pieces<SplitWeights> weights;
  int at_once = 0;

  // All is done after so many calls of `some`.
  void spread(int calls) {
    at_once = (fetch.left() + finish.left() + pixels.left() + weights.left() + calls - 1) / calls;
  }
  __attribute__((noinline)) void some() {
    for (int i = 0; i < at_once; ++i)
      if (fetch.left())
        fetch.one();
      else if (finish.left())
        finish.one();
      else if (pixels.left())
        pixels.one();
      else if (weights.left())
        weights.one();
  }
};

constexpr int kProducts = 6;  // of parts in a step; beside each the vector units get some work

// One turn. x: parts of the pixels, [step][part][pixel][pair], those of the second tile `second` values behind. w:
// parts of the weights, [step][part][half of the output channels][pair][output channel]. sums:
// [tile][half][pixel][output channel], continued unless this is the first slice. The registers: sums 0 to 3, pixels 4
// and 5, weights 6 and 7.
template <bool kTwo>
void multiply(const uint16_t* x, int64_t second, const uint16_t* w, int steps, bool first, float* sums,
              Meanwhile& meanwhile) {
  const auto pixels = [&](int part) {
    load_tile<4>(x + part * kTile);
    if (kTwo) load_tile<5>(x + second + part * kTile);
  };
  const auto weights = [&](int part) {
    load_tile<6>(w + part * 2 * kTile);
    load_tile<7>(w + (part * 2 + 1) * kTile);
  };
  const auto products = [&] {
    add_products<0, 4, 6>(), add_products<1, 4, 7>();
    if (kTwo) add_products<2, 5, 6>(), add_products<3, 5, 7>();
    meanwhile.some();
  };
  if (first) {
    zero_tile<0>(), zero_tile<1>();
    if (kTwo) zero_tile<2>(), zero_tile<3>();
  } else {
    load_tile<0>(sums), load_tile<1>(sums + kSums);
    if (kTwo) load_tile<2>(sums + 2 * kSums), load_tile<3>(sums + 3 * kSums);
  }
  for (int step = 0; step < steps; ++step, x += kStep, w += 2 * kStep) {
    pixels(0), weights(2), products();
    weights(1), products();
    pixels(1), products();
    weights(0), products();
    pixels(0), products();
    pixels(2), products();
  }
  store_tile<0>(sums), store_tile<1>(sums + kSums);
  if (kTwo) store_tile<2>(sums + 2 * kSums), store_tile<3>(sums + 3 * kSums);
}

// One convolution of a range of pixels and output tiles.
class Pointwise {
 public:
  Pointwise(const ConvArgs& a, int64_t begin, int64_t end)
      : a_(a),
        begin_(begin),
        end_(end),
        tiles_((end - begin + kRows - 1) / kRows),
        pairs_((tiles_ + 1) / 2),
        steps_((a.planes + 1) / 2),
        slices_((steps_ + kSliceSteps - 1) / kSliceSteps) {}

  size_t scratch() const {
    return size_t(pixel_values() + 2 * kSliceValues) * sizeof(uint16_t) + size_t(pairs_ * 4 * kSums) * sizeof(float) +
           kRowBytes;
  }

  void run(int tile_begin, int tile_end, void* scratch) {
    pixels_ =
        reinterpret_cast<uint16_t*>((reinterpret_cast<uintptr_t>(scratch) + kRowBytes - 1) / kRowBytes * kRowBytes);
    weights_ = pixels_ + pixel_values();
    float* const sums = reinterpret_cast<float*>(weights_ + 2 * kSliceValues);
    const TileConfig config;
    asm volatile("ldtilecfg %0" : : "m"(config));
    split_weights(tile_begin, 0).all();
    split_pixels(0, 0).all();
    Meanwhile meanwhile;
    for (int tile = tile_begin; tile < tile_end; ++tile)
      for (int slice = 0; slice < slices_; ++slice) {
        const bool last = slice + 1 == slices_;
        meanwhile.weights = !last                 ? split_weights(tile, slice + 1)
                            : tile + 1 < tile_end ? split_weights(tile + 1, 0)
                                                  : Pieces<SplitWeights>();
        const int pieces = meanwhile.weights.end;
        for (int64_t pair = 0; pair < pairs_; ++pair) {
          meanwhile.weights.end = int(pieces * (pair + 1) / pairs_);
          if (tile == tile_begin && pair + 1 < pairs_)
            meanwhile.pixels = split_pixels(slice, pair + 1);
          else if (tile == tile_begin && !last)
            meanwhile.pixels = split_pixels(slice + 1, 0);
          if (last && pair + 1 < pairs_)
            meanwhile.fetch = fetch(tile, pair + 1);
          else if (last && tile + 1 < tile_end)
            meanwhile.fetch = fetch(tile + 1, 0);
          meanwhile.spread(kProducts * steps_of(slice));
          float* const of_pair = sums + pair * 4 * kSums;
          (tiles_of(pair) == 2 ? multiply<true> : multiply<false>)(pixels(slice, pair), second(), weights(tile, slice),
                                                                   steps_of(slice), slice == 0, of_pair, meanwhile);
          if (last) meanwhile.finish = finish(tile, pair, of_pair);
        }
      }
    meanwhile.finish.all();
    asm volatile("tilerelease");
  }

 private:
  static constexpr int64_t kSliceValues = int64_t(kSliceSteps) * 2 * kStep;

  int64_t pixel_values() const { return pairs_ * 2 * second(); }
  int64_t second() const { return int64_t(steps_) * kStep; }
  int steps_of(int slice) const { return slice + 1 < slices_ ? kSliceSteps : steps_ - slice * kSliceSteps; }
  int tiles_of(int64_t pair) const { return 2 * pair + 1 < tiles_ ? 2 : 1; }
  int64_t pixel(int64_t pair) const { return begin_ + pair * kPairRows; }
  uint16_t* pixels(int slice, int64_t pair) const {
    return pixels_ + pair * 2 * second() + int64_t(slice) * kSliceSteps * kStep;
  }
  // One slice is multiplied while the next is made.
  uint16_t* weights(int tile, int slice) const {
    return weights_ + (int64_t(tile) * slices_ + slice) % 2 * kSliceValues;
  }

  Pieces<SplitWeights> split_weights(int tile, int slice) const {
    const int plane = slice * kSliceSteps * 2;
    const float* const from = a_.weights + (int64_t(tile) * a_.planes + plane) * kLanes * kWidth;
    const int pieces = steps_of(slice) * SplitWeights::kPiecesOfStep;
    return {{from, a_.weights_end, a_.planes - plane, weights(tile, slice)}, 0, pieces};
  }
  Pieces<SplitPixels> split_pixels(int slice, int64_t pair) const {
    const int tiles = tiles_of(pair), pieces = steps_of(slice) * tiles * kRows / kPiece;
    return {{&a_, pixel(pair), end_, tiles, slice * kSliceSteps * 2, pixels(slice, pair), second()}, 0, pieces};
  }
  Pieces<Fetch> fetch(int tile, int64_t pair) const {
    const bool adds = a_.epilogue.residual && a_.epilogue.residual_stride == 1;
    return {{&a_, pixel(pair), 2 * tile}, 0, adds ? tiles_of(pair) * 2 * kRows / kPiece : 0};
  }
  Pieces<Finish> finish(int tile, int64_t pair, const float* sums) const {
    return {{&a_, sums, pixel(pair), end_, 2 * tile}, 0, tiles_of(pair) * 2 * kRows / kPiece};
  }

  const ConvArgs& a_;
  const int64_t begin_, end_, tiles_, pairs_;  // tiles of pixels
  const int steps_, slices_;
  uint16_t *pixels_ = nullptr, *weights_ = nullptr;
};

// Maps of fewer pixels, a classifier's one above all, leave most rows of a tile empty. By the map and not by the
// range, or bits would depend on the batch.
constexpr int64_t kLeastPixels = 4;

bool fills_tiles(const ConvArgs& a) { return int64_t(a.out_h) * a.out_w >= kLeastPixels; }

size_t pointwise_scratch(const ConvArgs& a, int64_t pixels) {
  return fills_tiles(a) ? Pointwise(a, 0, pixels).scratch() : avx512_kernels.pointwise.scratch(a, pixels);
}

void pointwise(const ConvArgs& a, int64_t begin, int64_t end, int tile_begin, int tile_end, void* scratch) {
  if (begin >= end || tile_begin >= tile_end) return;
  if (fills_tiles(a))
    Pointwise(a, begin, end).run(tile_begin, tile_end, scratch);
  else
    avx512_kernels.pointwise.run(a, begin, end, tile_begin, tile_end, scratch);
}

}  // namespace

extern const ConvKernel amx_kernels;
const ConvKernel amx_kernels = {kPairRows, pointwise_scratch, pointwise};

}  // namespace resforward
