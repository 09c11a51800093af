// Sums and maxima over the threads of a warp or a block. They are taken in one fixed order, so results never vary from
// run to run, and every thread receives the same bits.
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

// Threads that share a row: `rank` of `size`, and each of K numbers combined over them.
struct WarpTeam {
  DEVICE int rank() const { return threadIdx.x % kWarp; }
  DEVICE int size() const { return kWarp; }

  template <class Combine, class A, int K>
  DEVICE void combine(A (&x)[K]) const {
#pragma unroll
    for (int offset = kWarp / 2; offset > 0; offset /= 2) {
#pragma unroll
      for (int k = 0; k < K; ++k) x[k] = Combine()(x[k], __shfl_xor_sync(kAllLanes, x[k], offset));
    }
  }
};

struct BlockTeam {
  DEVICE int rank() const { return threadIdx.x; }
  DEVICE int size() const { return blockDim.x; }

  template <class Combine, class A, int K>
  DEVICE void combine(A (&x)[K]) const {
    SHARED_ARRAY(A, partial, K * kMaxWarps);
    WarpTeam().combine<Combine>(x);
    const int warps = blockDim.x / kWarp;
    if (threadIdx.x % kWarp == 0) {
#pragma unroll
      for (int k = 0; k < K; ++k) partial[k * kMaxWarps + threadIdx.x / kWarp] = x[k];
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < K; ++k) {
      x[k] = partial[k * kMaxWarps];
      for (int warp = 1; warp < warps; ++warp) x[k] = Combine()(x[k], partial[k * kMaxWarps + warp]);
    }
    // The next call writes where this one reads.
    __syncthreads();
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
