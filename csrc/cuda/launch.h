// The one way from the host to a kernel, in the words that a CUDA device and the block simulator of the tests share:
//
//   KERNEL name(...) { ... }                        for blocks of up to kMaxThreads
//   KERNEL_FOR(threads) name(...) { ... }           for smaller ones, which may take more registers
//   KERNEL_OF(threads, blocks) name(...) { ... }    so few registers that a multiprocessor holds so many blocks
//   DEVICE type name(...) { ... }                   what kernels call
//   SHARED_ARRAY(type, name, count)                 a block's shared memory, as a local variable of a kernel
//   SHARED_ROOM(type, name)                         more of it, as many bytes as the launch asks for
//   LAUNCH(kernel, blocks, threads, device, ...)    blocks from 1 on, threads a multiple of 32
//   LAUNCH_CLUSTERS(kernel, clusters, device, ...)  blocks that run at one time and reach each other's shared memory,
//                                                   where clusters_at_once(kernel, clusters, device) is not 0
//   Cluster::...                                    what a block of these knows, if kHasClusters
//   copy_later(shared, from), await_copies()        16 bytes that go from global to shared memory past the registers
//   prefetch(from)                                  the line of kLineBytes around it goes to the L2 cache; none waits
//   computed_anew(x)                                x, of which nothing is known: what follows from it is made again
//   REGISTER_OPS(m) { m.impl(...); }
//
// Kernels keep to what the simulator knows: one-dimensional grids, __syncthreads, shuffles and ballots of whole
// warps, atomicAdd of counts; no inline PTX, no CUB, no cooperative groups beside Cluster. Nothing here waits for the
// device, and memory comes from PyTorch's allocator alone, so every op can be captured in a CUDA graph.
#pragma once

#include "../common/tensor.h"

namespace fastadv {

// Blocks of a cluster, at most: more than 8 of them not every GPU from sm_90 on can run.
constexpr int kMostClusterBlocks = 16;
// Bytes of a line of the L2 cache.
constexpr int kLineBytes = 128;

// A launch of `count` clusters of `blocks` blocks of `threads` threads, each with so many bytes of SHARED_ROOM.
struct Clusters {
  int64_t count;
  int blocks;
  int threads;
  int64_t bytes;

  // Whether a device runs as many of them at a time as of others, which does not depend on how many there are.
  bool resembles(const Clusters& other) const {
    return blocks == other.blocks && threads == other.threads && bytes == other.bytes;
  }
};

}  // namespace fastadv

#ifdef FASTADV_SIMULATOR
#include "simulator.h"
#else

#include <cooperative_groups.h>
#include <cuda_pipeline_primitives.h>
#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>

namespace fastadv {

// While it lives, the device of a tensor is the current one; it knows that device's current stream.
class Device {
 public:
  explicit Device(const Tensor& x) : guard_(x.get_device_index()) {
    void* stream;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(x.get_device_index(), &stream));
    stream_ = static_cast<cudaStream_t>(stream);
  }

  cudaStream_t stream() const { return stream_; }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_;
};

inline void require_launched(cudaError_t error = cudaGetLastError()) {
  if (error == cudaSuccess) return;
  // The runtime remembers what a call has returned, and a caller that goes on must not hear it of the next launch.
  static_cast<void>(cudaGetLastError());
  throw std::runtime_error(std::string("fastadv: ") + cudaGetErrorString(error));
}

// A launch of clusters in the terms of the runtime; made where it is used, as it holds its own address.
class ClusterLaunch {
 public:
  ClusterLaunch(const Clusters& clusters, const Device& device) {
    require(clusters.count * clusters.blocks <= 0x7fffffff, "the tensors are too large for one launch");
    attribute_.id = cudaLaunchAttributeClusterDimension;
    attribute_.val.clusterDim = {static_cast<unsigned>(clusters.blocks), 1, 1};
    config_.gridDim = dim3(static_cast<unsigned>(clusters.count * clusters.blocks));
    config_.blockDim = dim3(static_cast<unsigned>(clusters.threads));
    config_.dynamicSmemBytes = static_cast<size_t>(clusters.bytes);
    config_.stream = device.stream();
    config_.attrs = &attribute_;
    config_.numAttrs = 1;
  }
  ClusterLaunch(const ClusterLaunch&) = delete;
  ClusterLaunch& operator=(const ClusterLaunch&) = delete;

  operator const cudaLaunchConfig_t*() const { return &config_; }

 private:
  cudaLaunchAttribute attribute_{};
  cudaLaunchConfig_t config_{};
};

// Asks the runtime how many such clusters the current device runs at a time, and tells it that a block of the kernel may
// have all of the shared memory and a cluster more than 8 blocks.
template <class... Parameters>
int ask_clusters_at_once(void (*kernel)(Parameters...), const Clusters& clusters, const Device& device, int index) {
  cudaFuncAttributes own;
  require_launched(cudaFuncGetAttributes(&own, kernel));
  // What an older architecture was given, which a newer GPU may run, is empty.
  if (own.ptxVersion < 90) return 0;
  int room;
  require_launched(cudaDeviceGetAttribute(&room, cudaDevAttrMaxSharedMemoryPerBlockOptin, index));
  const int most = room - static_cast<int>(own.sharedSizeBytes);
  if (clusters.bytes > most) return 0;
  require_launched(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most));
  require_launched(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
  int running = 0;
  const bool known = cudaOccupancyMaxActiveClusters(&running, kernel, ClusterLaunch(clusters, device)) == cudaSuccess;
  // A size that this GPU never runs is an error to the runtime, of which the next launch must not hear.
  if (!known) static_cast<void>(cudaGetLastError());
  return known ? running : 0;
}

// How many such clusters the device runs at a time; asked before each launch of them. A thread remembers its last answer,
// as the steps of an attack all ask the same.
template <class... Parameters>
int clusters_at_once(void (*kernel)(Parameters...), const Clusters& clusters, const Device& device) {
  struct Answer {
    void (*kernel)(Parameters...);
    Clusters clusters;
    int index;
    int running;
  };
  thread_local Answer last{};
  int index;
  require_launched(cudaGetDevice(&index));
  if (last.kernel != kernel || !last.clusters.resembles(clusters) || last.index != index) {
    last = {kernel, clusters, index, ask_clusters_at_once(kernel, clusters, device, index)};
  }
  return last.running;
}

template <class... Parameters, class... Arguments>
void launch_clusters(void (*kernel)(Parameters...), const Clusters& clusters, const Device& device,
                     const Arguments&... arguments) {
  const ClusterLaunch launch(clusters, device);
  require_launched(cudaLaunchKernelEx(static_cast<const cudaLaunchConfig_t*>(launch), kernel, arguments...));
}

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
#define FASTADV_CLUSTERS 1
#else
#define FASTADV_CLUSTERS 0
#endif

// Kernels for clusters are empty where there are none.
constexpr bool kHasClusters = FASTADV_CLUSTERS;

// A thread's own cluster; before sm_90 its block alone.
struct Cluster {
#if FASTADV_CLUSTERS
  using Group = cooperative_groups::cluster_group;
  __device__ static int size() { return static_cast<int>(Group::num_blocks()); }
  __device__ static int rank() { return static_cast<int>(Group::block_rank()); }
  // Of all threads of the cluster.
  __device__ static void barrier() { Group::sync(); }
  // Where in the block of this rank the variable lies that is at `shared` in one's own.
  template <class A>
  __device__ static A* in_block(A* shared, int rank) {
    return Group::map_shared_rank(shared, rank);
  }
#else
  __device__ static int size() { return 1; }
  __device__ static int rank() { return 0; }
  __device__ static void barrier() { __syncthreads(); }
  template <class A>
  __device__ static A* in_block(A* shared, int) {
    return shared;
  }
#endif
};

__device__ __forceinline__ void copy_later(void* shared, const void* from) {
  __pipeline_memcpy_async(shared, from, 16);
}
// Until all that this thread has copied is there; what others have copied is after a barrier.
__device__ __forceinline__ void await_copies() {
  __pipeline_commit();
  __pipeline_wait_prior(0);
}
__device__ __forceinline__ void prefetch(const void* from) { asm volatile("prefetch.global.L2 [%0];" ::"l"(from)); }

// Writes what the kernel does not read again to global memory, at once: to the compiler an assignment of 16 bytes is one
// of so many elements, of which it does not always make one access.
template <class Packed>
__device__ __forceinline__ void write_at_once(Packed* to, const Packed& packed) {
  if constexpr (sizeof(Packed) == 16) {
    uint4 word;
    memcpy(&word, &packed, sizeof word);
    asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to)), "r"(word.x),
                 "r"(word.y), "r"(word.z), "r"(word.w));
  } else if constexpr (sizeof(Packed) == 8) {
    uint2 word;
    memcpy(&word, &packed, sizeof word);
    asm volatile("st.global.v2.b32 [%0], {%1, %2};" ::"l"(__cvta_generic_to_global(to)), "r"(word.x), "r"(word.y));
  } else {
    *to = packed;
  }
}

// No instruction, but to the compiler the result is a number it knows nothing of.
__device__ __forceinline__ float computed_anew(float x) {
  asm volatile("" : "+f"(x));
  return x;
}
__device__ __forceinline__ double computed_anew(double x) {
  asm volatile("" : "+d"(x));
  return x;
}

}  // namespace fastadv

#define SHARED_ARRAY(type, name, count) __shared__ type name[count]
#define SHARED_ROOM(type, name)                                \
  extern __shared__ __align__(16) unsigned char shared_room[]; \
  type* const name = reinterpret_cast<type*>(shared_room)

#define LAUNCH(kernel, blocks, threads, device, ...)                                             \
  do {                                                                                           \
    const auto stream = (device).stream();                                                       \
    kernel<<<::fastadv::grid(blocks), static_cast<unsigned>(threads), 0, stream>>>(__VA_ARGS__); \
    ::fastadv::require_launched();                                                               \
  } while (false)

#define LAUNCH_CLUSTERS(kernel, clusters, device, ...) ::fastadv::launch_clusters(kernel, clusters, device, __VA_ARGS__)

#define REGISTER_OPS(m) STABLE_TORCH_LIBRARY_IMPL(fastadv, CUDA, m)

#endif

#define DEVICE __device__ __forceinline__
// One block a multiprocessor is all that is asked for: the compiler would spill registers for the occupancy it aims at
// otherwise.
#define KERNEL_FOR(threads) KERNEL_OF(threads, 1)
#define KERNEL_OF(threads, blocks) __global__ void __launch_bounds__(threads, blocks)
#define KERNEL KERNEL_FOR(::fastadv::kMaxThreads)

namespace fastadv {

constexpr int kMaxThreads = 512;

inline unsigned grid(int64_t blocks) {
  require(blocks <= 0x7fffffff, "the tensors are too large for one launch");
  return static_cast<unsigned>(blocks);
}

// Indices on a device are not read here, which would wait for it: of a sample whose index is none a kernel makes NaN, or
// takes the nearest index that is one.
inline void require_indices(const char*, const int64_t*, int64_t, int64_t, int64_t) {}

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace fastadv
