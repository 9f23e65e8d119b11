// The convolution, once for every instruction set. The including file defines the traits `V`:
//   V::Vec, V::kWidth (floats), V::kRows x V::kVectors (the tile), V::kGroup (rows whose pointers fit in registers),
//   load, store, set1, fma(a, b, c) = a * b + c, add, max(a, b) = a > b ? a : b, so that a NaN in b stays,
//   load_weights, multiply_row(acc, x, b): acc += *x * b.

enum class Rows {
  kContiguous,   // blocked input, 1x1: output pixels are neighbouring input pixels, at constant distances
  kBlocked,      // blocked input, any kernel: one pointer a pixel and tap
  kInterleaved,  // the root block: as many lanes as the kernel's row has values
  kImageRow,     // the same, where output pixels are neighbours in a row: at constant distances, too
};

constexpr int kImageStep = 2 * 3;  // floats between those: stride 2, three channels

constexpr int kTilePlanes = (V::kVectors * V::kWidth + kLanes - 1) / kLanes;  // of output channels

// acc[row] += x[row][k] * w[k] for one k and the rows [kFirst, kFirst + kCount).
template <int kFirst, int kCount, int kMr, class Row>
static inline __attribute__((always_inline)) void rank_one(typename V::Vec (&acc)[kMr][V::kVectors], Row row,
                                                           const float* w, int k) {
  constexpr int kNv = V::kVectors, kNr = V::kVectors * V::kWidth;
  typename V::Vec b[kNv];
#pragma GCC unroll 4
  for (int j = 0; j < kNv; ++j) b[j] = V::load_weights(w + k * kNr + j * V::kWidth);
#pragma GCC unroll 16
  for (int i = 0; i < kCount; ++i)
    if (kFirst + i < kMr) V::multiply_row(acc[kFirst + i], row(kFirst + i) + k, b);
}

// The same for all lanes of one plane or image row: 16 unrolled, or, kLanesHere == 0, `lanes` in a loop.
template <int kFirst, int kCount, int kLanesHere, int kMr, class Row>
static inline __attribute__((always_inline)) void multiply(typename V::Vec (&acc)[kMr][V::kVectors], Row row,
                                                           const float* w, int lanes) {
  if constexpr (kLanesHere > 0) {
#pragma GCC unroll 16
    for (int k = 0; k < kLanesHere; ++k) rank_one<kFirst, kCount>(acc, row, w, k);
  } else {
#pragma GCC unroll 7
    for (int k = 0; k < lanes; ++k) rank_one<kFirst, kCount>(acc, row, w, k);
  }
}

constexpr int kPixelTilesAhead = 3;  // one is too late for what comes from L3 while 64 channels are summed

// What is brought into the caches while one tile is computed, since the hardware alone does not look far enough ahead:
// a part of the next tile's weights, which come from memory, and what the epilogue of the next pixels reads.
struct Ahead {
  const float* weights;  // for the first plane and tap
  int lines;             // cache lines for each plane and tap
  int planes = 0;        // from this tile's channels and pixels to those whose shortcut and sum are fetched
  int64_t pixels = 0;

  void fetch(int64_t step) const {
    for (int i = 0; i < lines; ++i) __builtin_prefetch(weights + step + i * kLanes, 0, 2);
  }
};

// The shortcut of the next tile of pixels, and the place of its sum, if that is another: they come from far away, in
// short pieces.
static inline void fetch_pixels(const Epilogue& e, int plane, int64_t pixel, int count) {
  for (int i = 0; i < count; ++i) {
    if (e.out && e.out != e.residual) __builtin_prefetch(e.out + plane * e.plane + (pixel + i) * kLanes, 1, 3);
    __builtin_prefetch(e.residual + plane * e.residual_plane + (pixel + i) * kLanes, 0, 2);
  }
}

// Of so many planes the input of one tile lies on more pages of memory than the first TLB has entries: it is worth
// fetching a plane ahead. (4 % of a convolution of 1024 channels; with 8 planes it costs more than it brings.)
constexpr int kManyPlanes = 32;

// Sums over K for kMr output pixels and one tile of output channels, then the epilogue.
//   rows[tap][kRows]: input pixel of plane 0 for each output pixel. residual[kRows]: shortcut pixel of plane 0.
template <int kMr, Rows kRows>
static void conv_tile(const ConvArgs& a, const float* const* rows, const float* const* residual, int64_t pixel,
                      int tile, Ahead ahead) {
  constexpr int kNv = V::kVectors, kNr = V::kVectors * V::kWidth;
  constexpr int kGroup = V::kGroup, kFixed = kRows == Rows::kBlocked ? kLanes : 0;
  const int taps = a.taps_h * a.taps_w, lanes = a.lanes;
  typename V::Vec acc[kMr][kNv];
  const Epilogue& e = a.epilogue;
#pragma GCC unroll 4
  for (int j = 0; j < kNv; ++j) {
    const typename V::Vec bias = V::load(e.bias + tile * kNr + j * V::kWidth);
#pragma GCC unroll 16
    for (int i = 0; i < kMr; ++i) acc[i][j] = bias;
  }

  const float* const weights = a.weights + int64_t(tile) * a.planes * taps * lanes * kNr;
  const float* w = weights;
  if constexpr (kRows == Rows::kContiguous) {
    const float* x = rows[0];
    const bool adds = e.residual && e.residual_stride == 1;
    const int count = (kMr + a.planes - 1) / a.planes;  // a few at each plane: all at once would wait for each other
    for (int plane = 0; plane < a.planes; ++plane, x += a.in_plane, w += kLanes * kNr) {
      ahead.fetch(w - weights);
      if (a.planes >= kManyPlanes && plane + 1 < a.planes) {
#pragma GCC unroll 16
        for (int i = 0; i < kMr; ++i) __builtin_prefetch(x + a.in_plane + i * kLanes, 0, 3);
      }
      if (adds && plane * count < kMr)
        for (int j = 0; j < kTilePlanes; ++j)
          fetch_pixels(e, tile * kNr / kLanes + ahead.planes + j, pixel + ahead.pixels + plane * count, count);
      multiply<0, kMr, kLanes>(acc, [x](int i) { return x + i * kLanes; }, w, lanes);
    }
  } else if constexpr (kRows == Rows::kImageRow) {
    for (int tap = 0; tap < taps; ++tap, w += lanes * kNr) {
      const float* x = rows[tap * V::kRows];
      multiply<0, kMr, 0>(acc, [x](int i) { return x + i * kImageStep; }, w, lanes);
    }
  } else {
    for (int plane = 0; plane < a.planes; ++plane) {
      const int64_t at = plane * a.in_plane;
      for (int tap = 0; tap < taps; ++tap, w += lanes * kNr) {
        const float* const* x = rows + tap * V::kRows;
        const float* p[kGroup];
        ahead.fetch(w - weights);
#pragma GCC unroll 16
        for (int i = 0; i < kGroup; ++i) p[i] = i < kMr ? x[i] + at : nullptr;
        multiply<0, kGroup, kFixed>(acc, [&p](int i) { return p[i]; }, w, lanes);
        if constexpr (kMr > kGroup) {
          // Not before: all pointers at once do not fit in the general registers.
          asm volatile("" : : : "memory");
#pragma GCC unroll 16
          for (int i = 0; i < kGroup; ++i) p[i] = kGroup + i < kMr ? x[kGroup + i] + at : nullptr;
          multiply<kGroup, kGroup, kFixed>(acc, [&p](int i) { return p[i - kGroup]; }, w, lanes);
        }
      }
    }
  }

#pragma GCC unroll 4
  for (int j = 0; j < kNv; ++j) {
    const int channel = tile * kNr + j * V::kWidth, plane = channel / kLanes, lane = channel % kLanes;
    if (plane >= a.out_planes) break;
    const int64_t out = plane * e.plane + pixel * kLanes + lane;
    if (e.linear) {
#pragma GCC unroll 16
      for (int i = 0; i < kMr; ++i) V::store(e.linear + out + i * kLanes, acc[i][j]);
    }
    if (e.residual) {
      const int64_t at = plane * e.residual_plane + lane;
      if (kRows == Rows::kContiguous && e.residual_stride == 1) {
        const float* const shortcut = e.residual + at + pixel * kLanes;
#pragma GCC unroll 16
        for (int i = 0; i < kMr; ++i) acc[i][j] = V::add(acc[i][j], V::load(shortcut + i * kLanes));
      } else {
#pragma GCC unroll 16
        for (int i = 0; i < kMr; ++i) acc[i][j] = V::add(acc[i][j], V::load(residual[i] + at));
      }
    }
    const typename V::Vec zero = V::set1(0.0f);
    if (e.relu) {
#pragma GCC unroll 16
      for (int i = 0; i < kMr; ++i) acc[i][j] = V::max(zero, acc[i][j]);
    }
    if (e.out) {
#pragma GCC unroll 16
      for (int i = 0; i < kMr; ++i) V::store(e.out + out + i * kLanes, acc[i][j]);
    }
    if (e.preact) {
      const typename V::Vec scale = V::load(e.scale + channel), shift = V::load(e.shift + channel);
      float* preact = e.preact + plane * e.preact_plane + pixel * kLanes + lane;
#pragma GCC unroll 16
      for (int i = 0; i < kMr; ++i) V::store(preact + i * kLanes, V::max(zero, V::fma(acc[i][j], scale, shift)));
    }
  }
}

// Output pixels in (n, y, x) order, walked without division.
struct PixelWalk {
  int n, y, x;
  PixelWalk(int64_t pixel, int h, int w) : n(int(pixel / (int64_t(h) * w))), y(int(pixel / w % h)), x(int(pixel % w)) {}
  void next(int h, int w) {
    if (++x == w) {
      x = 0;
      if (++y == h) y = 0, ++n;
    }
  }
};

static int conv_tiles(int64_t pixels) { return int((pixels + V::kRows - 1) / V::kRows); }

static size_t conv_scratch(const ConvArgs& a, int64_t pixels) {
  return sizeof(float*) * V::kRows * conv_tiles(pixels) * (a.taps_h * a.taps_w + 1);
}

// 1x1 on blocked input: output pixels are input pixels.
static bool is_pointwise(const ConvArgs& a) {
  return a.taps_h * a.taps_w == 1 && a.stride == 1 && a.pad == 0 && a.in_pixel == kLanes;
}

// Whether output pixels lie as Rows::kImageRow has it.
static bool in_image_row(const ConvArgs& a, int64_t pixel, int count) {
  return a.stride * a.in_pixel == kImageStep && pixel % a.out_w + count <= a.out_w;
}

// One pointer for each (tap, output pixel), then one for its shortcut.
static void fill_rows(const ConvArgs& a, int64_t pixel, int count, const float** rows) {
  const int taps = a.taps_h * a.taps_w;
  const Epilogue& e = a.epilogue;
  const bool residual_moves = e.residual && e.residual_stride > 1;
  if (e.residual && !residual_moves)
    for (int i = 0; i < count; ++i) rows[taps * V::kRows + i] = e.residual + (pixel + i) * kLanes;
  if (is_pointwise(a)) {
    for (int i = 0; i < count; ++i) rows[i] = a.in + (pixel + i) * kLanes;
    if (!residual_moves) return;
  }
  PixelWalk at(pixel, a.out_h, a.out_w);
  const int64_t in_row = int64_t(a.in_w) * a.in_pixel, in_image = in_row * a.in_h;
  for (int i = 0; i < count; ++i, at.next(a.out_h, a.out_w)) {
    const float* image = a.in + at.n * in_image;
    const int y0 = at.y * a.stride - a.pad, x0 = at.x * a.stride - a.pad;
    if (a.lanes != kLanes) {  // a row of taps is one tap, and with its margin nothing lies outside
      const float* first = image + y0 * in_row + int64_t(x0) * a.in_pixel;
      for (int r = 0; r < a.taps_h; ++r) rows[r * V::kRows + i] = first + r * in_row;
    } else {
      const float** tap = rows + i;
      for (int r = 0; r < a.taps_h; ++r) {
        const int y = y0 + r * a.rate;
        const bool inside = unsigned(y) < unsigned(a.in_h);
        const float* row = inside ? image + y * in_row : nullptr;
        for (int s = 0; s < a.taps_w; ++s, tap += V::kRows) {
          const int x = x0 + s * a.rate;
          const bool pixel_inside = inside && unsigned(x) < unsigned(a.in_w);
          *tap = pixel_inside ? row + int64_t(x) * a.in_pixel : a.zero;
        }
      }
    }
    if (residual_moves)
      rows[taps * V::kRows + i] =
          e.residual +
          ((int64_t(at.n) * e.residual_h + at.y * e.residual_stride) * e.residual_w + at.x * e.residual_stride) *
              kLanes;
  }
}

// The tile of `count` pixels, 1 <= count <= kMr.
template <Rows kRows, int kMr = V::kRows>
static void conv_pixels(const ConvArgs& a, int count, const float* const* rows, int64_t pixel, int tile, Ahead ahead) {
  if (count == kMr) return conv_tile<kMr, kRows>(a, rows, rows + a.taps_h * a.taps_w * V::kRows, pixel, tile, ahead);
  if constexpr (kMr > 1) conv_pixels<kRows, kMr - 1>(a, count, rows, pixel, tile, ahead);
}

// Too few independent sums leave multiply-add units idle while they wait for each other.
constexpr int kLeastRows = V::kRows / 3;

// Pixels cut into whole tiles and a rest; one of too few rows takes some from the tile before.
struct PixelTiles {
  int tiles, rest, last;
  explicit PixelTiles(int64_t pixels)
      : tiles(conv_tiles(pixels)),
        rest(int(pixels) - (tiles - 1) * V::kRows),
        last(tiles > 1 && rest < kLeastRows ? (V::kRows + rest) / 2 : rest) {}
  int count(int t) const { return t == tiles - 1 ? last : t == tiles - 2 ? V::kRows + rest - last : V::kRows; }
};

template <Rows kRows>
static void conv_range(const ConvArgs& a, int64_t begin, int64_t end, int tile_begin, int tile_end, void* scratch) {
  const int taps = a.taps_h * a.taps_w;
  const int64_t table = int64_t(V::kRows) * (taps + 1);
  const float** rows = static_cast<const float**>(scratch);
  const PixelTiles tiles(end - begin);
  // Weights of one plane and tap, in cache lines, and how many of them each tile of pixels fetches for the next.
  constexpr int kStepLines = V::kVectors * V::kWidth;
  const int share = (kStepLines + tiles.tiles - 1) / tiles.tiles;
  const int64_t tile_floats = int64_t(a.planes) * taps * a.lanes * V::kVectors * V::kWidth;
  int64_t pixel = begin;
  for (int t = 0; t < tiles.tiles; pixel += tiles.count(t++)) {
    const bool first_only =
        kRows == Rows::kInterleaved && !a.epilogue.residual && in_image_row(a, pixel, tiles.count(t));
    fill_rows(a, pixel, first_only ? 1 : tiles.count(t), rows + t * table);
  }
  for (int tile = tile_begin; tile < tile_end; ++tile) {
    const float* const next = a.weights + int64_t(tile + 1) * tile_floats;
    pixel = begin;
    for (int t = 0; t < tiles.tiles; pixel += tiles.count(t++)) {
      const bool fetches = next < a.weights_end && t * share < kStepLines;
      // Behind the last pixels come the first ones again, of the next channels.
      const int later = t + kPixelTilesAhead, wrap = later >= tiles.tiles;
      const int64_t there = begin + int64_t(wrap ? later - tiles.tiles : later) * V::kRows;
      const Ahead ahead{next + t * share * kLanes, fetches ? share : 0, wrap ? kTilePlanes : 0, there - pixel};
      const float* const* of_tile = rows + t * table;
      const int count = tiles.count(t);
      if (kRows == Rows::kInterleaved && in_image_row(a, pixel, count))
        conv_pixels<Rows::kImageRow>(a, count, of_tile, pixel, tile, ahead);
      else
        conv_pixels<kRows>(a, count, of_tile, pixel, tile, ahead);
    }
  }
}

static void conv(const ConvArgs& a, int64_t begin, int64_t end, int tile_begin, int tile_end, void* scratch) {
  if (begin >= end) return;
  if (is_pointwise(a))
    conv_range<Rows::kContiguous>(a, begin, end, tile_begin, tile_end, scratch);
  else if (a.lanes == kLanes)
    conv_range<Rows::kBlocked>(a, begin, end, tile_begin, tile_end, scratch);
  else
    conv_range<Rows::kInterleaved>(a, begin, end, tile_begin, tile_end, scratch);
}
