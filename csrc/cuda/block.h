// Sums, maxima and histograms over the threads of a warp or a block. Sums are taken in one fixed order and counts are
// whole numbers, so results never vary from run to run, and every thread receives the same bits.
#pragma once

#include "launch.h"

namespace fastadv {

constexpr int kWarp = 32;
constexpr int kMaxWarps = kMaxThreads / kWarp;
constexpr unsigned kAllLanes = 0xffffffffu;

struct Sum {
  template <class A>
  DEVICE A operator()(A a, A b) const {
    return a + b;
  }
};

// A NaN is the result only where `a` is it; callers look for NaN in sums.
struct Larger {
  template <class A>
  DEVICE A operator()(A a, A b) const {
    return b > a ? b : a;
  }
};

// Calls f(k, combine) for each of K numbers, which are all combined in one way, or each in its own.
template <int K, class... Combine, class F>
DEVICE void for_each_number(const F& f) {
  int k = 0;
  if constexpr (sizeof...(Combine) == K) {
    (f(k++, Combine()), ...);
  } else {
#pragma unroll
    for (; k < K; ++k) (f(k, Combine()), ...);
  }
}

struct Smaller {
  template <class A>
  DEVICE A operator()(A a, A b) const {
    return b < a ? b : a;
  }
};

// Threads that share a row, and each of K numbers combined over them.
struct WarpTeam {
  DEVICE int rank() const { return threadIdx.x % kWarp; }

  template <class... Combine, class A, int K>
  DEVICE void combine(A (&x)[K]) const {
#pragma unroll
    for (int offset = kWarp / 2; offset > 0; offset /= 2) {
      for_each_number<K, Combine...>(
          [&](int k, auto combine) { x[k] = combine(x[k], __shfl_xor_sync(kAllLanes, x[k], offset)); });
    }
  }
};

// Bins of a histogram, of which each lane of a warp looks at some that lie side by side.
constexpr int kBins = 256;
constexpr int kBinsOfLane = kBins / kWarp;

struct Bin {
  int index;
  uint32_t above;  // the items in all higher bins
  uint32_t count;  // its own
};

// A block's histogram of the items that its threads count, each its own, with `count(bins)`. A barrier has to follow
// before the next one.
template <class Count>
DEVICE const uint32_t* histogram(const Count& count) {
  SHARED_ARRAY(uint32_t, bins, kBins);
  for (int bin = threadIdx.x; bin < kBins; bin += blockDim.x) bins[bin] = 0;
  __syncthreads();
  count(bins);
  __syncthreads();
  return bins;
}

// The highest bin that with all higher ones holds `wanted` items; where all together do not, none, which has no items
// and has all of them above it. `counts(first, out)` gives those of a lane. The first warp looks, for the whole block.
template <class Counts>
DEVICE Bin find_bin(uint32_t wanted, const Counts& counts) {
  SHARED_ARRAY(Bin, found, 1);
  if (threadIdx.x < kWarp) {
    const int lane = threadIdx.x, first = lane * kBinsOfLane;
    uint32_t own[kBinsOfLane], all = 0;
    counts(first, own);
#pragma unroll
    for (int bin = 0; bin < kBinsOfLane; ++bin) all += own[bin];
    // Of this lane and all higher ones.
    uint32_t reached = all;
#pragma unroll
    for (int offset = 1; offset < kWarp; offset *= 2) {
      const uint32_t higher = __shfl_sync(kAllLanes, reached, (lane + offset) % kWarp);
      if (lane + offset < kWarp) reached += higher;
    }
    if (lane == 0 && reached < wanted) found[0] = {-1, reached, 0};
    uint32_t above = reached - all;
#pragma unroll
    for (int bin = kBinsOfLane - 1; bin >= 0; --bin) {
      if (above < wanted && wanted <= above + own[bin]) found[0] = {first + bin, above, own[bin]};
      above += own[bin];
    }
  }
  __syncthreads();
  return found[0];
}

struct BlockTeam {
  template <class... Combine, class A, int K>
  DEVICE void combine(A (&x)[K]) const {
    SHARED_ARRAY(A, partial, K * kMaxWarps);
    WarpTeam().combine<Combine...>(x);
    const int warps = blockDim.x / kWarp;
    if (threadIdx.x % kWarp == 0) {
#pragma unroll
      for (int k = 0; k < K; ++k) partial[k * kMaxWarps + threadIdx.x / kWarp] = x[k];
    }
    __syncthreads();
    for_each_number<K, Combine...>([&](int k, auto combine) {
      x[k] = partial[k * kMaxWarps];
      for (int warp = 1; warp < warps; ++warp) x[k] = combine(x[k], partial[k * kMaxWarps + warp]);
    });
    // The next call writes where this one reads.
    __syncthreads();
  }

  // The bin that find_bin finds among the items that the threads count.
  template <class Count>
  DEVICE Bin highest_bin(uint32_t wanted, const Count& count) const {
    const uint32_t* const bins = histogram(count);
    return find_bin(wanted, [&](int first, uint32_t (&counts)[kBinsOfLane]) {
#pragma unroll
      for (int bin = 0; bin < kBinsOfLane; ++bin) counts[bin] = bins[first + bin];
    });
  }
};

template <class Combine, class Team, class A>
DEVICE A combined(const Team& team, A x) {
  A value[1] = {x};
  team.template combine<Combine>(value);
  return value[0];
}

// Threads for a block with `items` to share: a power of two, so that few block sizes occur.
inline int block_threads(int64_t items) {
  int threads = kWarp;
  while (threads < kMaxThreads && threads < items) threads *= 2;
  return threads;
}

}  // namespace fastadv
