// Kernels with one fault each, to show that the simulator finds it.
#include <cstdio>
#include <string_view>

#include "../../csrc/cuda/block.h"

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

}  // namespace

// Runs the kernel of that name in two blocks of 64 threads; `out` has room for 64 numbers, and what went wrong is left in
// `message`.
extern "C" __attribute__((visibility("default"))) void run_faulty(const char* name, float* out, char* message,
                                                                  size_t size) {
  const std::string_view wanted = name;
  message[0] = 0;
  const auto run = [&](std::string_view candidate, auto kernel) {
    if (candidate != wanted) return false;
    simulator::machine().run(2, 64, [&] { kernel(out); });
    return true;
  };
  try {
    if (!(run("reverse", reverse<true>) || run("reverse_without_barrier", reverse<false>) ||
          run("barrier_for_some", barrier_for_some) || run("shuffle_for_some", shuffle_for_some) ||
          run("shuffle_outside_of_its_mask", shuffle_outside_of_its_mask) ||
          run("shuffle_from_outside_of_the_mask", shuffle_from_outside_of_the_mask) ||
          run("different_shuffles", different_shuffles) || run("too_much_shared_memory", too_much_shared_memory))) {
      throw std::runtime_error("there is no such kernel");
    }
  } catch (const std::exception& error) {
    std::snprintf(message, size, "%s", error.what());
  }
}
