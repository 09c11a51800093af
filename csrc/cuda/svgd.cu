// svgd_step in CUDA; its front: ../common/ops/svgd.h. An image's n particles of D elements need two n x n matrices, of
// squared distances and, to bring both terms of the step to one size, of the scores' products; no entry ever joins two
// images. Particles and scores are read for the matrices and again, from the cache where they fit, for the update.
//
// move_image, one launch, where there are clusters that hold particles and scores of an image, runs of 16 bytes can be
//   read and each coordinate moves by itself: a cluster an image, whose blocks copy their shares of the coordinates to
//   shared memory and add up their parts of the matrices in order. Nothing is read twice.
// alone_on_image, one launch, where they fit into a cache of kCacheBytes: a block an image.
// Two launches, where not: pair_sums, a block a (image, share of the coordinates), leaves its part of the matrices;
//   then, adding up the parts in order,
//   move_shares, the same grid, where each coordinate moves by itself, or
//   move_whole, a block a (image, particle), where a step or a ball of l2 norm needs all of a particle.
// Shares are so large that the grid fills a GPU, within bounds.
#include "../common/ops/svgd.h"

#include "cluster.h"
#include "step.h"

namespace fastadv {
namespace {

constexpr int kMostParticles = 32;
constexpr int kMostPairs = kMostParticles * kMostParticles;
// Of so many pairs at most each thread counts the lesser ones; more are selected from by radix.
constexpr int kFewPairs = 192;
// Particles are taken in tiles of this many, so that each element read takes part in several products.
constexpr int kTile = 4;
constexpr int kTilePairs = kTile * kTile;
// The first-level cache of an sm_80, the smallest of those we ship for.
constexpr int64_t kCacheBytes = 192 * 1024;
// Coordinates in a share, and blocks that fill a GPU.
constexpr int64_t kLeastShare = 256;
constexpr int64_t kMostShare = 4096;
constexpr int64_t kEnoughBlocks = 256;

// Adds up each of a tile's 16 numbers over the warp and returns in lane l the sum of number l % 16: every exchange
// halves how many numbers a lane is left with, and the last one joins the two lanes that hold the same number.
template <int K, class A>
DEVICE A fold(const A (&x)[K]) {
  if constexpr (K == 1) {
    A total = x[0];
#pragma unroll
    for (int offset = kTilePairs; offset < kWarp; offset *= 2) total += __shfl_xor_sync(kAllLanes, total, offset);
    return total;
  } else {
    constexpr int kHalf = K / 2;
    const bool upper = threadIdx.x & kHalf;
    A halved[kHalf];
#pragma unroll
    for (int k = 0; k < kHalf; ++k) {
      const A kept = upper ? x[k + kHalf] : x[k], given = upper ? x[k] : x[k + kHalf];
      halved[k] = kept + __shfl_xor_sync(kAllLanes, given, kHalf);
    }
    return fold(halved);
  }
}

// Where the tiles on and below the diagonal of an n x n matrix lie.
struct TileIndex {
  int row = 0;
  int column;

  DEVICE explicit TileIndex(int index) : column(index) {
    while (column > row) column -= ++row;
    row *= kTile;
    column *= kTile;
  }

  DEVICE static int count(int n) {
    const int tiles = (n + kTile - 1) / kTile;
    return tiles * (tiles + 1) / 2;
  }
};

// The sums of a tile's 16 pairs of the n vectors, over runs of the coordinates from begin to end that lie `stride`
// apart: of squared differences, or where kDistance is false of products. Lane l returns number l % 16. Distances are
// summed from differences: by way of products they would drown in rounding.
template <int kWidth, bool kDistance, class A, class T>
DEVICE A sum_tile(const T* vectors /* [n, D] */, int n, int64_t size, const TileIndex& tile, int64_t begin, int64_t end,
                  int64_t stride) {
  const int i = tile.row, j = tile.column;
  A sums[kTilePairs] = {};
  for (int64_t at = begin + int64_t{threadIdx.x % kWarp} * kWidth; at < end; at += stride) {
    A a[kTile][kWidth], b[kTile][kWidth];
#pragma unroll
    for (int k = 0; k < kTile; ++k) {
      load(vectors + (i + k < n ? i + k : n - 1) * size + at, a[k]);
      load(vectors + (j + k < n ? j + k : n - 1) * size + at, b[k]);
    }
#pragma unroll
    for (int pair = 0; pair < kTilePairs; ++pair) {
#pragma unroll
      for (int e = 0; e < kWidth; ++e) {
        const A p = a[pair / kTile][e], q = b[pair % kTile][e];
        sums[pair] = kDistance ? std::fma(p - q, p - q, sums[pair]) : std::fma(p, q, sums[pair]);
      }
    }
  }
  return fold(sums);
}

// Squared distances of all pairs of the n particles and, unless `score` is null, the inner products of their scores,
// over the coordinates from begin to end, by the whole block; n x n each, symmetric. A warp takes a tile of a matrix,
// and where there are more warps than tiles a part of the coordinates.
template <int kWidth, class T, class A>
DEVICE void sum_pairs(const T* particles /* [n, D] */, const T* score /* [n, D] */, int n, int64_t size, int64_t begin,
                      int64_t end, A* distance, A* product) {
  SHARED_ARRAY(A, partial, kMaxWarps * kTilePairs);
  const int warps = blockDim.x / kWarp, warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int tiles = TileIndex::count(n), sums = score ? 2 * tiles : tiles;
  const int chunks = warps > sums ? warps / sums : 1;
  const int64_t run = int64_t{kWarp} * kWidth;
  const auto write = [&](int index, int entry, A total) {
    const TileIndex tile(index % tiles);
    A* const matrix = index < tiles ? distance : product;
    const int p = tile.row + entry / kTile, q = tile.column + entry % kTile;
    if (p >= n || q >= n) return;
    matrix[p * n + q] = total;
    // On the diagonal both halves are summed.
    if (tile.row > tile.column) matrix[q * n + p] = total;
  };
  for (int task = warp; task < sums * chunks; task += warps) {
    const int index = task % sums;
    const int64_t first = begin + task / sums * run;
    const TileIndex tile(index % tiles);
    const A total = index < tiles
                        ? sum_tile<kWidth, true, A>(particles, n, size, tile, first, end, chunks * run)
                        : sum_tile<kWidth, false, A>(score, n, size, tile, first, end, chunks * run);
    if (lane >= kTilePairs) continue;
    if (chunks == 1) {
      write(index, lane, total);
    } else {
      partial[task * kTilePairs + lane] = total;
    }
  }
  __syncthreads();
  if (chunks == 1) return;
  for (int number = threadIdx.x; number < sums * kTilePairs; number += blockDim.x) {
    A total = 0;
    for (int chunk = 0; chunk < chunks; ++chunk) total += partial[chunk * sums * kTilePairs + number];
    write(number / kTilePairs, number % kTilePairs, total);
  }
  __syncthreads();
}

// The distances of all pairs, as find_largest looks at them.
template <class A>
struct Pairs {
  const A* distance;
  int count;

  template <class Visit>
  DEVICE void directions(const Visit& visit) const {
    for (int own = threadIdx.x; own < count; own += blockDim.x) {
      const A one[1] = {distance[own]};
      visit(one);
    }
  }
};

// The lower median of the distances i < j; NaN where there is no pair or one is NaN. `pair` is room for all of them.
template <class A>
DEVICE A median(const A* distance /* [n, n] */, int n, A* pair) {
  constexpr A kNone = std::numeric_limits<A>::infinity();
  const Pairs<A> pairs{pair, n * (n - 1) / 2};
  bool ordered = n > 1;
  for (int entry = threadIdx.x; entry < n * n; entry += blockDim.x) {
    const int i = entry / n, j = entry % n;
    if (j >= i) continue;
    pair[i * (i - 1) / 2 + j] = distance[entry];
    ordered = ordered && distance[entry] == distance[entry];
  }
  __syncthreads();
  const int before = (pairs.count - 1) / 2;
  A least = kNone;
  if (pairs.count <= kFewPairs) {
    // The least distance that with all below it is more than come before the median.
    for (int own = threadIdx.x; own < pairs.count; own += blockDim.x) {
      const A mine = pair[own];
      int reached = 0;
      for (int other = 0; other < pairs.count; ++other) reached += pair[other] <= mine;
      if (reached > before && mine < least) least = mine;
    }
  } else {
    const int wanted = pairs.count - before;
    const Largest<A> selected = find_largest<A>(BlockTeam(), pairs, wanted);
    // Where fewer are above zero, the median is zero.
    if (selected.count < wanted) least = 0;
    pairs.directions([&](const auto& one) {
      if (one[0] >= selected.least && one[0] < least) least = one[0];
    });
  }
  A result[2] = {least, A(ordered ? 0 : 1)};
  BlockTeam().combine<Smaller, Sum>(result);
  return result[1] > 0 ? std::numeric_limits<A>::quiet_NaN() : result[0];
}

// Where the products of the scores underflow or overflow, replaces them by those of the scores times a power of two and
// returns that; else 1. Each block of the image reads all of its scores once more then, which few images need.
template <class T, class A>
DEVICE A keep_digits(const T* score /* [n, D] */, int n, int64_t size, A* product /* [n, n] */) {
  A most = 0;
  for (int i = 0; i < n; ++i) most = Larger()(most, product[i * n + i]);
  if (keeps_its_digits(most)) return 1;
  A largest = 0;
  for (int64_t at = threadIdx.x; at < n * size; at += blockDim.x) {
    A one[1];
    load(score + at, one);
    largest = Larger()(largest, absolute<A>(one[0]));
  }
  const A scale = to_one(combined<Larger>(BlockTeam(), largest));
  if (scale == 1) return 1;
  // A warp a pair.
  const int lane = threadIdx.x % kWarp;
  for (int entry = threadIdx.x / kWarp; entry < n * n; entry += blockDim.x / kWarp) {
    const int i = entry / n, j = entry % n;
    if (j > i) continue;
    A sum = 0;
    for (int64_t at = lane; at < size; at += kWarp) {
      A a[1], b[1];
      load(score + i * size + at, a);
      load(score + j * size + at, b);
      sum = std::fma(scale * a[0], scale * b[0], sum);
    }
    const A total = combined<Sum>(WarpTeam(), sum);
    if (lane == 0) product[i * n + j] = product[j * n + i] = total;
  }
  __syncthreads();
  return scale;
}

// Coefficients of  phi_i = sum_j attract_ij score_j + repel_ij (x_i - x_j), both n x n, written over the inputs, which
// all threads see.
template <class T, class A>
DEVICE void coefficients(A* distance, A* product, const SteinStep<T, A>& step, int64_t image) {
  const int n = static_cast<int>(step.count);
  const Stein<A>& stein = step.stein;
  SHARED_ARRAY(A, kernel, kMostPairs);
  A precision = 0;
  if (stein.bandwidth > 0) {
    precision = 1 / (stein.bandwidth * stein.bandwidth);
  } else {
    const A middle = median(distance, n, kernel);
    // A flat kernel without repulsion where the median distance is zero or there is no pair.
    if (middle > 0) precision = 2 * std::log(static_cast<A>(n + 1)) / middle;
  }
  const int pairs = n * n;
  for (int entry = threadIdx.x; entry < pairs; entry += blockDim.x) {
    kernel[entry] = std::exp(A(-0.5) * distance[entry] * precision) / n;
  }
  __syncthreads();
  A scale = stein.score_scale;
  if (stein.equal_rms) {
    const A multiplied = keep_digits(step.score + image * n * step.size, n, step.size, product);
    // Squared lengths summed over the particles, with K the kernel and d the squared distances: of the attraction
    //   sum_jk (K K)_jk score_j . score_k,
    // of the repulsion, since (x_i - x_j).(x_i - x_k) = (d_ij + d_ik - d_jk) / 2, half of
    //   sum_jk d_jk (K_jk sum_i (K_ij + K_ik) - (K K)_jk),
    // where the diagonal of K, which no particle is repelled by, is zero: it would cancel, and what a narrow kernel
    // leaves beside it would be lost to rounding.
    double pull_and_push[2] = {0, 0};
    for (int entry = threadIdx.x; entry < pairs; entry += blockDim.x) {
      const int j = entry / n, k = entry % n;
      double squared = 0, apart = 0, sums = 0;
      // All matrices are symmetric; down the columns, threads side by side read numbers side by side.
      for (int i = 0; i < n; ++i) {
        const double a = kernel[i * n + j], b = kernel[i * n + k];
        const double to_j = i == j ? 0 : a, to_k = i == k ? 0 : b;
        squared = std::fma(a, b, squared);
        apart = std::fma(to_j, to_k, apart);
        sums += to_j + to_k;
      }
      pull_and_push[0] += squared * product[entry];
      pull_and_push[1] += (kernel[entry] * sums - apart) * distance[entry];
    }
    BlockTeam().combine<Sum>(pull_and_push);
    const double pull = pull_and_push[0], push = 0.5 * precision * precision * pull_and_push[1];
    scale = pull > 0 && push > 0 ? finite<A>(std::sqrt(push / pull) * multiplied) : A(1);
  }
  for (int entry = threadIdx.x; entry < pairs; entry += blockDim.x) {
    product[entry] = scale * kernel[entry];
    distance[entry] = entry / n == entry % n ? A(0) : kernel[entry] * precision;
  }
  __syncthreads();
}

// The direction of a particle, made where it is wanted from all particles and scores of its image.
template <class T, class A>
struct SteinDirection {
  const T* particles;  // [n, D]
  const T* score;      // [n, D]
  const A* attract;    // [n, n]
  const A* repel;      // [n, n]
  int n;
  int particle;
  int64_t size;  // D

  template <int kWidth>
  DEVICE void read(int64_t first, A (&phi)[kWidth]) const {
    A own[kWidth];
    load(particles + particle * size + first, own);
#pragma unroll
    for (int e = 0; e < kWidth; ++e) phi[e] = 0;
    for (int j = 0; j < n; ++j) {
      const A pull = attract[particle * n + j], push = repel[particle * n + j];
      A x[kWidth], s[kWidth];
      load(particles + j * size + first, x);
      load(score + j * size + first, s);
#pragma unroll
      for (int e = 0; e < kWidth; ++e) phi[e] = std::fma(pull, s[e], std::fma(push, own[e] - x[e], phi[e]));
    }
  }
};

// The rule of svgd_step: which of its three updates is known at run time.
template <class A>
struct MoveAlongStein {
  static constexpr bool kDirected = true;
  Update update;
  A size = 0;
  UnitStep<A> unit{A(0), A(0)};

  FASTADV_INLINE bool needs_length() const { return update == Update::kL2; }
  FASTADV_INLINE void set(A step_size, A length) {
    size = step_size;
    unit = UnitStep<A>(length, step_size);
  }
  FASTADV_INLINE A operator()(A x, A direction) const {
    if (update == Update::kSign) return move_by_sign<A>(x, direction, size);
    return x + (update == Update::kL2 ? unit(direction) : size * direction);
  }
};

// Of two launches: the shares of an image's coordinates, and each share's part of both matrices.
template <class A>
struct Shares {
  int64_t count;
  int64_t size;  // coordinates
  A* parts;      // [N, shares, 2, n, n]
};

// Vectors of an image's particles, `stride` apart.
template <class T>
struct Vectors {
  const T* particles;
  const T* score;
  int64_t stride;
};

// Moves the coordinates from begin to end of all particles of an image, with which the vectors begin.
template <int kWidth, class T, class A>
DEVICE void move_coordinates(const SteinStep<T, A>& step, int64_t image, const Vectors<T>& vectors, const A* attract,
                             const A* repel, int64_t begin, int64_t end) {
  const int n = static_cast<int>(step.count);
  const int64_t size = step.size;
  Ball<A> ball = step.ball;
  ball.eps = step.eps[image];
  MoveAlongStein<A> rule{step.stein.update};
  rule.set(step.step_size[image], A(1));
  T* const out = step.out + image * n * size + begin;
  // A thread a run of coordinates of a tile of particles.
  const int64_t runs = (end - begin + kWidth - 1) / kWidth;
  for (int64_t item = threadIdx.x; item < runs * ((n + kTile - 1) / kTile); item += blockDim.x) {
    const int64_t run = item % runs * kWidth;
    const int i = static_cast<int>(item / runs) * kTile;
    A own[kTile][kWidth], phi[kTile][kWidth] = {};
#pragma unroll
    for (int k = 0; k < kTile; ++k) {
      load(vectors.particles + (i + k < n ? i + k : n - 1) * vectors.stride + run, own[k]);
    }
    for (int j = 0; j < n; ++j) {
      A x[kWidth], s[kWidth];
      load(vectors.particles + j * vectors.stride + run, x);
      load(vectors.score + j * vectors.stride + run, s);
#pragma unroll
      for (int k = 0; k < kTile; ++k) {
        const int entry = (i + k < n ? i + k : n - 1) * n + j;
        const A pull = attract[entry], push = repel[entry];
#pragma unroll
        for (int e = 0; e < kWidth; ++e) {
          phi[k][e] = std::fma(pull, s[e], std::fma(push, own[k][e] - x[e], phi[k][e]));
        }
      }
    }
    A centre[kWidth];
    load(step.x0 + image * size + begin + run, centre);
#pragma unroll
    for (int k = 0; k < kTile; ++k) {
      if (i + k >= n) continue;
#pragma unroll
      for (int e = 0; e < kWidth; ++e) {
        own[k][e] = project_linf<A>(rule(own[k][e], phi[k][e]), centre[e], ball);
      }
      store_at_once(out + (i + k) * size + run, own[k]);
    }
  }
}

// The vectors of an image in global memory from a coordinate on.
template <class T, class A>
DEVICE Vectors<T> vectors_from(const SteinStep<T, A>& step, int64_t image, int64_t begin) {
  const int64_t first = image * step.count * step.size + begin;
  return {step.particles + first, step.score + first, step.size};
}

// Moves one particle of an image with the whole block.
template <bool kHold, int kWidth, class T, class A>
DEVICE void move_particle(const SteinStep<T, A>& step, int64_t image, int particle, const A* attract, const A* repel) {
  const int64_t size = step.size, first = image * step.count * size, own = first + particle * size;
  Ball<A> ball = step.ball;
  ball.eps = step.eps[image];
  const SteinDirection<T, A> direction{step.particles + first, step.score + first, attract, repel,
                                       static_cast<int>(step.count), particle, size};
  // In double there are no registers left to hold the sample as well.
  constexpr bool kHeld = kHold && sizeof(A) == 4;
  move_sample<kHeld, kWidth>(BlockTeam(), step.particles + own, direction, step.x0 + image * size,
                             MoveAlongStein<A>{step.stein.update}, step.step_size[image], ball, step.norm,
                             step.out + own, size);
}

template <bool kByCoordinate, bool kHold, int kWidth, class T, class A>
KERNEL alone_on_image(SteinStep<T, A> step) {
  SHARED_ARRAY(A, distance, kMostPairs);
  SHARED_ARRAY(A, product, kMostPairs);
  const int n = static_cast<int>(step.count);
  const int64_t image = blockIdx.x, size = step.size, first = image * n * size;
  const T* const score = step.stein.equal_rms ? step.score + first : nullptr;
  sum_pairs<kWidth>(step.particles + first, score, n, size, 0, size, distance, product);
  coefficients(distance, product, step, image);
  if constexpr (kByCoordinate) {
    move_coordinates<kWidth>(step, image, vectors_from(step, image, 0), product, distance, 0, size);
  } else {
    for (int i = 0; i < n; ++i) move_particle<kHold, kWidth>(step, image, i, product, distance);
  }
}

template <int kWidth, class T, class A>
KERNEL pair_sums(SteinStep<T, A> step, Shares<A> shares) {
  const int64_t image = blockIdx.x / shares.count, begin = blockIdx.x % shares.count * shares.size;
  const int64_t end = begin + shares.size < step.size ? begin + shares.size : step.size;
  const int64_t first = image * step.count * step.size;
  const int n = static_cast<int>(step.count), pairs = n * n;
  A* const part = shares.parts + int64_t{blockIdx.x} * 2 * pairs;
  const T* const score = step.stein.equal_rms ? step.score + first : nullptr;
  sum_pairs<kWidth>(step.particles + first, score, n, step.size, begin, end, part, part + pairs);
}

// Both matrices of an image from the parts of its shares, and from these the coefficients.
template <class T, class A>
DEVICE void gather(const SteinStep<T, A>& step, const Shares<A>& shares, int64_t image, A* distance, A* product) {
  const int n = static_cast<int>(step.count), pairs = n * n;
  const A* part = shares.parts + image * shares.count * 2 * pairs;
  for (int entry = threadIdx.x; entry < pairs; entry += blockDim.x) {
    A d = 0, p = 0;
    for (int64_t share = 0; share < shares.count; ++share) {
      d += part[share * 2 * pairs + entry];
      if (step.stein.equal_rms) p += part[share * 2 * pairs + pairs + entry];
    }
    distance[entry] = d;
    product[entry] = p;
  }
  __syncthreads();
  coefficients(distance, product, step, image);
}

template <int kWidth, class T, class A>
KERNEL move_shares(SteinStep<T, A> step, Shares<A> shares) {
  SHARED_ARRAY(A, distance, kMostPairs);
  SHARED_ARRAY(A, product, kMostPairs);
  const int64_t image = blockIdx.x / shares.count, begin = blockIdx.x % shares.count * shares.size;
  gather(step, shares, image, distance, product);
  move_coordinates<kWidth>(step, image, vectors_from(step, image, begin), product, distance, begin,
                           begin + shares.size < step.size ? begin + shares.size : step.size);
}

template <bool kHold, int kWidth, class T, class A>
KERNEL move_whole(SteinStep<T, A> step, Shares<A> shares) {
  SHARED_ARRAY(A, distance, kMostPairs);
  SHARED_ARRAY(A, product, kMostPairs);
  const int64_t image = blockIdx.x / step.count;
  gather(step, shares, image, distance, product);
  move_particle<kHold, kWidth>(step, image, static_cast<int>(blockIdx.x % step.count), product, distance);
}

// Threads of a block of a cluster, and bytes of its vectors, of which a multiprocessor holds four; in double the
// registers suffice for two.
constexpr int kImageThreads = 192;
constexpr int64_t kQuarterRoom = 48 * 1024;

// `share`: coordinates of a block. Its room holds the block's part of both matrices, the whole of them, and after these
// the particles and their scores.
template <int kWidth, class T, class A>
KERNEL_OF(kImageThreads, sizeof(A) == 4 ? 4 : 2) move_image(SteinStep<T, A> step, int share) {
  if constexpr (kHasClusters) {
    SHARED_ROOM(A, room);
    const int n = static_cast<int>(step.count), pairs = n * n;
    A *const part = room, *const distance = room + 2 * pairs, *const product = distance + pairs;
    T *const particles = reinterpret_cast<T*>(product + pairs), *const score = particles + n * share;
    const int64_t image = blockIdx.x / Cluster::size();
    const ClusterPart own(step.size, share);
    const Vectors<T> from = vectors_from(step, image, own.first);
    for (int i = 0; i < n; ++i) {
      copy_run(particles + i * share, from.particles + i * from.stride, own.size);
      copy_run(score + i * share, from.score + i * from.stride, own.size);
    }
    prefetch_run(step.x0 + image * step.size + own.first, own.size);
    await_copies();
    __syncthreads();
    const bool products = step.stein.equal_rms;
    sum_pairs<kWidth>(particles, products ? score : nullptr, n, int64_t{share}, 0, int64_t{own.size}, part,
                      part + pairs);
    Cluster::barrier();
    // Each block adds up its run of the entries of all parts and gives the sums to all blocks.
    const int entries = products ? 2 * pairs : pairs, blocks = Cluster::size();
    const int run = (entries + blocks - 1) / blocks, begin = Cluster::rank() * run;
    const int end = begin + run < entries ? begin + run : entries;
    for (int entry = begin + threadIdx.x; entry < end; entry += blockDim.x) {
      A total = 0;
#pragma unroll 4
      for (int block = 0; block < blocks; ++block) total += Cluster::in_block(part, block)[entry];
#pragma unroll 4
      for (int block = 0; block < blocks; ++block) Cluster::in_block(distance, block)[entry] = total;
    }
    Cluster::barrier();
    coefficients(distance, product, step, image);
    move_coordinates<kWidth>(step, image, Vectors<T>{particles, score, share}, product, distance, own.first,
                             own.first + own.size);
  }
}

// Launches a cluster an image; false where the GPU has none that holds one.
template <int kWidth, class T, class A>
bool launch_clusters_of_images(const Device& device, const SteinStep<T, A>& step) {
  const int64_t bytes_each = 2 * step.count * static_cast<int64_t>(sizeof(T));
  const int blocks = cluster_blocks(bytes_each * step.size, step.images, kQuarterRoom);
  const int share = cluster_share<T>(step.size, blocks);
  const int64_t matrices = 4 * step.count * step.count * static_cast<int64_t>(sizeof(A));
  const int64_t items = divide_up(divide_up(step.count, int64_t{kTile}) * share / kWidth, kWarp) * kWarp;
  const Clusters clusters{step.images, blocks, static_cast<int>(items < kImageThreads ? items : kImageThreads),
                          matrices + bytes_each * share};
  const auto kernel = move_image<kWidth, T, A>;
  if (clusters_at_once(kernel, clusters, device) == 0) return false;
  LAUNCH_CLUSTERS(kernel, clusters, device, step, share);
  return true;
}

template <bool kHold, int kWidth, class T, class A>
void launch_alone(const Device& device, const SteinStep<T, A>& step) {
  const int threads = block_threads(divide_up(step.count, int64_t{kTile}) * step.size / kWidth);
  if (step.by_coordinate()) {
    LAUNCH((alone_on_image<true, false, kWidth, T, A>), step.images, threads, device, step);
  } else {
    LAUNCH((alone_on_image<false, kHold, kWidth, T, A>), step.images, threads, device, step);
  }
}

template <bool kHold, int kWidth, class T, class A>
void launch_shares(const Device& device, const SteinStep<T, A>& step, const Shares<A>& shares) {
  // A thread a run of coordinates of a tile of particles, or a warp a tile of a matrix.
  const int64_t tiles = divide_up(step.count, int64_t{kTile});
  const int threads = block_threads(tiles * shares.size / kWidth);
  LAUNCH((pair_sums<kWidth, T, A>), step.images * shares.count, threads, device, step, shares);
  if (step.by_coordinate()) {
    LAUNCH((move_shares<kWidth, T, A>), step.images * shares.count, threads, device, step, shares);
  } else {
    LAUNCH((move_whole<kHold, kWidth, T, A>), step.images * step.count, block_threads(step.size / kWidth), device, step,
           shares);
  }
}

template <class T, class A>
void move_particles(const SteinStep<T, A>& step, const Tensor& like) {
  const int64_t n = step.count, size = step.size;
  require(n <= kMostParticles, "particles must have at most 32 particles an image on CUDA");
  const Device device(like);
  const bool vectors = size % kVector<T> == 0 && aligned<kVector<T>>(step.particles, step.score, step.x0, step.out);
  // Of half precision 8 bytes at a time, for which there are registers.
  constexpr int kWidth = 16 / static_cast<int>(sizeof(A));
  if (vectors && step.by_coordinate() && launch_clusters_of_images<kWidth>(device, step)) return;
  const bool alone = 2 * n * size * static_cast<int64_t>(sizeof(T)) <= kCacheBytes;
  const int64_t wanted = divide_up(size, divide_up(kEnoughBlocks, step.images));
  const int64_t bounded = wanted < kLeastShare ? kLeastShare : wanted > kMostShare ? kMostShare : wanted;
  const int64_t share = divide_up(bounded, kLeastShare) * kLeastShare, shares = divide_up(size, share);
  const Tensor parts =
      alone ? like : empty_vector(like, step.images * shares * 2 * n * n, accumulated(like.scalar_type()));
  with_sample<T>(vectors, size, [&](auto width, auto held) {
    constexpr bool kHold = decltype(held)::value;
    if (alone) {
      launch_alone<kHold, decltype(width)::value>(device, step);
    } else {
      launch_shares<kHold, decltype(width)::value>(device, step, Shares<A>{shares, share, mutable_data<A>(parts)});
    }
  });
}

}  // namespace
}  // namespace fastadv

REGISTER_OPS(m) { m.impl("svgd_step", TORCH_BOX(&fastadv::svgd_step)); }
