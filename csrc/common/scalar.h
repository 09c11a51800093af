// Functions of numbers that every compiled backend shares. FASTADV_INLINE marks what runs on the host and, where nvcc
// compiles it, on a device too.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define FASTADV_INLINE __host__ __device__ __forceinline__
#else
#define FASTADV_INLINE inline __attribute__((always_inline))
#endif

// Results are promised to the bit. GCC is told so function by function, see FASTADV_EXACT; Clang takes it from where an
// expression is written, and every formula comes after this line.
#ifdef __clang__
#pragma clang fp contract(off)
#endif

namespace fastadv {

template <class To, class From>
FASTADV_INLINE To bits(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

// Without a branch, which signs at random would make the processor guess.
template <class A>
FASTADV_INLINE A absolute(A x) {
  return std::fabs(x);
}

}  // namespace fastadv
