// Kernels with one fault each, to show that the simulator finds it.
#include <cstdio>
#include <string_view>

#include "../../csrc/cuda/cluster.h"

namespace {

using fastadv::kAllLanes;

// Every thread passes its index on through shared memory to the thread that faces it.
template <bool kBarrier>
__global__ void reverse(float* out) {
  SHARED_ARRAY(float, passed, 64);
  passed[threadIdx.x] = static_cast<float>(threadIdx.x);
  if (kBarrier) __syncthreads();
  out[threadIdx.x] = passed[63 - threadIdx.x];
}

__global__ void barrier_for_some(float*) {
  if (threadIdx.x < 40) __syncthreads();
}

__global__ void shuffle_for_some(float* out) {
  if (threadIdx.x % 32 < 20) out[threadIdx.x] = __shfl_xor_sync(kAllLanes, 1.0f, 1);
}

__global__ void shuffle_outside_of_its_mask(float* out) { out[threadIdx.x] = __shfl_xor_sync(0xffffu, 1.0f, 1); }

__global__ void shuffle_from_outside_of_the_mask(float* out) {
  if (threadIdx.x % 32 < 16) out[threadIdx.x] = __shfl_xor_sync(0xffffu, 1.0f, 16);
}

__global__ void different_shuffles(float* out) {
  if (threadIdx.x % 2) {
    out[threadIdx.x] = __shfl_xor_sync(kAllLanes, 1.0f, 1);
  } else {
    out[threadIdx.x] = static_cast<float>(__shfl_xor_sync(kAllLanes, 1.0, 1));
  }
}

__global__ void too_much_shared_memory(float* out) {
  SHARED_ARRAY(double, large, 7000);
  out[threadIdx.x] = static_cast<float>(large[threadIdx.x]);
}

// Every thread passes its index on to the thread that faces it in the other block of its cluster.
template <bool kBarrier>
__global__ void face_the_other_block(float* out) {
  using fastadv::Cluster;
  SHARED_ARRAY(float, passed, 64);
  const int other = 1 - Cluster::rank();
  Cluster::barrier();
  Cluster::in_block(passed, other)[63 - threadIdx.x] = static_cast<float>(threadIdx.x);
  if (kBarrier) Cluster::barrier();
  if (Cluster::rank() == 0) out[threadIdx.x] = passed[threadIdx.x];
  if (!kBarrier) Cluster::barrier();
}

__global__ void cluster_barrier_for_some(float*) {
  if (threadIdx.x < 40) fastadv::Cluster::barrier();
}

__global__ void block_that_has_ended(float* out) {
  SHARED_ARRAY(float, passed, 64);
  if (fastadv::Cluster::rank() == 1) return;
  for (int turn = 0; turn < 3; ++turn) __syncthreads();
  out[threadIdx.x] = fastadv::Cluster::in_block(passed, 1)[threadIdx.x];
}

// A thread waits for what it has copied, and a barrier for what the others have.
template <bool kAwait>
__global__ void copy_later_and_reverse(float* out) {
  SHARED_ROOM(float, copied);
  if (threadIdx.x < 16) fastadv::copy_later(copied + 4 * threadIdx.x, out + 4 * threadIdx.x);
  if (kAwait) fastadv::await_copies();
  __syncthreads();
  out[threadIdx.x] = copied[63 - threadIdx.x];
}

}  // namespace

// Runs the kernel of that name in two blocks of 64 threads, which are a cluster; `out` has room for 64 numbers, and what
// went wrong is left in `message`.
extern "C" __attribute__((visibility("default"))) void run_faulty(const char* name, float* out, char* message,
                                                                  size_t size) {
  const std::string_view wanted = name;
  message[0] = 0;
  const auto run = [&](std::string_view candidate, auto kernel) {
    if (candidate != wanted) return false;
    simulator::machine().run(2, 64, [&] { kernel(out); }, 2, 64 * sizeof(float));
    return true;
  };
  try {
    if (!(run("reverse", reverse<true>) || run("reverse_without_barrier", reverse<false>) ||
          run("barrier_for_some", barrier_for_some) || run("shuffle_for_some", shuffle_for_some) ||
          run("shuffle_outside_of_its_mask", shuffle_outside_of_its_mask) ||
          run("shuffle_from_outside_of_the_mask", shuffle_from_outside_of_the_mask) ||
          run("different_shuffles", different_shuffles) || run("too_much_shared_memory", too_much_shared_memory) ||
          run("face_the_other_block", face_the_other_block<true>) ||
          run("face_the_other_block_without_barrier", face_the_other_block<false>) ||
          run("cluster_barrier_for_some", cluster_barrier_for_some) ||
          run("block_that_has_ended", block_that_has_ended) ||
          run("copy_and_reverse", copy_later_and_reverse<true>) ||
          run("copy_without_waiting", copy_later_and_reverse<false>))) {
      throw std::runtime_error("there is no such kernel");
    }
  } catch (const std::exception& error) {
    std::snprintf(message, size, "%s", error.what());
  }
}
