// Reading and writing several neighbouring elements of a thread at once, 16 bytes where alignment allows.
#pragma once

#include <type_traits>

#include "launch.h"

namespace fastadv {

// Elements in the widest access.
template <class T>
constexpr int kVector = 16 / static_cast<int>(sizeof(T));

template <class T, int kWidth>
struct alignas(kWidth * sizeof(T)) Packed {
  T element[kWidth];
};

template <class T, int kWidth>
constexpr int kAccess = kWidth < kVector<T> ? kWidth : kVector<T>;

template <int kWidth, class T, class A>
DEVICE void load(const T* from, A (&x)[kWidth]) {
  constexpr int kEach = kAccess<T, kWidth>;
#pragma unroll
  for (int first = 0; first < kWidth; first += kEach) {
    const auto packed = *reinterpret_cast<const Packed<T, kEach>*>(from + first);
#pragma unroll
    for (int e = 0; e < kEach; ++e) x[first + e] = static_cast<A>(packed.element[e]);
  }
}

template <int kEach, class T, class A, int kWidth>
DEVICE Packed<T, kEach> packed_from(const A (&x)[kWidth], int first) {
  Packed<T, kEach> packed;
#pragma unroll
  for (int e = 0; e < kEach; ++e) packed.element[e] = static_cast<T>(x[first + e]);
  return packed;
}

template <int kWidth, class T, class A>
DEVICE void store(T* to, const A (&x)[kWidth]) {
  constexpr int kEach = kAccess<T, kWidth>;
#pragma unroll
  for (int first = 0; first < kWidth; first += kEach) {
    *reinterpret_cast<Packed<T, kEach>*>(to + first) = packed_from<kEach, T>(x, first);
  }
}

// To global memory, from which the kernel does not read it again, in accesses that the compiler does not split.
template <int kWidth, class T, class A>
DEVICE void store_at_once(T* to, const A (&x)[kWidth]) {
  constexpr int kEach = kAccess<T, kWidth>;
#pragma unroll
  for (int first = 0; first < kWidth; first += kEach) {
    write_at_once(reinterpret_cast<Packed<T, kEach>*>(to + first), packed_from<kEach, T>(x, first));
  }
}

// True where kWidth elements at each of these pointers can be read and written in the widest accesses.
template <int kWidth, class... T>
bool aligned(const T*... pointers) {
  return ((reinterpret_cast<uintptr_t>(pointers) % sizeof(Packed<T, kAccess<T, kWidth>>) == 0) && ...);
}

template <int kWidth>
using Width = std::integral_constant<int, kWidth>;

// Calls `f` with the number of elements a thread takes at once, as a type.
template <class T, class F>
void with_width(bool vectors, const F& f) {
  if (vectors) {
    f(Width<kVector<T>>());
  } else {
    f(Width<1>());
  }
}

}  // namespace fastadv
