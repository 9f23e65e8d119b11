// Winograd's convolution in three parts, once for every instruction set: into points, products, and back.
//
// Points in the order 0, a, -a, infinity, b, -b with a = sqrt(1/2), b = sqrt(2); a tile of k outputs uses the first
// k + 2. With the polynomial P of those points, the transform into point p is the coefficients of P(x) / (x - p), that
// into infinity those of P; the weights' transform divides by the derivative of the largest P, and smaller tiles make
// up for the ratio here. Back, output i takes p^i of each point's product, and the last output all of infinity's.

constexpr float kA = 0.707106781186547524f, kB = 1.41421356237309505f;

// One axis of the transform into points: k + 2 neighbouring values.
template <int kTile>
static inline __attribute__((always_inline)) void to_points(const typename V::Vec (&d)[kTile + 2],
                                                            typename V::Vec (&t)[kTile + 2]) {
  using Vec = typename V::Vec;
  const auto times = [](float x, Vec v) { return V::mul(V::set1(x), v); };
  const auto fma = [](float x, Vec v, Vec w) { return V::fma(V::set1(x), v, w); };
  if constexpr (kTile == 4) {
    t[0] = fma(-2.5f, d[2], V::add(d[0], d[4]));
    const Vec even_a = fma(-2.0f, d[2], d[4]), odd_a = fma(-2.0f, d[1], d[3]);
    const Vec even_b = fma(-0.5f, d[2], d[4]), odd_b = fma(-0.5f, d[1], d[3]);
    t[1] = fma(kA, odd_a, even_a);
    t[2] = fma(-kA, odd_a, even_a);
    t[3] = fma(-2.5f, d[3], V::add(d[1], d[5]));
    t[4] = fma(kB, odd_b, even_b);
    t[5] = fma(-kB, odd_b, even_b);
  } else if constexpr (kTile == 3) {
    // (x - b) times the polynomials of a tile of two.
    const Vec e0 = fma(-kB, d[0], d[1]), e1 = fma(-kB, d[1], d[2]), e2 = fma(-kB, d[2], d[3]);
    const Vec e3 = fma(-kB, d[3], d[4]);
    t[0] = fma(kB, e2, times(-kA, e0));
    t[1] = fma(1.5f * kB, e2, times(1.5f, e1));
    t[2] = fma(kA, e2, times(-0.5f, e1));
    t[3] = fma(-0.5f, e1, e3);
    t[4] = fma(2 * kB, d[3], times(-kB, d[1]));
  } else {
    const Vec even = times(-1.5f, d[2]);
    t[0] = fma(-2.0f, d[2], d[0]);
    t[1] = fma(-1.5f * kA, d[1], even);
    t[2] = fma(1.5f * kA, d[1], even);
    if constexpr (kTile == 2) t[3] = fma(-0.5f, d[1], d[3]);
  }
}

// One axis of the way back.
template <int kTile>
static inline __attribute__((always_inline)) void from_points(const typename V::Vec (&m)[kTile + 2],
                                                              typename V::Vec (&y)[kTile]) {
  using Vec = typename V::Vec;
  const auto times = [](float x, Vec v) { return V::mul(V::set1(x), v); };
  const auto fma = [](float x, Vec v, Vec w) { return V::fma(V::set1(x), v, w); };
  const Vec sum_a = V::add(m[1], m[2]), difference_a = V::sub(m[1], m[2]);
  if constexpr (kTile == 4) {
    const Vec sum_b = V::add(m[4], m[5]), difference_b = V::sub(m[4], m[5]);
    y[0] = V::add(V::add(m[0], sum_a), sum_b);
    y[1] = fma(kB, difference_b, times(kA, difference_a));
    y[2] = fma(2.0f, sum_b, times(0.5f, sum_a));
    y[3] = V::add(fma(2 * kB, difference_b, times(0.5f * kA, difference_a)), m[3]);
  } else if constexpr (kTile == 3) {
    y[0] = V::add(V::add(m[0], sum_a), m[4]);
    y[1] = fma(kB, m[4], times(kA, difference_a));
    y[2] = V::add(fma(2.0f, m[4], times(0.5f, sum_a)), m[3]);
  } else {
    y[0] = V::add(m[0], sum_a);
    if constexpr (kTile == 2) y[1] = fma(kA, difference_a, m[3]);
  }
}

// The same of stride 2: output i is two weights over the even inputs i and i + 1, at the first k + 1 points, and one
// weight over the odd input i, multiplied as it is.
template <int kTile>
static inline __attribute__((always_inline)) void to_points_strided(const typename V::Vec (&d)[2 * kTile + 1],
                                                                    typename V::Vec (&t)[2 * kTile + 1]) {
  typename V::Vec even[kTile + 1], points[kTile + 1];
#pragma GCC unroll 5
  for (int i = 0; i < kTile + 1; ++i) even[i] = d[2 * i];
  if constexpr (kTile == 1) {
    points[1] = V::mul(V::set1(-1.5f / kA), even[1]);
    points[0] = V::fma(V::set1(-1.0f / kA), even[1], even[0]);
  } else {
    to_points<kTile - 1>(even, points);
  }
#pragma GCC unroll 5
  for (int i = 0; i < kTile + 1; ++i) t[i] = points[i];
#pragma GCC unroll 4
  for (int i = 0; i < kTile; ++i) t[kTile + 1 + i] = d[2 * i + 1];
}

template <int kTile>
static inline __attribute__((always_inline)) void from_points_strided(const typename V::Vec (&m)[2 * kTile + 1],
                                                                      typename V::Vec (&y)[kTile]) {
  using Vec = typename V::Vec;
  const auto fma = [](float x, Vec v, Vec w) { return V::fma(V::set1(x), v, w); };
#pragma GCC unroll 4
  for (int i = 0; i < kTile; ++i) y[i] = m[kTile + 1 + i];
  if constexpr (kTile == 1) {
    y[0] = V::add(y[0], V::add(m[0], m[1]));
  } else {
    const Vec sum = V::add(m[1], m[2]), difference = V::sub(m[1], m[2]);
    y[0] = V::add(y[0], V::add(m[0], sum));
    y[1] = fma(kA, difference, y[1]);
    if constexpr (kTile > 2) y[2] = fma(0.5f, sum, y[2]);
    if constexpr (kTile == 3) y[2] = V::add(y[2], m[3]);
    if constexpr (kTile == 4) {
      y[0] = V::add(y[0], m[4]);
      y[1] = fma(kB, m[4], y[1]);
      y[2] = fma(2.0f, m[4], y[2]);
      y[3] = V::add(fma(2 * kB, m[4], fma(0.5f * kA, difference, y[3])), m[3]);
    }
  }
}

// Of one axis and stride: input values of a tile, which are as many as its points, and both transforms.
template <int kStride, int kTile>
struct Axis {
  static constexpr int kPoints = kStride == 1 ? kTile + 2 : 2 * kTile + 1;
  using Values = typename V::Vec[kPoints];
  using Outputs = typename V::Vec[kTile];
  // Where point i of this tile lies among those of a tile of so many outputs.
  static int place(int i, int outputs) { return kStride == 1 || i <= kTile ? i : i + outputs - kTile; }
  static inline __attribute__((always_inline)) void in(const Values& d, Values& t) {
    if constexpr (kStride == 1)
      to_points<kTile>(d, t);
    else
      to_points_strided<kTile>(d, t);
  }
  static inline __attribute__((always_inline)) void out(const Values& m, Outputs& y) {
    if constexpr (kStride == 1)
      from_points<kTile>(m, y);
    else
      from_points_strided<kTile>(m, y);
  }
};

// How an image is cut into tiles, and where those of a block lie in its arrays.
struct Tiling {
  WinogradTile tile;
  int rows, columns;                  // tiles of an image
  int whole_rows, whole_columns;      // of these, those that are whole
  int rest_h, rest_w;                 // outputs of the others
  int64_t before[2][2], first[2][2];  // [rest along y][rest along x]: tiles before the block, and the first one's slot
  int64_t count[2][2];

  explicit Tiling(const WinogradArgs& a)
      : tile(a.tile),
        rows((a.h + a.tile.h - 1) / a.tile.h),
        columns((a.w + a.tile.w - 1) / a.tile.w),
        whole_rows(a.h / a.tile.h),
        whole_columns(a.w / a.tile.w),
        rest_h(a.h % a.tile.h),
        rest_w(a.w % a.tile.w) {
    int64_t slot = 0;
    for (int kind = 0; kind < 4; ++kind) {
      // Whole rows' rests, whole tiles, rest of whole columns, the corner: a point that needs whole tiles along y takes
      // part in the first two kinds, one that needs them along x in the two in the middle.
      const int y = kind / 2, x = kind == 0 || kind == 3;
      before[y][x] = tiles_before(a.block_begin, y, x);
      count[y][x] = tiles_before(a.block_end, y, x) - before[y][x];
      first[y][x] = slot;
      slot += count[y][x];
    }
  }

  // Tiles of one kind before a position in (n, y, x) order.
  int64_t tiles_before(int64_t position, int rest_y, int rest_x) const {
    const int64_t n = position / (rows * columns);
    const int y = int(position / columns % rows), x = int(position % columns);
    const int of_rows = rest_y ? rows - whole_rows : whole_rows;
    const int of_columns = rest_x ? columns - whole_columns : whole_columns;
    const int y_before = rest_y ? 0 : y < whole_rows ? y : whole_rows;  // of the image's last row nothing is behind
    const int x_before = rest_x ? (x > whole_columns ? x - whole_columns : 0) : x < whole_columns ? x : whole_columns;
    const bool same = (y >= whole_rows) == bool(rest_y);
    return (n * of_rows + y_before) * of_columns + (same ? x_before : 0);
  }

  // Slots of the tiles in which a point takes part.
  void range(int point_y, int point_x, int64_t& begin, int64_t& end) const {
    const bool whole_y = rest_h == 0 || tile.least_h(point_y) > rest_h;
    const bool whole_x = rest_w == 0 || tile.least_w(point_x) > rest_w;
    begin = whole_x ? first[0][0] : 0;
    end = whole_y ? first[1][0] : whole_x ? first[1][1] : first[1][1] + count[1][1];
  }
};

// Tiles in (n, y, x) order, and the slot of each.
struct TileWalk {
  const Tiling& tiling;
  int n, y, x;
  int64_t slots[2][2];

  TileWalk(const Tiling& t, int64_t position)
      : tiling(t),
        n(int(position / (t.rows * t.columns))),
        y(int(position / t.columns % t.rows)),
        x(int(position % t.columns)) {
    for (int i = 0; i < 2; ++i)
      for (int j = 0; j < 2; ++j) slots[i][j] = t.first[i][j] + t.tiles_before(position, i, j) - t.before[i][j];
  }
  bool rest_y() const { return y >= tiling.whole_rows; }
  bool rest_x() const { return x >= tiling.whole_columns; }
  int height() const { return rest_y() ? tiling.rest_h : tiling.tile.h; }
  int width() const { return rest_x() ? tiling.rest_w : tiling.tile.w; }
  int64_t slot() const { return slots[rest_y()][rest_x()]; }
  void next() {
    ++slots[rest_y()][rest_x()];
    if (++x == tiling.columns) {
      x = 0;
      if (++y == tiling.rows) y = 0, ++n;
    }
  }
};

// One tile of one plane. offsets: of its input pixels in the plane, as many as it has points.
template <int kStride, int kH, int kW>
static void tile_to_points(const WinogradArgs& a, const int64_t* offsets, int64_t slot, int plane, int y_begin,
                           int y_end) {
  using Y = Axis<kStride, kH>;
  using X = Axis<kStride, kW>;
  const float* in = a.in + plane * a.in_plane;
  float* to = a.points + plane * a.points_plane + slot * kLanes;
  const int64_t pitch = a.points_pitch, row_pitch = a.tile.points_w() * pitch;
#pragma GCC unroll 1
  for (int lane = 0; lane < kLanes; lane += V::kWidth, in += V::kWidth, to += V::kWidth) {
    typename V::Vec t[X::kPoints][Y::kPoints];
#pragma GCC unroll 9
    for (int x = 0; x < X::kPoints; ++x) {
      typename Y::Values d;
#pragma GCC unroll 9
      for (int y = 0; y < Y::kPoints; ++y) d[y] = V::load(in + offsets[y * X::kPoints + x]);
      Y::in(d, t[x]);
    }
#pragma GCC unroll 9
    for (int y = 0; y < Y::kPoints; ++y) {
      const int place = Y::place(y, a.tile.h);
      if (place < y_begin || place >= y_end) continue;
      float* const row = to + place * row_pitch;
      typename X::Values d, p;
#pragma GCC unroll 9
      for (int x = 0; x < X::kPoints; ++x) d[x] = t[x][y];
      X::in(d, p);
#pragma GCC unroll 9
      for (int x = 0; x < X::kPoints; ++x) V::store(row + X::place(x, a.tile.w) * pitch, p[x]);
    }
  }
}

// The same back, from products to output pixels. pixel: of its first output; residual: that one's shortcut pixel.
template <int kStride, int kH, int kW>
static void tile_from_points(const WinogradArgs& a, int64_t pixel, const float* residual, int64_t slot, int plane_begin,
                             int plane_end) {
  using Y = Axis<kStride, kH>;
  using X = Axis<kStride, kW>;
  const Epilogue& e = a.epilogue;
  const int64_t row_floats = int64_t(a.w) * kLanes;
  const int64_t residual_x = int64_t(e.residual_stride) * kLanes, residual_y = residual_x * e.residual_w;
  const typename V::Vec zero = V::set1(0.0f);
  for (int plane = plane_begin; plane < plane_end; ++plane) {
    const float* from = a.products + (plane - a.products_first) * a.products_plane + slot * kLanes;
    for (int lane = 0; lane < kLanes; lane += V::kWidth) {
      typename V::Vec t[kH][X::kPoints];
#pragma GCC unroll 9
      for (int x = 0; x < X::kPoints; ++x) {
        const float* const column = from + X::place(x, a.tile.w) * a.products_pitch + lane;
        typename Y::Values m;
        typename Y::Outputs y;
#pragma GCC unroll 9
        for (int i = 0; i < Y::kPoints; ++i)
          m[i] = V::load(column + int64_t(Y::place(i, a.tile.h)) * a.tile.points_w() * a.products_pitch);
        Y::out(m, y);
#pragma GCC unroll 4
        for (int i = 0; i < kH; ++i) t[i][x] = y[i];
      }
      const int channel = plane * kLanes + lane;
      const typename V::Vec bias = V::load(e.bias + channel);
      const typename V::Vec scale = e.preact ? V::load(e.scale + channel) : zero;
      const typename V::Vec shift = e.preact ? V::load(e.shift + channel) : zero;
#pragma GCC unroll 4
      for (int i = 0; i < kH; ++i) {
        typename V::Vec value[kW];
        X::out(t[i], value);
        const int64_t at = plane * e.plane + pixel * kLanes + i * row_floats + lane;
#pragma GCC unroll 4
        for (int j = 0; j < kW; ++j) value[j] = V::add(value[j], bias);
        if (e.linear) {
#pragma GCC unroll 4
          for (int j = 0; j < kW; ++j) V::store(e.linear + at + j * kLanes, value[j]);
        }
        if (e.residual) {
          const float* shortcut = residual + plane * e.residual_plane + i * residual_y + lane;
#pragma GCC unroll 4
          for (int j = 0; j < kW; ++j) value[j] = V::add(value[j], V::load(shortcut + j * residual_x));
        }
        if (e.relu) {
#pragma GCC unroll 4
          for (int j = 0; j < kW; ++j) value[j] = V::max(zero, value[j]);
        }
        if (e.out) {
#pragma GCC unroll 4
          for (int j = 0; j < kW; ++j) V::store(e.out + at + j * kLanes, value[j]);
        }
        if (e.preact) {
          float* preact = e.preact + plane * e.preact_plane + pixel * kLanes + i * row_floats + lane;
#pragma GCC unroll 4
          for (int j = 0; j < kW; ++j) V::store(preact + j * kLanes, V::max(zero, V::fma(value[j], scale, shift)));
        }
      }
    }
  }
}

constexpr int kMostInputs = 9 * 9;  // of a tile
constexpr int kTilesAtOnce = 16;    // of one plane before the next: rows of the map are read as streams

template <int kStride>
static void winograd_in_of(const WinogradArgs& a, int64_t begin, int64_t end, int plane_begin, int plane_end,
                           int y_begin, int y_end) {
  using Transform = void (*)(const WinogradArgs&, const int64_t*, int64_t, int, int, int);
  constexpr Transform kTransforms[4][4] = {
      {tile_to_points<kStride, 1, 1>, tile_to_points<kStride, 1, 2>, tile_to_points<kStride, 1, 3>,
       tile_to_points<kStride, 1, 4>},
      {tile_to_points<kStride, 2, 1>, tile_to_points<kStride, 2, 2>, tile_to_points<kStride, 2, 3>,
       tile_to_points<kStride, 2, 4>},
      {tile_to_points<kStride, 3, 1>, tile_to_points<kStride, 3, 2>, tile_to_points<kStride, 3, 3>,
       tile_to_points<kStride, 3, 4>},
      {tile_to_points<kStride, 4, 1>, tile_to_points<kStride, 4, 2>, tile_to_points<kStride, 4, 3>,
       tile_to_points<kStride, 4, 4>},
  };
  const Tiling tiling(a);
  const int64_t zero = int64_t(a.n) * a.in_h * a.in_w * kLanes;  // the pixel of zeros behind each plane
  TileWalk at(tiling, begin);
  while (begin < end) {
    int64_t offsets[kTilesAtOnce][kMostInputs], slots[kTilesAtOnce];
    Transform transforms[kTilesAtOnce];
    int count = 0;
    for (; count < kTilesAtOnce && begin < end; ++begin, ++count, at.next()) {
      const int y0 = at.y * a.tile.h * kStride - 1, x0 = at.x * a.tile.w * kStride - 1;
      const int high = a.tile.points_of(at.height()), wide = a.tile.points_of(at.width());
      slots[count] = at.slot();
      transforms[count] = kTransforms[at.height() - 1][at.width() - 1];
      int64_t* offset = offsets[count];
      for (int y = y0; y < y0 + high; ++y)
        for (int x = x0; x < x0 + wide; ++x) {
          const bool inside = unsigned(y) < unsigned(a.in_h) && unsigned(x) < unsigned(a.in_w);
          *offset++ = inside ? ((int64_t(at.n) * a.in_h + y) * a.in_w + x) * kLanes : zero;
        }
    }
    for (int plane = plane_begin; plane < plane_end; ++plane)
      for (int i = 0; i < count; ++i) transforms[i](a, offsets[i], slots[i], plane, y_begin, y_end);
  }
}

template <int kStride>
static void winograd_out_of(const WinogradArgs& a, int64_t begin, int64_t end, int plane_begin, int plane_end) {
  using Transform = void (*)(const WinogradArgs&, int64_t, const float*, int64_t, int, int);
  constexpr Transform kTransforms[4][4] = {
      {tile_from_points<kStride, 1, 1>, tile_from_points<kStride, 1, 2>, tile_from_points<kStride, 1, 3>,
       tile_from_points<kStride, 1, 4>},
      {tile_from_points<kStride, 2, 1>, tile_from_points<kStride, 2, 2>, tile_from_points<kStride, 2, 3>,
       tile_from_points<kStride, 2, 4>},
      {tile_from_points<kStride, 3, 1>, tile_from_points<kStride, 3, 2>, tile_from_points<kStride, 3, 3>,
       tile_from_points<kStride, 3, 4>},
      {tile_from_points<kStride, 4, 1>, tile_from_points<kStride, 4, 2>, tile_from_points<kStride, 4, 3>,
       tile_from_points<kStride, 4, 4>},
  };
  const Tiling tiling(a);
  const Epilogue& e = a.epilogue;
  TileWalk at(tiling, begin);
  for (int64_t i = begin; i < end; ++i, at.next()) {
    const int y = at.y * a.tile.h, x = at.x * a.tile.w;
    const float* residual = nullptr;
    if (e.residual)
      residual =
          e.residual +
          ((int64_t(at.n) * e.residual_h + y * e.residual_stride) * e.residual_w + x * e.residual_stride) * kLanes;
    const int64_t pixel = (int64_t(at.n) * a.h + y) * a.w + x;
    kTransforms[at.height() - 1][at.width() - 1](a, pixel, residual, at.slot(), plane_begin, plane_end);
  }
}

static void winograd_in(const WinogradArgs& a, int64_t begin, int64_t end, int plane_begin, int plane_end, int y_begin,
                        int y_end) {
  const auto of_stride = a.tile.stride == 1 ? winograd_in_of<1> : winograd_in_of<2>;
  of_stride(a, begin, end, plane_begin, plane_end, y_begin, y_end);
}

static void winograd_out(const WinogradArgs& a, int64_t begin, int64_t end, int plane_begin, int plane_end) {
  const auto of_stride = a.tile.stride == 1 ? winograd_out_of<1> : winograd_out_of<2>;
  of_stride(a, begin, end, plane_begin, plane_end);
}

// One point and one output tile is a 1x1 convolution whose pixels are tiles.
static void winograd_multiply(const WinogradArgs& a, int point_begin, int point_end, int tile_begin, int tile_end) {
  constexpr int kWidth = V::kVectors * V::kWidth;
  constexpr int kStepLines = kWidth;  // cache lines of weights for one plane
  const Tiling tiling(a);
  const int points_w = a.tile.points_w(), points = a.tile.points();
  // Of a point; the next one may have the same.
  const auto weights_of = [&a, points_w](int tile, int point) {
    const int y = a.tile.weight_y(point / points_w), x = a.tile.weight_x(point % points_w);
    return a.weights + (int64_t(tile) * a.tile.weights() + y * a.tile.weights_w() + x) * a.weights_pitch;
  };
  ConvArgs c;
  c.in_plane = a.points_plane, c.planes = a.planes;
  c.epilogue.bias = a.zeros, c.epilogue.plane = a.products_plane;
  for (int point = point_begin; point < point_end; ++point) {
    int64_t begin, end;
    tiling.range(point / points_w, point % points_w, begin, end);
    if (begin == end) continue;
    const float* const in = a.points + point * a.points_pitch;
    const PixelTiles tiles(end - begin);
    const int share = (kStepLines + tiles.tiles - 1) / tiles.tiles;
    for (int tile = tile_begin; tile < tile_end; ++tile) {
      const int plane = tile * kWidth / kLanes;
      c.weights = weights_of(tile, point);
      c.out_planes = a.out_planes - plane;
      c.epilogue.out = a.products + point * a.products_pitch + (plane - a.products_first) * a.products_plane;
      // What is multiplied next: the next output tile, or the next point, whose weights lie behind these.
      const float* next = nullptr;
      if (tile + 1 < tile_end)
        next = weights_of(tile + 1, point);
      else if (point + 1 < points)
        next = weights_of(tile_begin, point + 1);
      else if (plane + kWidth / kLanes < a.out_planes)
        next = weights_of(tile + 1, 0);
      int64_t slot = begin;
      for (int t = 0; t < tiles.tiles; slot += tiles.count(t++)) {
        const float* rows[V::kRows + 1] = {in + slot * kLanes};
        const Ahead ahead{next + t * share * kLanes, next && t * share < kStepLines ? share : 0};
        conv_pixels<Rows::kContiguous>(c, tiles.count(t), rows, slot, 0, ahead);
      }
    }
  }
}
