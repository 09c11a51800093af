// Beside the stable ABI, what the C++ ops share: numbers in the accumulation precision, threads, working memory.
#pragma once

#include <vector>

#include "../common/tensor.h"
#include "vec.h"

#define REGISTER_OPS(m) STABLE_TORCH_LIBRARY_IMPL(fastadv, CPU, m)

namespace fastadv {

// Numbers in the accumulation precision: as they are, or converted into a buffer.
template <class A, class T>
FASTADV_INLINE const A* converted(const T* x, int64_t size, A* buffer) {
  if constexpr (std::is_same_v<T, A>) {
    return x;
  } else {
    for (int64_t i = 0; i < size; ++i) buffer[i] = static_cast<A>(x[i]);
    return buffer;
  }
}

// The numbers of `count` samples from `first` on.
template <class A>
FASTADV_INLINE void copy_numbers(const PerSample<A>& numbers, int64_t first, int64_t count, A* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = numbers[first + i];
}

// Writes number(i) for i from 0 to `size`, rounded to T. What half precision is computed in is rounded in a loop of its
// own: in one loop, the compiler would carry the masks of comparisons from vectors of one width to those of another.
template <class A, class T, class Number>
FASTADV_INLINE void write(T* out, int64_t size, const Number& number) {
  if constexpr (std::is_same_v<T, A>) {
    for (int64_t i = 0; i < size; ++i) out[i] = number(i);
  } else {
    A numbers[kBlock];
    for (int64_t begin = 0; begin < size; begin += kBlock) {
      const int64_t count = smaller(size - begin, kBlock);
      for (int64_t i = 0; i < count; ++i) numbers[i] = number(begin + i);
      for (int64_t i = 0; i < count; ++i) out[begin + i] = static_cast<T>(numbers[i]);
    }
  }
}

inline void require_indices(const char* name, const int64_t* index, int64_t samples, int64_t first, int64_t end) {
  for (int64_t n = 0; n < samples; ++n) {
    if (index[n] >= first && index[n] < end) continue;
    throw std::invalid_argument(std::string(name) + " must lie in [" + std::to_string(first) + ", " +
                                std::to_string(end) + "), got " + std::to_string(index[n]) + " at position " +
                                std::to_string(n));
  }
}

// Calls `f(begin, end)` on PyTorch's threads, as soon as there is work enough to wake one.
template <class F>
void parallel(int64_t count, int64_t elements_each, const F& f) {
  constexpr int64_t kWorthAThread = 1 << 16;
  if (count == 0) return;
  const int64_t grain = 1 + kWorthAThread / (elements_each + 1);
  if (count <= grain) return f(int64_t{0}, count);
  torch::stable::parallel_for(0, count, grain, f);
}

// Working memory of the calling thread, kept from call to call. It begins with a cache line, since a vector that lies
// across two of them costs two accesses.
template <class A>
A* scratch(int64_t count) {
#ifdef __SANITIZE_ADDRESS__
  // No more than is asked for, so that an access beyond it is seen.
  static thread_local std::vector<A> memory;
  memory = std::vector<A>(count);
  return memory.data();
#else
  struct alignas(64) Line {
    A numbers[64 / sizeof(A)];
  };
  static thread_local std::vector<Line> memory;
  const size_t lines = count * sizeof(A) / sizeof(Line) + 1;
  if (memory.size() < lines) memory.resize(lines);
  return memory.data()->numbers;
#endif
}

}  // namespace fastadv
