// What a cluster keeps in the shared memory of its blocks, and sums and histograms over all of it.
#pragma once

#include "block.h"
#include "memory.h"

namespace fastadv {

// Bytes of a block of which a multiprocessor holds two, beside the sums of their teams: while one waits for its
// cluster, the other moves its bytes.
constexpr int64_t kHalfRoom = 113'000;
// Threads of such a block, which leave 80 registers to each.
constexpr int kClusterThreads = 384;
// Blocks that fill a GPU.
constexpr int64_t kEnoughClusterBlocks = 256;
// To fill one, clusters are not cut into smaller parts.
constexpr int64_t kLeastRoom = 8192;

// Of how many blocks each of `count` clusters is that holds so many bytes, if it can be no more than `most` in each.
inline int cluster_blocks(int64_t bytes, int64_t count, int64_t most = kHalfRoom) {
  const auto wanted = [&](int64_t blocks) {
    return bytes > blocks * most || (count * blocks < kEnoughClusterBlocks && bytes >= 2 * blocks * kLeastRoom);
  };
  int blocks = 1;
  while (blocks < kMostClusterBlocks && wanted(blocks)) blocks *= 2;
  return blocks;
}

// Threads of a block for so many runs of elements.
inline int cluster_threads(int64_t runs) {
  const int64_t threads = divide_up(runs, kWarp) * kWarp;
  return static_cast<int>(threads < kWarp ? kWarp : threads < kClusterThreads ? threads : kClusterThreads);
}

// The part of a block of what a cluster shares out: `share` elements each but for the last ones.
struct ClusterPart {
  int64_t first;
  int size;

  DEVICE ClusterPart(int64_t whole, int share) : first(int64_t{Cluster::rank()} * share) {
    const int64_t left = whole - first;
    size = left < share ? static_cast<int>(left > 0 ? left : 0) : share;
  }
};

// Elements of such a share: a multiple of 16 bytes.
template <class T>
int cluster_share(int64_t whole, int blocks) {
  return static_cast<int>(divide_up(divide_up(whole, blocks), kVector<T>)) * kVector<T>;
}

// Room for a copy of so many elements.
template <class T>
constexpr int64_t copy_room(int64_t elements) {
  return static_cast<int64_t>(sizeof(T)) * (elements + kVector<T>);
}

// Copies a run of elements to `room`, with the whole block, 16 bytes at a time but for its ends, and returns where they
// will be: as far beyond a multiple of 16 bytes as in memory. await_copies and a barrier have to follow.
template <class T>
DEVICE T* copy_run(T* room, const T* from, int count) {
  const int shift = static_cast<int>(reinterpret_cast<uintptr_t>(from) / sizeof(T) % kVector<T>);
  const int until_aligned = (kVector<T> - shift) % kVector<T>;
  const int head = until_aligned < count ? until_aligned : count, runs = (count - head) / kVector<T>;
  T* const to = room + shift;
  for (int run = threadIdx.x; run < runs; run += blockDim.x) {
    copy_later(to + head + run * kVector<T>, from + head + run * kVector<T>);
  }
  const int thread = threadIdx.x, tail = head + runs * kVector<T>;
  if (thread < head) to[thread] = from[thread];
  if (tail + thread < count) to[tail + thread] = from[tail + thread];
  return to;
}

// Brings a run of elements to the L2 cache, with the whole block.
template <class T>
DEVICE void prefetch_run(const T* from, int count) {
  constexpr int kEach = kLineBytes / static_cast<int>(sizeof(T));
  for (int at = threadIdx.x * kEach; at < count; at += blockDim.x * kEach) prefetch(from + at);
}

// All threads of a cluster. One object lives as long as the kernel, whose blocks have all begun before it is first
// used, which Cluster::barrier() makes sure of.
class ClusterTeam {
 public:
  // Each block gives its own result to all, which combine them in the order of the ranks.
  template <class... Combine, class A, int K>
  DEVICE void combine(A (&x)[K]) const {
    static_assert(kMostClusterBlocks * K * sizeof(A) <= kSetBytes);
    BlockTeam().combine<Combine...>(x);
    A* const places = next_set<A>();
    const int blocks = Cluster::size(), thread = threadIdx.x;
    if (thread < blocks) {
      A* const there = Cluster::in_block(places, thread) + Cluster::rank() * K;
#pragma unroll
      for (int k = 0; k < K; ++k) there[k] = x[k];
    }
    Cluster::barrier();
#pragma unroll
    for (int k = 0; k < K; ++k) x[k] = places[k];
    for (int block = 1; block < blocks; ++block) {
      for_each_number<K, Combine...>([&](int k, auto combine) { x[k] = combine(x[k], places[block * K + k]); });
    }
  }

  // As a block's; each has fewer than 2^16 items. As others read its bins, no block may end before another barrier of
  // the cluster.
  template <class Count>
  DEVICE Bin highest_bin(uint32_t wanted, const Count& count) const {
    const uint32_t* const bins = histogram(count);
    // Two in a word, for they are read by all blocks.
    uint32_t* const pairs = next_set<uint32_t>();
    for (int pair = threadIdx.x; pair < kBins / 2; pair += blockDim.x) {
      pairs[pair] = bins[2 * pair] | bins[2 * pair + 1] << 16;
    }
    Cluster::barrier();
    return find_bin(wanted, [&](int first, uint32_t (&counts)[kBinsOfLane]) {
#pragma unroll
      for (int bin = 0; bin < kBinsOfLane; ++bin) counts[bin] = 0;
      for (int next = 0; next < Cluster::size(); ++next) {
        // Each block begins with another one.
        const uint32_t* const there = Cluster::in_block(pairs, (Cluster::rank() + next) % Cluster::size());
        uint32_t both[kBinsOfLane / 2];
        load(there + first / 2, both);
#pragma unroll
        for (int bin = 0; bin < kBinsOfLane; ++bin) counts[bin] += both[bin / 2] >> 16 * (bin % 2) & 0xffff;
      }
    });
  }

 private:
  // Two sets of places take turns, so that one barrier is enough: whoever writes to a set again, or has a block of the
  // others write to it, has since waited for all that read it.
  static constexpr int kSetBytes = 512;

  static_assert(kBins / 2 * sizeof(uint32_t) <= kSetBytes);

  // The same ones for numbers of all types.
  template <class A>
  DEVICE A* next_set() const {
    turn_ = 1 - turn_;
    return reinterpret_cast<A*>(sets()[turn_].bytes);
  }

  struct alignas(16) Set {
    unsigned char bytes[kSetBytes];
  };

  DEVICE static Set* sets() {
    SHARED_ARRAY(Set, both, 2);
    return both;
  }

  mutable int turn_ = 0;
};

}  // namespace fastadv
