// square_propose: arguments, checks and output. A backend brings `propose_windows`.
#pragma once

#include "../ball.h"
#include "../noise.h"
#include "../tensor.h"

namespace fastadv {

// A query has 2^16 counter blocks: the first places its windows, each of the next has the signs of 128 channels.
constexpr int kQueryShift = 16;
constexpr int64_t kChannelsABlock = 128;

// A square window, its upper left corner at (top, left).
struct Window {
  int64_t top;
  int64_t left;
  int64_t side;

  // As published, no window touches the last row or column but the one that fills the image.
  FASTADV_INLINE Window(uint32_t down, uint32_t across, int64_t side, int64_t height, int64_t width)
      : top(static_cast<int64_t>((uint64_t{down} * static_cast<uint64_t>(height - side)) >> 32)),
        left(static_cast<int64_t>((uint64_t{across} * static_cast<uint64_t>(width - side)) >> 32)),
        side(side) {}

  FASTADV_INLINE bool holds(int64_t row, int64_t column) const {
    return row >= top && row < top + side && column >= left && column < left + side;
  }
};

template <class T, class A>
struct Proposals {
  const T* x;            // [N, C, H, W]
  const T* x0;           // [N, C, H, W]
  T* out;                // [N, C, H, W]
  const int64_t* query;  // [N]
  const int64_t* level;  // [N]
  const int64_t* sides;  // [L]
  const A* bumps;        // [L, S, S] or null
  int64_t levels;        // L
  int64_t widest;        // S
  PerSample<A> eps;
  Ball<A> ball;
  Norm norm;
  Noise noise;
  int64_t samples;
  int64_t channels;
  int64_t height;
  int64_t width;
  bool channels_last;

  FASTADV_INLINE int64_t pixels() const { return height * width; }

  // Where in memory a pixel of a channel of a sample lies.
  FASTADV_INLINE int64_t offset(int64_t channel, int64_t row, int64_t column) const {
    const int64_t pixel = row * width + column;
    return channels_last ? pixel * channels + channel : channel * pixels() + pixel;
  }

  // The level of a sample; a level that is none counts as the nearest.
  FASTADV_INLINE int64_t level_of(int64_t n) const {
    const int64_t own = level[n];
    return own < 0 ? 0 : own < levels ? own : levels - 1;
  }

  // The side of a level's windows; one that fits neither image nor bump counts as the nearest that does.
  FASTADV_INLINE int64_t side_of(int64_t level) const {
    int64_t most = height < width ? height : width;
    if (bumps && widest < most) most = widest;
    const int64_t side = sides[level];
    return side < 1 ? 1 : side < most ? side : most;
  }

  FASTADV_INLINE A sign_of(int64_t n, int64_t channel) const {
    uint32_t words[4];
    const uint64_t block = static_cast<uint64_t>(query[n]) << kQueryShift;
    noise.words(n, block + 1 + static_cast<uint64_t>(channel / kChannelsABlock), 1, words);
    const uint32_t word = words[channel % kChannelsABlock / 32];
    return (word >> (channel % 32)) & 1 ? A(-1) : A(1);
  }
};

// The windows of one sample's query.
template <class T, class A>
struct Query {
  Window first;
  Window second;
  bool turned;
  const A* bump;  // [S, S]
  int64_t widest;

  FASTADV_INLINE static Query of(const Proposals<T, A>& all, int64_t n) {
    uint32_t words[4];
    all.noise.words(n, static_cast<uint64_t>(all.query[n]) << kQueryShift, 1, words);
    const int64_t level = all.level_of(n), side = all.side_of(level);
    return {Window(words[0], words[1], side, all.height, all.width),
            Window(words[2], words[3], side, all.height, all.width), (words[0] & 1) == 1,
            all.bumps ? all.bumps + level * all.widest * all.widest : nullptr, all.widest};
  }

  // The bump at a pixel of the first window.
  FASTADV_INLINE A bump_at(int64_t row, int64_t column) const {
    const int64_t down = row - first.top, across = column - first.left;
    return turned ? bump[across * widest + down] : bump[down * widest + across];
  }
};

// A term of an l2 or l1 norm, and the norm of their sum.
template <Norm norm, class A>
FASTADV_INLINE A norm_term(A x) {
  return norm == Norm::kL2 ? x * x : absolute<A>(x);
}

template <Norm norm, class A>
FASTADV_INLINE A norm_of(A sum) {
  return norm == Norm::kL2 ? std::sqrt(sum) : sum;
}

// The norm of a channel's patch: what the windows held, and a share of what the image has to spare. For l1 it is more
// than there is room for: a projection takes it from all over the image.
template <Norm norm, class A>
FASTADV_INLINE A patch_length(A eps, A whole, A windows, int64_t channels) {
  const A share = A(1) / static_cast<A>(channels);
  if (norm == Norm::kL2) {
    const A squares = (eps * eps - whole * whole) * share + windows * windows;
    return squares > 0 ? std::sqrt(squares) : A(0);
  }
  const A left = eps > whole ? eps - whole : A(0);
  return (left * share + windows) * static_cast<A>(channels);
}

namespace {

template <class T, class A>
void propose_windows(const Proposals<T, A>& proposals, const Tensor& like);

}  // namespace

inline Tensor square_propose(const Tensor& x, const Tensor& x0, const Tensor& query, const Tensor& level,
                             const Tensor& sides, double eps, int64_t norm, double low, double high, int64_t seed,
                             const std::optional<Tensor>& bumps, const std::optional<Tensor>& eps_n,
                             const std::optional<Tensor>& seed_t, const std::optional<Tensor>& sample_ids) {
  require_alike(x, x0);
  const Samples shape(x);
  require(x.dim() == 4, "expected images [N, C, H, W]");
  const Noise noise(seed, seed_t, sample_ids, x);
  const Norm kind = norm_of_code(norm);
  require_beside(x, query, "query");
  require_beside(x, level, "level");
  require_beside(x, sides, "sides");
  require_beside(x, bumps, "bumps");
  for (const Tensor* each : {&query, &level}) {
    require(each->scalar_type() == ScalarType::Long && each->is_contiguous() && each->numel() == shape.samples,
            "expected contiguous int64 query and level [N]");
  }
  require(sides.scalar_type() == ScalarType::Long && sides.is_contiguous() && sides.numel() > 0,
          "expected contiguous int64 sides [L]");
  require(kind == Norm::kLinf || bumps, "expected bumps for l2 and l1");
  require(!bumps || (bumps->scalar_type() == accumulated(x.scalar_type()) && bumps->is_contiguous() &&
                     bumps->dim() == 3 && bumps->size(0) == sides.numel() && bumps->size(1) == bumps->size(2)),
          "expected contiguous bumps [L, S, S] in the accumulation precision");
  // Windows lie in the image, and in the bumps.
  int64_t most = x.size(2) < x.size(3) ? x.size(2) : x.size(3);
  if (bumps && bumps->size(1) < most) most = bumps->size(1);
  if (x.numel() > 0) require_indices("sides", data<int64_t>(sides), sides.numel(), 1, most + 1);
  Tensor out = empty_as(x);
  with_dtype(x.scalar_type(), [&]<class T, class A>() {
    const Proposals<T, A> proposals{data<T>(x),
                                    data<T>(x0),
                                    mutable_data<T>(out),
                                    data<int64_t>(query),
                                    data<int64_t>(level),
                                    data<int64_t>(sides),
                                    bumps ? data<A>(*bumps) : nullptr,
                                    sides.numel(),
                                    bumps ? bumps->size(1) : 0,
                                    PerSample<A>("eps_n", eps, eps_n, x),
                                    {A(0), static_cast<A>(low), static_cast<A>(high), true},
                                    kind,
                                    noise,
                                    shape.samples,
                                    x.size(1),
                                    x.size(2),
                                    x.size(3),
                                    channels_last(x)};
    if (shape.samples * shape.size > 0) propose_windows(proposals, x);
  });
  return out;
}

}  // namespace fastadv
