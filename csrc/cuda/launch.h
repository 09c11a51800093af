// The one way from the host to a kernel, in the words that a CUDA device and the block simulator of the tests share:
//
//   KERNEL name(...) { ... }                        for blocks of up to kMaxThreads
//   KERNEL_FOR(threads) name(...) { ... }           for smaller ones, which may take more registers
//   DEVICE type name(...) { ... }                   what kernels call
//   SHARED_ARRAY(type, name, count)                 a block's shared memory, as a local variable of a kernel
//   LAUNCH(kernel, blocks, threads, device, ...)    blocks from 1 on, threads a multiple of 32
//   REGISTER_OPS(m) { m.impl(...); }
//
// Kernels keep to what the simulator knows: one-dimensional grids, static shared memory, __syncthreads and the
// __shfl_xor_sync of whole warps; no inline PTX, no CUB, no cooperative groups. Nothing here waits for the device, and
// memory comes from PyTorch's allocator alone, so every op can be captured in a CUDA graph.
#pragma once

#include "../common/tensor.h"

#ifdef FASTADV_SIMULATOR
#include "simulator.h"
#else

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

inline void require_launched() {
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) throw std::runtime_error(std::string("fastadv: ") + cudaGetErrorString(error));
}

}  // namespace fastadv

#define SHARED_ARRAY(type, name, count) __shared__ type name[count]

#define LAUNCH(kernel, blocks, threads, device, ...)                                             \
  do {                                                                                           \
    const auto stream = (device).stream();                                                       \
    kernel<<<::fastadv::grid(blocks), static_cast<unsigned>(threads), 0, stream>>>(__VA_ARGS__); \
    ::fastadv::require_launched();                                                               \
  } while (false)

#define REGISTER_OPS(m) STABLE_TORCH_LIBRARY_IMPL(fastadv, CUDA, m)

#endif

#define DEVICE __device__ __forceinline__
// One block a multiprocessor is all that is asked for: the compiler would spill registers for the occupancy it aims at
// otherwise.
#define KERNEL_FOR(threads) __global__ void __launch_bounds__(threads, 1)
#define KERNEL KERNEL_FOR(::fastadv::kMaxThreads)

namespace fastadv {

constexpr int kMaxThreads = 512;

inline unsigned grid(int64_t blocks) {
  require(blocks <= 0x7fffffff, "the tensors are too large for one launch");
  return static_cast<unsigned>(blocks);
}

// Indices on a device are not read here, which would wait for it: a kernel makes NaN of a sample whose index is none.
inline void require_indices(const char*, const int64_t*, int64_t, int64_t) {}

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace fastadv
