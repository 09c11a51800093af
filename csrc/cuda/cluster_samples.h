// l2 and l1 steps and projections of samples that no block can hold, on GPUs with clusters: each block of a cluster
// copies its part of the points, the centres and the direction to shared memory, all of it at once, and every further
// pass reads that. Global memory is read and written once. The first pass after a step leaves the moved points in place
// of those before, but for half precision. While a cluster is at its passes, memory has time to bring what the cluster
// after it will copy to the L2 cache.
#pragma once

#include "cluster.h"
#include "step.h"

namespace fastadv {

// `share`: the elements of a block's part. `ahead`: how many samples are under way at a time. In double the registers do
// not suffice for two blocks.
template <Norm kNorm, int kWidth, class T, class A, class Rule>
KERNEL_OF(kClusterThreads, sizeof(A) == 4 ? 2 : 1)
move_clusters(Step<T, A> step, const T* direction /* [N, D] */, Rule rule, int share, int ahead) {
  if constexpr (kHasClusters) {
    SHARED_ROOM(T, room);
    const int64_t n = blockIdx.x / Cluster::size();
    const ClusterPart part(step.size, share);
    const int64_t begin = n * step.size + part.first;
    const int each = share + kVector<T>;
    T* const x = copy_run(room, step.x + begin, part.size);
    const T* const x0 = copy_run(room + each, step.x0 + begin, part.size);
    Stored<T> along{nullptr};
    if constexpr (Rule::kDirected) along.from = copy_run(room + 2 * each, direction + begin, part.size);
    Ball<A> ball = step.ball;
    ball.eps = step.eps[n];
    await_copies();
    Cluster::barrier();
    if (n + ahead < gridDim.x / Cluster::size()) {
      const int64_t next = begin + ahead * step.size;
      prefetch_run(step.x + next, part.size);
      prefetch_run(step.x0 + next, part.size);
      if constexpr (Rule::kDirected) prefetch_run(direction + next, part.size);
    }
    move_sample<false, kWidth>(ClusterTeam(), x, along, x0, rule, step.step_size[n], ball, kNorm, step.out + begin,
                               part.size);
  }
}

// Moves all samples along `direction` [N, D], which may be null where the rules stay; false where the GPU has no
// clusters that hold a sample, or none is needed.
template <class Rules, class T, class A>
bool move_in_clusters(const Rules& rules, const Step<T, A>& step, const T* direction, const Device& device) {
  if (step.norm == Norm::kLinf || step.size <= kHeldSample<A> || step.samples == 0) return false;
  const int64_t arrays = direction ? 3 : 2;
  const int blocks = cluster_blocks(arrays * step.size * static_cast<int64_t>(sizeof(T)), step.samples);
  const int share = cluster_share<T>(step.size, blocks);
  const int64_t bytes = arrays * copy_room<T>(share);
  const Clusters clusters{step.samples, blocks, cluster_threads(share / kVector<T>), bytes};
  const bool vectors = step.size % kVector<T> == 0 && aligned<kVector<T>>(step.x, direction, step.x0, step.out);
  bool moved = false;
  const auto launch = [&](auto norm, auto width) {
    constexpr Norm kNorm = decltype(norm)::value;
    const auto rule = rules.template rule<kNorm, A>();
    const auto kernel = move_clusters<kNorm, decltype(width)::value, T, A, std::remove_const_t<decltype(rule)>>;
    const int ahead = clusters_at_once(kernel, clusters, device);
    moved = ahead > 0;
    if (moved) LAUNCH_CLUSTERS(kernel, clusters, device, step, direction, rule, share, ahead);
  };
  const auto with_norm = [&](auto width) {
    if (step.norm == Norm::kL2) {
      launch(std::integral_constant<Norm, Norm::kL2>(), width);
    } else {
      launch(std::integral_constant<Norm, Norm::kL1>(), width);
    }
  };
  // Of half precision 8 bytes at a time, for which there are registers.
  if (vectors) {
    with_norm(Width<16 / static_cast<int>(sizeof(A))>());
  } else {
    with_norm(Width<1>());
  }
  return moved;
}

}  // namespace fastadv
